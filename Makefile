# The commands of this project. `make` prints them.
#   CARGO_TARGET_DIR  where builds (and the broker's jars) go; default: target
#   TMPDIR            where tests and the demo keep their state; default: /tmp

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check build setup bench-ingest bench-decide

env := . scripts/env.sh &&
# One set of features and one profile for demo and tests, so that one build serves both.
build := step "build the executable (the first time takes minutes)" \
	cargo build --locked --workspace --bins

help: ## Print this
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

demo: setup ## Start a Postgres, a Kafka and Tollbook, and watch a ledger fill (ONCE=1: play, report, verify, end)
	@$(env) $(build)
	@$(env) exec "$$TARGET_DIR/debug/tollbook" demo --kafka-libs "$$TOLLBOOK_KAFKA_LIBS" $(if $(filter-out 0,$(ONCE)),--once)

test: setup ## Install what is missing, build, and run every test
	@$(env) $(build)
	@$(env) step "all tests" scripts/test.sh

check: setup ## Format, lints and the tests that need no server
	@$(env) step "format" cargo fmt --check
	@$(env) step "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
	@$(env) step "tests that need no server" \
		cargo test --locked -q --workspace --lib --bins --test tidy

build: setup ## Build the executable (dev profile, as tests and demo use it)
	@$(env) $(build)

# stdout has the figures alone. The executables are built as users build them; of what is measured
# nothing comes from this workspace's tests.
bench-ingest: ## Measure ingest beside its floor, as JSON lines (EVENTS, CASES, RUNS, SIDE, KEEP, BINARY)
	@scripts/setup.sh >&2
	@$(env) step "build what is measured" cargo build --locked --release -p tollbook -p benches >&2
	@$(env) step "build the driver" cargo build --locked -p bench-driver >&2
	@$(env) exec "$$TARGET_DIR/debug/bench-driver" ingest \
		--tollbook "$(or $(BINARY),$$TARGET_DIR/release/tollbook)" \
		--benches "$$TARGET_DIR/release/benches" \
		$(if $(EVENTS),--events $(EVENTS)) $(if $(CASES),--cases $(CASES)) $(if $(RUNS),--runs $(RUNS)) \
		$(if $(SIDE),--side $(SIDE)) $(if $(filter-out 0,$(KEEP)),--keep)

bench-decide: ## Measure decisions beside no-op servers, as JSON lines (CASES, RUNS, SECONDS, CONNECTIONS, SIDE, EVENTS, BINARY)
	@scripts/setup.sh >&2
	@$(env) step "build what is measured" \
		cargo build --locked --release -p tollbook -p benches -p bench-wire >&2
	@$(env) step "build the driver" cargo build --locked -p bench-driver >&2
	@$(env) exec "$$TARGET_DIR/debug/bench-driver" decide \
		--tollbook "$(or $(BINARY),$$TARGET_DIR/release/tollbook)" \
		--benches "$$TARGET_DIR/release/benches" --wire "$$TARGET_DIR/release/bench-wire" \
		$(if $(CASES),--cases $(CASES)) $(if $(RUNS),--runs $(RUNS)) \
		$(if $(SECONDS),--seconds $(SECONDS)) $(if $(CONNECTIONS),--connections $(CONNECTIONS)) \
		$(if $(THREADS),--threads $(THREADS)) $(if $(EVENTS),--events $(EVENTS)) \
		$(if $(SIDE),--side $(SIDE))

setup: ## Install what is missing (apt-get), fetch the broker's jars
	@scripts/setup.sh
