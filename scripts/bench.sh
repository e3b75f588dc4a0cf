#!/usr/bin/env bash
# Measures what the README says can be measured. The argument is the directory of the release binaries.
set -euo pipefail
cd "$(dirname "$0")/.."
release=$(realpath "$1")

echo "== building the benchmarks"
cargo build --quiet --release --package cni --example bench
cargo build --quiet --release --package kernel --example scale --example services --example fast_path
cargo build --quiet --release --package cambric --example agent --example install
cargo build --quiet --release --package bgp --example receive

# Everything is measured, whatever misses its goal; then the whole has failed.
failed=0
measure() {
  echo "== $1"
  shift
  "$@" || failed=1
}

measure "a cluster of 5,000 nodes, seen from one of them" "$release/examples/scale" 5000
measure "the agent's process in it" "$release/examples/agent" "$release/cambric" nodes 5000
measure "services: programmed, changed, and connected through" "$release/examples/services"
measure "the fast path beside the kernel's own" "$release/examples/fast_path"
measure "the agent's process with 10,000 of them" "$release/examples/agent" "$release/cambric" services 10000
measure "CNI ADD and DEL beside the reference bridge + host-local, in turns on the same cores" \
  "$release/examples/bench" "$release/cambric-cni"
measure "100,000 BGP routes, received by this speaker, BIRD and GoBGP in turns" "$release/examples/receive" 100000 15
measure "100,000 BGP routes, from the peer to the kernel, by this speaker and BIRD" "$release/examples/install" 100000 5
exit "$failed"
