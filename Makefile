# `make run`: the main job.  `make test`: the tests.  `make test-slow`: those that it leaves out, for hours.
# All build .venv first, with python3 (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-slow clean

run: $(VENV)/run.stamp
	$(BIN)/lmlab table hnet --scale smoke

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n 2

test-slow: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n 2 -m slow

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lmlab needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ $(VENV)/run.stamp

clean:
	rm -rf $(VENV) *.egg-info
