# Every target sets up .venv by itself; only python3 (3.11 or newer) is needed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: sweep test check lint fast slow gpu bench golden format

sweep: $(READY) ## train and answer the default question
	$(BIN)/python -m archsweep heads_vs_layers

test: fast slow gpu ## all tests

check: lint fast ## what every commit passes: lint, types, fast tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fast: $(READY) # side by side
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m "not slow and not gpu" --numprocesses auto --maxprocesses 8

slow: $(READY) # files side by side: each starts the Ray that its tests share; more than processors, for they wait for much
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m "slow and not gpu" --numprocesses $$($(BIN)/python -c 'import os; print(min(8, 1 + (os.cpu_count() or 1)))') \
		--dist loadfile --no-loadscope-reorder

gpu: $(READY) # what needs a CUDA device, one after another, for some fill it; the tests above see none, for their numbers are a processor's
	if command -v nvidia-smi > /dev/null; then $(BIN)/python -m pytest -m gpu; else echo "no GPU: its tests are left out"; fi

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
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	# On all processors, where pip uses one; what few ever import Python compiles by itself, and what is not for this one stays as it is.
	$(BIN)/python -m compileall -qq -j 0 -x '/(tests|rllib)/|/transformers/models/' .venv/lib archsweep search_spaces || true
	touch $(READY)
