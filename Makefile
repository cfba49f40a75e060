# Every target sets up .venv by itself; only Python 3.11 or newer has to be installed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo check test slow lint types install build clean

demo: .venv/installed
	$(BIN)/sepclip demo

# one process per core, with one thread each
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# before every commit: all tests that neither start processes nor train (tests/conftest.py sets the mark)
check: .venv/tools lint types
	$(PYTEST) -m 'not slow and not process'

test: .venv/tools lint types
	$(PYTEST)

slow: .venv/tools
	$(BIN)/python -m pytest -m slow

lint: .venv/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/tools
	$(BIN)/mypy

install: .venv/tools

build: .venv/tools
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sepclip needs Python 3.11 or newer; make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/tools: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pesq>=0.0.4' || echo 'pesq could not be built, which needs a C compiler: its tests are skipped' >&2
	touch $@

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache
