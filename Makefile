PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
PACKAGE := setup.cfg pyproject.toml constraints.txt

.PHONY: demo test lint types unit docs benchmark clean

demo: $(VENV)/.installed
	$(BIN)/captum-kd demo

test: lint types unit

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

unit: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/pytest  # small operations; on a busy machine more threads are slower

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -E -W --keep-going -n -q -b html docs docs/_build/html
	@echo "The pages are in docs/_build/html; index.html is the first."

benchmark: $(VENV)/.installed-test
	$(BIN)/python scripts/unicam_cost.py

clean:
	rm -rf $(VENV) docs/_build docs/tutorials

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

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
