# Verbs of the project. Each makes .venv itself when it is missing or out of date.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test check fix protos docs bench bench-planes docker docker-test clean

help:  ## Show the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: .venv/installed  ## Train a digit detector with losses from a server, and again with local ones
	$(BIN)/python -m examples.digits

test: .venv/installed  ## Run the tests, two files at a time, and then those that must be alone
	$(BIN)/pytest -m "not alone" --numprocesses 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/pytest -m alone

check: .venv/installed  ## Lint, types, imports, docstrings, protos and their stubs, docs/losses.md
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/interrogate --quiet losswire lossserver client benchmarks examples scripts
	$(BIN)/interrogate --quiet --ignore-regex '^(?!test_)' tests
	$(BIN)/buf lint
	scripts/check-stubs
	scripts/docs --check

fix: .venv/installed  ## Repair what the linter can, and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

protos:  ## Regenerate losswire/v1 from protos/
	scripts/protos

docs: .venv/installed  ## Write docs/losses.md from the docstrings, and draw each loss
	scripts/docs

bench: .venv/installed  ## Measure, against a bare gRPC echo, a naive server, plain protobuf and eager torch
	$(BIN)/python -m benchmarks.bench_frame
	$(BIN)/python -m benchmarks.bench_e2e
	$(BIN)/python -m benchmarks.bench_compute
	$(BIN)/python -m benchmarks.bench_fused

bench-planes: .venv/installed  ## Measure every way to a loss, against what others offer (docs/planes.md)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.bench_planes

docker:  ## Build the CUDA image
	docker build -t lossserver .

docker-test: .venv/installed  ## Build the CPU image, run it as a stranger would, and check the drain
	scripts/docker-test

clean:  ## Remove the environments and caches
	rm -rf .venv .venv-protos .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
