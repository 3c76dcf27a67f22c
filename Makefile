# Every target sets up .venv by itself; only python3 (3.11 or newer) is needed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: sweep test check lint fast slow bench golden format

sweep: $(READY) ## train and answer the default question
	$(BIN)/python -m archsweep heads_vs_layers

test: fast slow ## all tests

check: lint fast ## what every commit passes: lint, types, fast tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fast: $(READY) # side by side
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 8

slow: $(READY) # files side by side: each starts the Ray that its tests share; more than processors, for they wait for much
	$(BIN)/python -m pytest -m slow --numprocesses $$($(BIN)/python -c 'import os; print(min(8, 1 + (os.cpu_count() or 1)))') \
		--dist loadfile --no-loadscope-reorder

bench: $(READY) ## measure what benchmarks/RESULTS.md and the README quote
	$(BIN)/python -m benchmarks

golden: $(READY) ## renew the recorded losses, after a change that is meant to change them
	$(BIN)/python tests/training/golden.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "archsweep needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
