#!/bin/sh
# Prints the paths of the kubectl programs that tests run, one a line: those in CAMBRIC_KUBECTL (separated by
# colons) if it is set, else the one on the PATH and Debian's. Debian's package conflicts with other packages that
# own /usr/bin/kubectl, so it is unpacked into a cache directory and not installed.
set -eu

if [ -n "${CAMBRIC_KUBECTL:-}" ]; then
    echo "$CAMBRIC_KUBECTL" | tr ':' '\n'
    exit 0
fi

on_path=$(command -v kubectl || true)
if [ -n "$on_path" ]; then
    echo "$on_path"
    # The one on the PATH may be Debian's itself.
    if dpkg -S "$on_path" 2>/dev/null | grep -q '^kubernetes-client:'; then
        exit 0
    fi
fi

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/cambric
debian=$cache/kubernetes-client/usr/bin/kubectl
if [ ! -x "$debian" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/unpack.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    if ! apt-get -qq download kubernetes-client >&2; then
        apt-get -qq update >&2
        apt-get -qq download kubernetes-client >&2
    fi
    dpkg-deb -x kubernetes-client_*.deb unpacked
    # Whoever is first wins; what loses is the same.
    mv -T unpacked "$cache/kubernetes-client" 2>/dev/null || [ -x "$debian" ]
fi
echo "$debian"
