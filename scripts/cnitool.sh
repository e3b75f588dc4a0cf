#!/bin/sh
# Prints the path of cnitool, the CNI project's own runtime for tests, which is built if it is not there yet.
# Quick when there is nothing to do. CAMBRIC_CNITOOL names one that is there already.
set -eu

version=v1.3.0 # the first with status and gc, so with spec 1.1.0

if [ -n "${CAMBRIC_CNITOOL:-}" ]; then
    echo "$CAMBRIC_CNITOOL"
    exit 0
fi
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/cambric/cnitool-$version
if [ ! -x "$cache/cnitool" ]; then
    go=$(command -v go || echo /usr/local/go/bin/go)
    if [ ! -x "$go" ]; then
        { apt-get -qq update && apt-get -qq install -y --no-install-recommends golang-go; } >&2
        go=$(command -v go)
    fi
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    GOBIN=$work "$go" install "github.com/containernetworking/cni/cnitool@$version" >&2
    # Whoever is first wins; what loses is the same.
    mv -T "$work/cnitool" "$cache/cnitool"
fi
echo "$cache/cnitool"
