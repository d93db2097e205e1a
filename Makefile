# Set-up is part of every target: a fresh machine needs Python 3.11 or newer, a C++17 compiler and make.
# The environment is made once and used again; nothing is fetched a second time.

PYTHON ?= python3
VENV ?= .venv
# TORCH=1 also installs PyTorch, against which the parity tests and benchmarks compare.
TORCH ?=

BIN := $(VENV)/bin
# An editable install knows the modules it was made with, so the stamp carries their names.
MODULES := $(shell find znn_dask -name '*.py' | sort | cksum | cut -d' ' -f1)
SOURCES := pyproject.toml $(wildcard kernels/*)
USE := $(VENV)/.installed-use-$(MODULES)
DEVELOP := $(VENV)/.installed-develop$(if $(TORCH),-torch)-$(MODULES)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
BUILD_TOOLS := "scikit-build-core>=0.11" "nanobind>=2.4" cmake ninja

.PHONY: demo test test-all sanitize tsan lint format bench stub notebooks wheel clean

demo: $(USE)
	$(BIN)/znn-dask demo

test: $(DEVELOP)
	$(BIN)/python -m pytest -m "not slow"

test-all: $(DEVELOP)
	$(BIN)/python -m pytest

# The kernels with AddressSanitizer and UndefinedBehaviourSanitizer under the tests of the operations.
sanitize: $(DEVELOP)
	.ci/sanitize $(BIN)/python

# The kernels with ThreadSanitizer under what shares data between threads.
tsan: $(DEVELOP)
	.ci/tsan $(BIN)/python

lint: $(DEVELOP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEVELOP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEVELOP)
	$(BIN)/python bench/kernels.py --json bench/results/kernels.json
	$(BIN)/python bench/scheduler.py --json bench/results/scheduler.json
	$(BIN)/python bench/step.py --preset all --against torch --speedup
	$(BIN)/python bench/simulated.py --validate --json bench/results/simulated-validation.json
	$(BIN)/python bench/simulated.py --json bench/results/simulated.json --picture bench/results/simulated.png
	$(BIN)/python bench/memory.py $(if $(TORCH),,--no-torch) --json bench/results/memory.json

# After a change of the bindings; a test compares the checked-in file with this.
stub: $(DEVELOP)
	$(BIN)/python -m nanobind.stubgen -m znn_dask._kernels -o znn_dask/_kernels.pyi

notebooks: $(DEVELOP)
	$(BIN)/python -m pytest tests/test_notebooks.py

wheel: $(DEVELOP)
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf build dist $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(USE): $(SOURCES) | $(VENV)/bin/python
	@echo "compiling the kernels and installing: this takes some minutes, once"
	$(PIP) $(BUILD_TOOLS)
	$(PIP) --no-build-isolation -e .
	touch $@

$(DEVELOP): $(SOURCES) | $(VENV)/bin/python
	@echo "compiling the kernels and installing: this takes some minutes, once"
	$(PIP) $(BUILD_TOOLS)
	$(PIP) --no-build-isolation -e ".[test$(if $(TORCH),$(comma)bench)]"
	touch $@ $(USE)

comma := ,
