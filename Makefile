# All that a fresh machine needs: `make quickstart`, `make test`. Both install first where needed.
SHELL := /bin/bash
PYTHON ?= /usr/bin/python3.11
VENV ?= .venv
EXTRA ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ARGS ?=
# The caller's own Python settings must not reach into the environment that is built here.
unexport PYTHONPATH PYTHONHOME

.PHONY: help install quickstart test lint wheel clean

help:
	@echo 'make quickstart      all stages on this CPU, with a report at the end (ARGS="--smoke" for a short one)'
	@echo 'make test            the tests (ARGS="-k judge" for some of them)'
	@echo 'make install         $(VENV) alone (EXTRA=gpu on a CUDA machine, PYTHON=/path/to/python3.11)'
	@echo 'make lint            ruff, mypy, import contracts'
	@echo 'make wheel           dist/*.whl'
	@echo 'make acceptance-NAME what an issue promises, at full size; NAME is a folder of tests/, such as judge, reward or end-to-end'

# Returns at once when nothing that decides the environment has changed (deploy/install.py keeps a stamp).
install:
	@command -v $(PYTHON) >/dev/null || { echo 'install: no $(PYTHON): apt-get install python3.11 python3.11-venv, or make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) deploy/install.py --venv $(VENV) $(if $(EXTRA),--extra $(EXTRA)) --torch-index $(TORCH_INDEX)

quickstart: install
	@$(VENV)/bin/ledex quickstart $(ARGS)

test: install
	$(VENV)/bin/python -m pytest $(ARGS)

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

wheel: install
	rm -rf build dist
	$(VENV)/bin/python -m build --wheel

acceptance-%: install
	@[ -d tests/$(subst -,_,$*) ] || { echo 'acceptance: no tests/$(subst -,_,$*)' >&2; exit 2; }
	$(VENV)/bin/python -m pytest -m acceptance -raP tests/$(subst -,_,$*) $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
