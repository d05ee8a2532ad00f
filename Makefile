# make demo    images into out/
# make test    the whole test suite
# make lint    ruff
# Each creates .venv and installs what it needs the first time, at the versions of requirements/constraints.txt
# (CONSTRAINTS=/dev/null leaves the versions to pip, within the ranges of setup.py).

PYTHON ?= python3
CONSTRAINTS ?= requirements/constraints.txt
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable

.PHONY: demo test lint browser

demo: .venv/installed-core
	$(BIN)/python scripts/demo.py --output out

test: .venv/installed-test browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8

# Tests drive the Space's page in it; where it cannot be had, they are skipped.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
	  && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; \
	} || echo "There is no chromium: tests in a browser will be skipped." >&2

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/installed-core: setup.py requirements/constraints.txt | $(BIN)/python
	$(INSTALL) .
	touch $@

.venv/installed-test: setup.py requirements/constraints.txt | $(BIN)/python
	$(INSTALL) ".[test]"
	touch $@ .venv/installed-core
