# Needs Python >= 3.11 with venv, make and git; everything else is fetched into the clone and the cache folder.
SHELL := /bin/sh
.DEFAULT_GOAL := help
BIN := .venv/bin
READY := .venv/.ready
# Most tests wait for real processes: four workers keep two cores busy. A module stays on one of them, because some
# bring servers of their own; in the order of the tree the long ones come first.
PYTEST_FLAGS ?= -n 4 --dist loadfile --no-loadscope-reorder
UV ?= .venv/bin/uv
ASYNCAPI_SPECS := 6.11.1

.PHONY: help setup lint test bench chaos soak metric-soak asyncapi demo run lock clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv with everything in it; does nothing when nothing changed.

$(READY): requirements-dev.lock pyproject.toml
	@set -e; \
	if ! $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  found=; \
	  for python in $${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then echo 'setup: no Python >= 3.11 found; name one with PYTHON=...' >&2; exit 1; fi; \
	  if ! $$found -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "setup: $$found has no venv; on Debian install python3-venv" >&2; exit 1; fi; \
	  echo "setup: making .venv with $$($$found --version)"; \
	  $$found -m venv --clear .venv; \
	fi; \
	echo 'setup: installing the pinned packages'; \
	PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --no-input --require-hashes -r requirements-dev.lock; \
	PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --no-input --no-deps --no-build-isolation -e .; \
	touch $(READY); \
	echo 'setup: done'

lint: setup ## Check style, types and the rules of the house.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright
	$(BIN)/lint-imports

test: lint ## Check everything, then run all tests on real servers.
	$(BIN)/trading-bus services fetch
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

bench: setup ## Measure what the ingestor costs beside a bare reader; BENCH_SECONDS is a measurement's length.
	$(BIN)/trading-bus services fetch
	$(BIN)/python -m benchmarks

chaos: setup ## Every fault alone, then random combinations, for MINUTES; SEED repeats a run.
	$(BIN)/python -m tests.faults.chaos --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

soak: setup ## 200 symbols in real time for MINUTES; memory, open files, outbox and lag must not grow.
	$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),10)

metric-soak: setup ## 200 symbols' funding, open interest and CVD for MINUTES: on time, within budget, right.
	$(BIN)/python -m tests.faults.metric_soak --minutes $(or $(MINUTES),20)

asyncapi: setup ## Fetch AsyncAPI's own schema with npm and hold docs/asyncapi.json against it.
	@set -e; folder=$$($(BIN)/python -c 'from ops.cache import find_cache; print(find_cache())')/asyncapi; \
	mkdir -p $$folder; cd $$folder; npm pack --silent @asyncapi/specs@$(ASYNCAPI_SPECS); \
	tar -xzf asyncapi-specs-$(ASYNCAPI_SPECS).tgz --strip-components=2 package/schemas/3.0.0.json
	$(BIN)/python -m pytest -q tests/unit/test_asyncapi.py

demo: setup ## Run everything against loopback venues and check the result.
	$(BIN)/trading-bus demo

run: setup ## Run everything against the live venues.
	$(BIN)/trading-bus run

lock: setup ## Compile the lock files again.
	$(UV) pip compile --universal --generate-hashes --no-header --python-version 3.11 \
	  -o requirements.lock pyproject.toml
	$(UV) pip compile --universal --generate-hashes --no-header --python-version 3.11 --extra dev \
	  -o requirements-dev.lock pyproject.toml

clean: ## Remove what setup and the tools made in the clone.
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
