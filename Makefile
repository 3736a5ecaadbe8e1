# Everything happens in .venv; nothing needs to be there before but Python (>= 3.11) and make.
PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

PYTEST = $(BIN)/python -m pytest

# Modules are compiled once, as they are first imported: pip is told not to, and processes are many.
unexport PYTHONDONTWRITEBYTECODE

# What shares a registry with others waits most of its time.
SHARED := $(foreach part,registry exchange claims postgres upkeep migrations executors working resume,\
	$(wildcard tests/zoo/test_$(part)*.py))

# Takes minutes, and both cores: beside the others it runs out of the time that it gives nodes.
RAY := tests/zoo/test_raycluster.py

PARTS := test-shared test-zoo test-ensemble test-rest

.PHONY: demo test test-cluster test-oldest $(PARTS) coverage lint check bench docs dist release clean

demo: $(VENV)/demo ## train 8 seeds, combine them both ways, compare with the best single model
	$(BIN)/zoo train-many --data mnist5k --model mlp --seeds 8
	$(BIN)/zoo ensemble --mode predictions
	$(BIN)/zoo ensemble --mode weights
	$(BIN)/zoo ensemble --mode weights --method uniform
	$(BIN)/zoo compare

test: $(VENV)/test ## all tests, doctests and the README's blocks, in four processes
	$(MAKE) --jobs=4 --output-sync=target --no-print-directory $(PARTS)

test-shared: $(VENV)/test
	$(PYTEST) $(SHARED)

test-zoo: $(VENV)/test
	$(PYTEST) tests/zoo --ignore=$(RAY) $(SHARED:%=--ignore=%)

test-ensemble: $(VENV)/test
	$(PYTEST) tests/ensemble zoo ensemble

test-rest: $(VENV)/test
	$(PYTEST) tests --ignore=tests/zoo --ignore=tests/ensemble

test-cluster: $(VENV)/test ## training on a real Ray cluster of several nodes on this machine
	$(BIN)/python -m pytest $(RAY)

test-oldest: ## all tests with the oldest versions that pyproject.toml allows, but for PyTorch
	mkdir -p build
	sed -nE 's/^ +"([a-z0-9-]+)(\[.*\])?>=([0-9.]+)",$$/\1==\3/p' pyproject.toml | grep -v '^torch=' >build/oldest.txt
	grep '^torch=' constraints.txt >>build/oldest.txt
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=build/oldest.txt

coverage: $(VENV)/test ## the branches that the tests take, not counting processes that they start
	$(PIP) coverage
	rm -f .coverage .coverage.*
	$(MAKE) test PYTEST='$(BIN)/coverage run --module pytest'
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(VENV)/test ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

bench: $(VENV)/test ## ratios against the plain PyTorch loop
	$(BIN)/python -m pytest benchmarks/test_*.py --benchmark-only --benchmark-columns=min,median,rounds

docs: $(VENV)/docs ## the site, in build/site; every link in it is checked
	rm -rf build/pages build/site
	mkdir -p build/pages
	cp --parents *.md LICENSE examples/*.py docs/*.png docs/*.md docs/*/*.md build/pages
	$(BIN)/zensical build --clean --strict

dist: $(VENV)/test ## the sdist, and the wheel that is built from it
	rm -rf dist
	$(BIN)/python -m build --no-isolation

release: dist ## that wheel works in an empty environment, without the repository
	.ci/release

clean: ## remove the environment and the caches, not the registry
	rm -rf .venv .venv-oldest build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage* *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[mnist]'
	touch $@

$(VENV)/test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[test]'
	touch $@

$(VENV)/docs: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[docs]'
	touch $@
