# Mailtape's workshop. `make` alone lists what there is; a recipe longer than three lines lives in scripts/.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
# What was compiled once is used by all that starts after it: hundreds of processes in a run of the tests.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
QUICK = $(wildcard tests/unit tests/wire tests/property tests/rules tests/contract)
INPUTS := uv.lock pyproject.toml scripts/venv
# What tests leave to chance is drawn from the commit, so that a failure comes again; outside of git pytest draws it.
SEED = $(shell commit=$$(git rev-parse HEAD 2>/dev/null) && printf -- '--randomly-seed=%d' "0x$$(printf %.8s "$$commit")")

help: ## this list
	@awk -F ':.*## ' '/^#: /{print "\n" substr($$0, 4)} /^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

#: Use it
run: .venv/.run ## the whole platform on the embedded default, in the foreground; sets itself up
	@$(BIN)/mailtape serve

#: Test it
quick: lint types imports ## everything that needs no service, under a minute; T=path narrows
	$(BIN)/pytest $(or $(T),$(QUICK) -m "not services and not e2e")

test: services lint types imports docs-check ## everything that CI runs
	$(BIN)/pytest tests $(SEED) -n 4 --dist loadfile --no-loadscope-reorder

soak: services .venv/.dev ## the whole suite at its long counts
	MAILTAPE_TEST_SOAK=1 $(BIN)/pytest tests

bench: services .venv/.dev ## figures as ratios to smtp-sink, embedded and production side by side; ARGS="--quick" and others, see ARGS="--help"
	@PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

#: Keep it in shape
fmt: .venv/.dev ## format, and fix what can be fixed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: .venv/.dev ## style and banned calls
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/.dev ## mypy, strict
	$(BIN)/mypy

imports: .venv/.dev ## the direction of imports
	$(BIN)/lint-imports

docs: .venv/.dev ## regenerate the generated parts of the documents
	$(BIN)/python scripts/docs.py

docs-check: .venv/.dev ## fail when a generated part differs from its source
	$(BIN)/python scripts/docs.py --check

#: Around it
services: ## get and start what the tests need from the outside
	@deploy/services up tools redis mysql rabbitmq mongodb

services-down: ## stop it
	@deploy/services down

build: .venv/.run ## wheel and source distribution, in dist/, and the libraries' versions that they were tested with
	$(BIN)/uv build
	$(BIN)/uv export --quiet --frozen --no-dev --no-emit-project --no-hashes --no-header -o dist/constraints.txt

.venv/.run: $(INPUTS)
	@scripts/venv run

.venv/.dev: $(INPUTS)
	@scripts/venv dev

.PHONY: help run quick test soak bench fmt lint types imports docs docs-check services services-down build
