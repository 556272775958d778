# The project's one door: people and continuous integration come in here. `make` alone lists it.
# The work is in scripts/, one short script for each door.

PREFIX ?= /usr/local
DESTDIR ?=
STAGES ?=

.PHONY: help demo demo-qemu demo-rollback build test test-integration test-rdma bench bless install clean

help: ## List what make can do
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s%s\n", $$1, $$2}' Makefile
	@echo "  (test: STAGES=\"format units\" runs only these; install: PREFIX=, DESTDIR=)"

demo: ## Build, then migrate a running guest between two processes and prove that it goes on
	@scripts/bootstrap.sh packages
	@scripts/demo.sh

demo-qemu: ## Move a Linux guest between two unmodified QEMUs, and have it prove its memory
	@scripts/bootstrap.sh packages
	@scripts/demo-qemu.sh

demo-rollback: ## Let a fault strike half of a rollout, and see it rolled back with guests on the move
	@scripts/bootstrap.sh packages
	@scripts/demo-rollback.sh

build: ## Build the library and the programs, optimised, into target/release
	@scripts/bootstrap.sh packages
	cargo build --release --locked

test: ## Run every check; the last line is "N passed, N failed"
	@scripts/test.sh $(STAGES)

test-integration: ## Run the tests that need network namespaces, and so root
	@scripts/test-integration.sh

test-rdma: ## Run the tests of RDMA, over real verbs in a guest under QEMU
	@scripts/test-rdma.sh

bench: ## Measure against iperf3 and other peers; rows go to target/bench/results.jsonl
	@scripts/bench.sh

bless: ## Write the C header, Python stubs and golden files anew from the code
	@scripts/bless.sh

install: build ## Install below PREFIX (/usr/local): library, headers, programs, man pages
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" scripts/install.sh

clean: ## Remove build outputs; .venv and .cache stay
	cargo clean
