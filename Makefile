# Everything a person or a CI machine does here. Needs python3 (3.11 or later), pip, make and git.
PYTHON ?= python3
JOBS ?= 2
# The torch that is tested, exactly: its builds differ in size by gigabytes.
TORCH := 2.13.0
BIN := .venv/bin
READY := .venv/.ready
LOCKING := .cache/lock
export NO_MKDOCS_2_WARNING := 1

.PHONY: help setup test demo slow bench dist docs lock clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(READY)  ## Make .venv with the locked packages; done again only when the lock or pyproject.toml changes

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	touch $@

test: setup  ## Lint, types, tests, documentation: what must pass before a commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS)
	$(BIN)/python -m pytest -n $(JOBS) --doctest-modules src/headstart
	$(BIN)/mkdocs build --strict --quiet

demo: setup  ## Fetch a small backbone and a task, and run the whole road once
	$(BIN)/python demo/run.py

slow: setup  ## The tests with real weights and data
	$(BIN)/python -m pytest -m slow

bench: setup  ## The benchmarks whose results stand in docs/benchmarks.md
	$(BIN)/python benchmarks/run.py

dist: setup  ## Build the wheel and the source archive into dist/, and try the wheel in empty environments
	rm -rf dist
	$(BIN)/hatchling build --directory dist
	$(BIN)/python -m pytest -m 'slow or not slow' tests/test_dist.py tests/test_install.py --built dist

docs: setup  ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

lock:  ## Resolve pyproject.toml anew in an empty environment and write requirements.lock
	rm -rf $(LOCKING) && $(PYTHON) -m venv $(LOCKING)
	$(PYTHON) -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb')); x = p['project'].pop('optional-dependencies'); x.pop('all'); \
	  print(*p['project']['dependencies'], *sum(x.values(), []), 'torch==$(TORCH)', \
	  *sum(p['dependency-groups'].values(), []), *p['build-system']['requires'], 'editables', sep='\n')" > $(LOCKING)/wanted
	$(LOCKING)/bin/python -m pip install --quiet --requirement $(LOCKING)/wanted
	( echo "# Exact versions of everything that runs, tests and documents Headstart; written by \`make lock\`."; \
	  echo "# Local version tags and accelerator packages are left out: torch brings those that its build needs."; \
	  $(LOCKING)/bin/python -m pip freeze --exclude-editable | sed -E 's/\+[a-z0-9.]+$$//' | grep -vE '^(nvidia|cuda|triton)' \
	) > requirements.lock
	rm -rf $(LOCKING)

clean:  ## Remove the environment and everything built; fetched data in .cache/ stays
	rm -rf .venv site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests demo benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
