#!/usr/bin/env bash
# Measures what the README says can be measured. The argument is the directory of the release binaries.
set -euo pipefail
cd "$(dirname "$0")/.."
release=$(realpath "$1")

echo "== building the benchmarks"
cargo build --quiet --release --package cni --example bench
cargo build --quiet --release --package kernel --example scale
cargo build --quiet --release --package bgp --example receive

echo "== a cluster of 5,000 nodes, seen from one of them"
"$release/examples/scale" 5000

echo "== CNI ADD and DEL beside the reference bridge + host-local, in turns on the same cores"
"$release/examples/bench" "$release/cambric-cni"

echo "== 100,000 BGP routes, received by this speaker, BIRD and GoBGP in turns"
"$release/examples/receive" 100000 5
