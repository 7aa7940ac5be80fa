# `make demo` and `make test` on a fresh machine need only Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# Two workers on two cores; each keeps torch to one thread (tests/conftest.py).
WORKERS ?= 2

.PHONY: demo test docs generate install lint clean

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

# What the manual tells of the code is compared with the code, the notebooks run, and no link leads nowhere.
docs: $(VENV)/.installed-for-docs
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/run_notebooks.py --check
	$(BIN)/zensical build --clean --strict

generate: $(VENV)/.installed-for-docs
	$(BIN)/python docs/run_notebooks.py
	$(BIN)/python docs/generate.py

$(VENV)/.installed-for-docs: $(VENV)/.installed-for-tests
	$(PIP) --editable ".[docs]"
	touch $@

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) build *.egg-info
