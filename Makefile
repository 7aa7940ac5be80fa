# `make demo` and `make test` on a fresh machine need only Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# Two workers on two cores; each keeps torch to one thread (tests/conftest.py).
WORKERS ?= 2

.PHONY: demo test install lint clean

demo: $(VENV)/.installed
	$(BIN)/steer-tools demo

test: install
	$(BIN)/python -m pytest -n $(WORKERS)

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
