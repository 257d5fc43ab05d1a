# `make run` and `make test` need nothing but Python 3.11 and make: both create .venv first.
PYTHON ?= python3.11
PRESET ?= demo
CONFIG ?= configs/presets/$(PRESET).yaml
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run align test test-fast lint types package benchmark clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Create .venv, or bring it up to date

$(INSTALLED): pyproject.toml constraints.txt Makefile
	@command -v $(PYTHON) >/dev/null || { echo "Error: $(PYTHON) is not installed; install Python 3.11, or name another with PYTHON=..."; exit 1; }
	@test ! -d $(VENV) || $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || rm -rf $(VENV)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Flyte keeps the outputs of local runs under the temporary directory; the system's is emptied at times,
# and cached steps would then name files that are gone.
run: export TMPDIR := $(CURDIR)/.flyte
run: $(INSTALLED) ## Fine-tune on a laptop: make run [PRESET=demo | CONFIG=my.yaml]
	@mkdir -p $(TMPDIR)
	@$(BIN)/pyflyte run workflows/fine_tune.py fine_tune --config $(CONFIG)

align: export TMPDIR := $(CURDIR)/.flyte
align: PRESET = align-demo
align: $(INSTALLED) ## SFT, then preferences or rewards: make align [PRESET=align-demo | CONFIG=my.yaml]
	@mkdir -p $(TMPDIR)
	@$(BIN)/pyflyte run workflows/align.py align --config $(CONFIG)

test: lint types ## Lint, check types, and run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(INSTALLED) ## Run the tests that take seconds
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

lint: $(INSTALLED) ## Check style and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## Check types
	$(BIN)/mypy

package: $(INSTALLED) ## Serialize all workflows and tasks, as for registration, into flyte-package.tgz
	$(BIN)/pyflyte --pkgs workflows package --image localhost/fine-tune:dev --output flyte-package.tgz --force

benchmark: $(INSTALLED) ## Print the start-up cost as a ratio
	$(BIN)/python benchmarks/startup.py

clean: ## Remove outputs of local runs; steps whose outputs are gone run again
	rm -rf .flyte outputs flyte-package.tgz
