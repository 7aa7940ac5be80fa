# `make demo` and `make test` on a fresh machine need only Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# Two workers on two cores; each keeps torch to one thread (tests/conftest.py).
WORKERS ?= 2
# "--require-shared" fails where what tests need of ../shared is missing, instead of skipping them.
PYTEST_OPTIONS ?=
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_OPTIONS)

.PHONY: demo test test-slow install lint clean

demo: $(VENV)/.installed
	$(BIN)/steer-tools demo

# Some minutes; what is marked `slow` is left to test-slow, which takes as long again.
test: install
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow

install: $(VENV)/.installed-for-tests

# torch alone and first: see constraints.txt.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-for-tests: $(VENV)/.installed
	$(PIP) --editable ".[test]"
	touch $@

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) build *.egg-info
