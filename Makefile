# Two commands do everything on a fresh Debian or Ubuntu: `make run` and `make test`.
# Each installs what is missing first (scripts/setup.sh says what).

SHELL := /bin/bash
ENV := . scripts/env.sh &&
ARGS ?=

.PHONY: run build test lint bench bench-tpch sim sim-bugs test-drivers test-faults setup clean

## Builds and starts the playground; options in ARGS="--kv 3 --port 4001".
run: build
	@$(ENV) exec "$$CARGO_TARGET_DIR/release/cairn" playground $(ARGS)

## The release binary.
build: setup
	@$(ENV) cargo build --release --locked

## Every test.
test: setup
	@# Firewall rules for tests on hosts of their own; without them those say that they are skipped.
	@PATH="$$PATH:/usr/sbin" command -v nft >/dev/null || scripts/setup.sh nftables || true
	@$(ENV) cargo build --locked && cargo test --workspace --locked

## Format, lints, documentation: what CI checks before the tests.
lint: setup
	@$(ENV) cargo fmt --all --check
	@$(ENV) cargo clippy --workspace --all-targets --locked -- -D warnings
	@# Module essays may point at private items: they are read in the source.
	@$(ENV) RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --locked

## sysbench against Cairn, MariaDB and Galera; writes docs/benchmarks.md.
bench: build
	@$(ENV) scripts/bench.sh

## TPC-H against Cairn, MariaDB and DuckDB; writes docs/tpch.md (TPCH_SCALE=0.1 for less).
bench-tpch: build
	@$(ENV) scripts/tpch.sh

## Simulates whole clusters, one per seed: SEEDS=200, or one of them: SEED=17 (ARGS=--trace).
sim: setup
	@$(ENV) cargo run --release --locked -p cairn-sim -- $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),200)) $(ARGS)

## Shows that the simulation finds each of the bugs it knows how to plant.
sim-bugs: setup
	@$(ENV) cargo run --release --locked -p cairn-sim --features sabotage -- --bugs $(ARGS)

## Real drivers and ORMs against the playground.
test-drivers: build
	@$(ENV) CAIRN_BIN="$$CARGO_TARGET_DIR/release/cairn" tests/drivers/run.sh

## Kills, partitions, slow and broken disks for a cluster of real processes; ARGS="--seconds 300 slow-sync-1s".
test-faults: build
	@PATH="$$PATH:/usr/sbin" command -v nft >/dev/null || scripts/setup.sh nftables
	@$(ENV) cargo build --release --locked -p cairn-tests --bin cairn-faults
	@$(ENV) CAIRN_BIN="$$CARGO_TARGET_DIR/release/cairn" "$$CARGO_TARGET_DIR/release/cairn-faults" $(ARGS)

setup:
	@scripts/setup.sh

clean:
	@$(ENV) cargo clean
