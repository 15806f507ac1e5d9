PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
MINIMUM := .venv-minimum
PIP_INSTALL := pip install --quiet --disable-pip-version-check
INSTALL := $(BIN)/$(PIP_INSTALL) --constraint $(CONSTRAINTS)
PACKAGE := setup.cfg pyproject.toml constraints.txt
# The tests of one file run in one process, so that models which they share are trained once. Operations are small:
# more threads are slower. A file with slow tests should not start last, so files keep their order.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo quick test lint types unit test-avx2 test-minimum docs benchmark clean

demo: $(VENV)/.installed
	$(BIN)/captum-kd demo

quick: lint types
	$(PYTEST) -m "not slow" tests

test: lint types unit

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

unit: $(VENV)/.installed-test
	$(PYTEST)

# What trains and convolves, by the code that oneDNN has for processors without AVX-512: it went wrong there before.
test-avx2: $(VENV)/.installed-test
	ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) tests/attr tests/benchmark/sanity tests/cli/test_distill.py tests/demo tests/distill

# Tutorials, pages and charts are left out: they hold what today's tools print and draw.
test-minimum: $(MINIMUM)/.installed
	OMP_NUM_THREADS=1 $(MINIMUM)/bin/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder \
	    tests captum_kd --ignore=tests/tutorials

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -E -W --keep-going -n -q -b html docs docs/_build/html
	@echo "The pages are in docs/_build/html; index.html is the first."

benchmark: $(VENV)/.installed-test
	$(BIN)/python scripts/unicam_cost.py

clean:
	rm -rf $(VENV) $(MINIMUM) docs/_build docs/tutorials

%/bin/python:
	$(PYTHON) -m venv $*

# torch, torchvision and what they need are about 5 GB; the stamps keep a second run from asking again.
$(VENV)/.installed: $(PACKAGE) | $(BIN)/python
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-test: $(PACKAGE) | $(BIN)/python
	$(INSTALL) --editable ".[test]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(PACKAGE) | $(BIN)/python
	$(INSTALL) --editable ".[docs]"
	touch $@ $(VENV)/.installed

$(MINIMUM)/.installed: setup.cfg pyproject.toml constraints-minimum.txt | $(MINIMUM)/bin/python
	$(MINIMUM)/bin/$(PIP_INSTALL) --constraint constraints-minimum.txt --editable ".[test]"
	touch $@
