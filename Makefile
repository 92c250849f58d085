# iocast. `make demo` and `make test` set up all they need, as root, on Debian 12 with Rust.
TARGET := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
LAB    := $(CURDIR)/target/debug/iocast-lab

# Of the lab that `make lab-up` keeps.
TOPOLOGY ?= bridge
PODS     ?= 3
NAME     ?= lab
# Of each fuzz target, in seconds.
TIME     ?= 600
# Of a soak.
MINUTES  ?= 60
# Debian suites; all if there is none.
KERNELS  ?=

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: build lab-tools lab ## See a LAN workstation read IOCs in pods
	@$(LAB) demo --topology $(TOPOLOGY)

test: build lab-tools ## Run all tests
	@rm -rf target/figures target/times
	tests/fuzz/run.sh -seed=1 -runs=1000000 -max_total_time=20
	cargo test --locked --workspace
	@echo; cat docs/matrix.md; echo "figures of this run:"; cat target/figures/*
	@echo; tests/times.sh

matrix: build lab-tools ## Try every client with every server, and print the table
	cargo test --locked -p iocast-tests --test e2e matrix:: -- --nocapture

bench: build lab-tools ## Compare with the alternatives, and write docs/bench.md: QUICK=1 for a first look
	@tests/apt.sh iptables
	@cargo run --locked --release -p iocast-tests --bin iocast-bench -- $(if $(QUICK),--quick)

soak: build lab-tools lab ## Make trouble for MINUTES=60 under the eyes of clients, and write docs/soak.md
	@$(LAB) soak --minutes $(MINUTES) --topology $(TOPOLOGY) --report docs/soak.md

kernels: build lab-tools ## Boot other kernels and test there: KERNELS="bookworm trixie sid"
	@tests/kernels/run.sh $(KERNELS)

fuzz: ## Fuzz the parsers: TIME=600 seconds each
	tests/fuzz/run.sh -max_total_time=$(TIME)

lint: toolchain ## Check formatting and lints
	cargo fmt --all --check
	cargo fmt --manifest-path ebpf/programs/Cargo.toml --check
	cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

lab-up: build lab-tools lab ## Keep a lab up: TOPOLOGY=bridge|routed PODS=3 NAME=lab
	@$(LAB) up --name $(NAME) --topology $(TOPOLOGY) --pods $(PODS)

lab-down: ## Tear it down: NAME=lab
	@test ! -x $(LAB) || $(LAB) down --name $(NAME)

build: toolchain ## Build the static binaries into target/bin
	@RUSTFLAGS="-Ctarget-feature=+crt-static" cargo build --locked --release --target $(TARGET) -p iocast -p iocast-node
	@mkdir -p target/bin
	@install target/$(TARGET)/release/iocast target/$(TARGET)/release/iocast-node target/bin/

lab: toolchain
	@cargo build --locked -p iocast-tests --bin iocast-lab

toolchain: ## Install what the eBPF programs need to build
	@ebpf/toolchain.sh

lab-tools: ## Install what the lab needs
	@tests/tools.sh

.PHONY: help demo test matrix bench soak kernels fuzz lint lab-up lab-down build lab toolchain lab-tools
