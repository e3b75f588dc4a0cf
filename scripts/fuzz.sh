#!/usr/bin/env bash
# Builds the fuzz targets and runs each for the given number of seconds (600), two at a time.
# The coverage instrumentation is the compiler's own, so the stable toolchain does.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
host=$(rustc -vV | sed -n 's/^host: //p')
out=fuzz/target/$host/release

command -v c++ >/dev/null || { apt-get update -qq; apt-get install -y -qq --no-install-recommends g++ >/dev/null; }

echo "== building the fuzz targets"
CARGO_TARGET_DIR=fuzz/target RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
  -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares" \
  cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target "$host"

targets=$(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' fuzz/Cargo.toml)
run() {
  mkdir -p "fuzz/corpus/$1" "fuzz/artifacts/$1"
  echo "== $1 for $seconds seconds"
  "$out/$1" "fuzz/corpus/$1" "fuzz/seeds/$1" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
    -artifact_prefix="fuzz/artifacts/$1/" -print_final_stats=1 >"fuzz/artifacts/$1.log" 2>&1 ||
    { tail -n 30 "fuzz/artifacts/$1.log"; echo "fuzz: $1 failed; the input is in fuzz/artifacts/$1" >&2; return 1; }
  sed -n "s/^stat::number_of_executed_units: */   $1: inputs tried: /p" "fuzz/artifacts/$1.log"
}
export -f run
export seconds out
printf '%s\n' $targets | xargs -P 2 -I{} bash -euo pipefail -c 'run {}'
