# make demo    images into out/
# make test    the whole test suite
# make lint    ruff, import-linter, pyright
# make pictures    the pictures of README.md, docs/ and examples/ that can be drawn in minutes, in their places
# make api     the reference of the public names, built from their docstrings, into out/api
# make notebook    examples/tour.ipynb run from top to bottom, into out/tour.ipynb
# make static_space    a page that runs PIPELINE in the visitor's own browser, into out/static_space
# make test-minima    the test suite at the oldest versions that pyproject.toml allows, requirements/minima.txt; some GB, by hand
# Each creates .venv and installs what it needs the first time, at the versions of requirements/constraints.txt
# (CONSTRAINTS=/dev/null leaves the versions to pip, within the ranges of pyproject.toml).
# TORCH_INDEX is an index of packages that pip looks into as well: for a machine without a GPU that of torch's CPU builds,
# https://download.pytorch.org/whl/cpu, which spares gigabytes of CUDA libraries.

PYTHON ?= python3
CONSTRAINTS ?= requirements/constraints.txt
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
INSTALL := $(BIN)/python -m pip install --progress-bar off --constraint $(CONSTRAINTS) \
  $(TORCH_INDEX:%=--extra-index-url %) --editable

# Installs "polyinr-hf$(1)", and says every NEWS_SECONDS what pip is at, which is silent while it downloads and unpacks.
NEWS_SECONDS ?= 15
define install
@echo "Installing polyinr-hf$(1) into $(VENV)"
@$(INSTALL) ".$(1)" >$(VENV)/install.log 2>&1 & pip=$$!; seconds=0; while sleep 1; kill -0 $$pip 2>/dev/null; do \
  seconds=$$((seconds + 1)); test $$((seconds % $(NEWS_SECONDS))) != 0 || echo "  $$seconds s, $$(du -sm $(VENV) 2>/dev/null | cut -f1) MB:" \
  "$$(grep -E '^ *(Collecting|Downloading|Building|Installing)' $(VENV)/install.log | tail -n 1 | cut -c 1-90)"; \
  done; wait $$pip || { tail -n 20 $(VENV)/install.log >&2; exit 1; }
@touch $@ $(VENV)/installed-core
endef

PIPELINE ?= pretrained/poly-inr-emoji
RUNTIME := space_static/node_modules/.package-lock.json

.PHONY: demo about-demo pictures test test-minima lint api notebook browser page static_space

demo: about-demo $(VENV)/installed-core
	@$(BIN)/python scripts/demo.py --output out

about-demo:
	@test -e $(VENV)/installed-core || { \
	  echo "The first time this installs torch and diffusers into $(VENV): 5.7 GB, 1.1 GB with TORCH_INDEX (see Makefile)."; \
	  echo "That takes as long as the download and some minutes, then the pictures about one on two idle cores."; \
	  test -n "$(TORCH_INDEX)" || command -v nvidia-smi >/dev/null || echo "There is no NVIDIA GPU: TORCH_INDEX would do."; }

pictures: $(VENV)/installed-test
	$(BIN)/python scripts/pictures.py

test: $(VENV)/installed-test browser page
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8

test-minima:
	$(MAKE) test VENV=.venv-minima CONSTRAINTS=requirements/minima.txt

# Tests drive the pages in them; where they cannot be had, they are skipped.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null && command -v firefox-esr >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
	  && apt-get install -y -qq --no-install-recommends chromium chromium-driver firefox-esr >/dev/null; \
	} || echo "There is no chromium, or no firefox-esr: tests in it will be skipped." >&2

# onnxruntime-web and, for the tests, axe-core.
$(RUNTIME): space_static/package.json space_static/package-lock.json
	npm ci --silent --prefix space_static
	touch $@

page:
	@command -v npm >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
	  && apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; \
	} && $(MAKE) --silent $(RUNTIME) || echo "There is no npm: tests of the static page will be skipped." >&2

static_space: $(VENV)/installed-onnx $(RUNTIME)
	$(BIN)/python scripts/build_static_space.py --pipeline $(PIPELINE) --output out/static_space

api: $(VENV)/installed-docs
	$(BIN)/python scripts/build_api.py --output out/api

notebook: $(VENV)/installed-notebook
	mkdir -p out
	$(BIN)/jupyter-execute --timeout=1800 --output=$(CURDIR)/out/tour.ipynb examples/tour.ipynb

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-core: pyproject.toml requirements/constraints.txt | $(BIN)/python
	$(call install,)

$(VENV)/installed-%: pyproject.toml requirements/constraints.txt | $(BIN)/python
	$(call install,[$*])
