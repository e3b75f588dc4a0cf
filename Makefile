# Cambric. `make help` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

HOST := $(shell rustc -vV | sed -n 's/^host: //p')
TARGET := $(or $(CARGO_TARGET_DIR),target)
PLUGIN := $(TARGET)/$(HOST)/plugin/cambric-cni
FUZZ_SECONDS ?= 600
# All but the examples, which are benchmarks and large.
TESTED := --lib --bins --tests

.PHONY: help setup build plugin demo test bench soak fuzz fmt lint clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: ## install what is missing (Debian packages, kubectl, cnitool)
	@scripts/setup.sh

plugin: ## build the static CNI plugin
	@echo "== building the static CNI plugin"
	@RUSTFLAGS="-C target-feature=+crt-static" cargo build --quiet --profile plugin --package cni --bin cambric-cni --target $(HOST)

build: plugin ## build the release binary, and the plugin beside it
	@echo "== building cambric (release; some minutes when nothing is built yet)"
	@cargo build --quiet --release --package cambric
	@install -m 0755 $(PLUGIN) $(TARGET)/release/cambric-cni

demo: setup build ## bring up labs, prove the rows of the network model, trace a call, tear down
	@$(TARGET)/release/cambric lab demo

test: setup ## run every test (root; all traffic stays in namespaces of the tests)
	@echo "== building the tests (some minutes when nothing is built yet)"
	@cargo build --quiet --workspace $(TESTED)
	@echo "== running the tests"
	@cargo test --workspace $(TESTED) --no-fail-fast
	@cargo test --quiet --workspace --doc

bench: setup build ## measure: CNI, nodes, services and the agent against their goals
	@scripts/bench.sh $(TARGET)/release

soak: setup ## whole labs and crashes, again and again (SOAK_ROUNDS=10)
	@scripts/soak.sh

fuzz: setup ## run each fuzz target for FUZZ_SECONDS (600)
	@scripts/fuzz.sh $(FUZZ_SECONDS)

fmt: ## format
	@cargo fmt --all

lint: setup ## formatting and lints; warnings are errors
	@echo "== cargo fmt --check"
	@cargo fmt --all --check
	@echo "== cargo clippy"
	@cargo clippy --quiet --workspace --all-targets -- -D warnings

clean: ## remove what was built
	@cargo clean
