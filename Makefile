# Every target sets up what it needs. VENV and PYTHON may be overridden.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data
SUITE ?= all
MINUTES ?= 10
SEED ?= 1
# Index to take torch from, for example the one of CPU builds; empty: pip's own choice.
TORCH_INDEX_URL ?=

.PHONY: help setup demo up playground test check format docs docs-serve protos train evaluate bench faults soak clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed  ## Make the virtual environment with everything in it

$(VENV)/.installed: pyproject.toml client/pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --no-deps -c constraints.txt \
		$(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e ./client -e '.[dev]'
	touch $@

demo: setup  ## Start both services and Redis, write for five users, stop everything
	$(BIN)/pad demo

up: setup  ## Run both services and Redis in the foreground
	$(BIN)/pad up

playground: setup  ## Serve a web page to try profiles on, with a server of its own
	$(BIN)/pad playground

test: setup  ## Run all tests
	$(BIN)/pytest

check: setup  ## Format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy examples/*.py
	$(BIN)/lint-imports

format: setup  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The theme says on every build that it has a successor: docs/decisions.md.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1

docs: setup  ## Build the documentation's site into site/
	$(BIN)/mkdocs build --strict

docs-serve: setup  ## Show the site on port 8001 while its pages are written
	$(BIN)/mkdocs serve --strict --dev-addr 127.0.0.1:8001

protos: setup  ## Generate the code of protos/ again
	$(BIN)/python protos/generate.py protos

train: setup  ## Train the demo models again from DATA (about 75 minutes on 2 free cores)
	$(BIN)/python -m training.make_demo_models --data $(DATA) --out models

evaluate: setup  ## Measure the demo models on DATA, write docs/evaluation and the tables made from it
	$(BIN)/pad evaluate --data $(DATA) --models models --out docs/evaluation
	$(BIN)/python docs/update_readme.py

bench: setup  ## Measure speed: all suites, or those in SUITE, and append to benchmarks/LOG.md
	$(BIN)/python -m benchmarks --suite $(SUITE) --log

faults: setup  ## Break a running stack by 200 seeds, and write docs/reliability.md (about 15 minutes)
	$(BIN)/python -m tests.faults --seeds 200 --record

soak: setup  ## Leak checks of 21,000 calls, then MINUTES of fuzzing from SEED on
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --seed $(SEED)

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
