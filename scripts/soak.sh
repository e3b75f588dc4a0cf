#!/usr/bin/env bash
# Runs the tests of whole labs and of crashes again and again: SOAK_ROUNDS times (10), until one fails.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${SOAK_ROUNDS:-10}
for ((round = 1; round <= rounds; round++)); do
  echo "== round $round of $rounds"
  cargo test --quiet --package cni --test faults
  REVOCATION_ROUNDS=10 cargo test --quiet --package kernel --test fast_revocation
  CHURN_SECONDS=60 cargo test --quiet --package kernel --test churn
  cargo test --quiet --package cambric
done
