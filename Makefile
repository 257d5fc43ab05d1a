# `make run` and `make test` need nothing but Python 3.11 and make: both create .venv first.
PYTHON ?= python3.11
PRESET ?= demo
CONFIG ?= configs/presets/$(PRESET).yaml
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run align plan evaluate chat gate answers seeds register run-remote test rehearse fuzz test-fast lint types package benchmark clean images lock test-gptq console-form

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

plan: export TMPDIR := $(CURDIR)/.flyte
plan: $(INSTALLED) ## Memory, machines, time, cost and checks, in seconds: make plan [PRESET=demo | CONFIG=my.yaml] [HERE=1]
	@mkdir -p $(TMPDIR)
	@$(BIN)/pyflyte run workflows/plan.py $(if $(shell grep -s '^sft:' $(CONFIG)),plan_align,plan) --config $(CONFIG) \
		--machines $(if $(filter 1,$(HERE)),here,cluster)

evaluate: export TMPDIR := $(CURDIR)/.flyte
evaluate: $(INSTALLED) ## Score models without training: make evaluate CONFIG=my.yaml
	@mkdir -p $(TMPDIR)
	@$(BIN)/pyflyte run workflows/evaluate.py evaluate --config $(CONFIG)

chat: export TMPDIR := $(CURDIR)/.flyte
chat: MODEL = outputs/demo/model
chat: $(INSTALLED) ## Ask a model: make chat [MODEL=outputs/demo/model] [BASE=1, or a folder or id] [PROMPT="..."]
	@$(BIN)/python -m workflows.chat $(MODEL) $(if $(BASE),--base $(BASE)) $(if $(PROMPT),--prompt '$(PROMPT)')

gate: RUN = outputs/demo
gate: $(INSTALLED) ## Exit 0 if a run's model may be published, else 1: make gate [RUN=outputs/demo] [MODEL=tuned]
	@$(BIN)/python -m workflows.gate $(RUN) $(if $(MODEL),--model $(MODEL))

answers: RUN = outputs/demo
answers: $(INSTALLED) ## Show answers before and after training: make answers [RUN=outputs/demo] [SHOW=wrong, right or changed] [ROWS=10]
	@$(BIN)/python -m workflows.answers $(RUN) $(if $(SHOW),--show $(SHOW)) $(if $(ROWS),--rows $(ROWS)) \
		$(if $(MODEL),--model $(MODEL)) $(if $(SET),--set '$(SET)')

seeds: $(INSTALLED) ## Compare runs that differ by their seed: make seeds RUNS="outputs/a outputs/b outputs/c"
	@test -n "$(RUNS)" || { echo "Error: RUNS is not set; name the folders of 2 or more runs: make seeds RUNS=\"outputs/a outputs/b\"" >&2; exit 2; }
	@$(BIN)/python -m workflows.seeds $(RUNS)

# What goes to a cluster; which one, flytekit reads from FLYTECTL_CONFIG or FLYTE_PLATFORM_URL (docs/cluster.md).
WORKFLOW ?= fine_tune
# a user's own config and rows beside it are no part of a version
CODE := configs images tasks workflows
run-remote: PRESET = $(if $(filter align,$(WORKFLOW)),align-demo,demo)
define for_cluster
need() { test -n "$$2" || { echo "Error: $$1 is not set; $$3, for example: export $$1=$$4" >&2; exit 1; }; }; \
need FLYTE_PROJECT "$$FLYTE_PROJECT" "name the Flyte project" flytesnacks; \
need FLYTE_DOMAIN "$$FLYTE_DOMAIN" "name the project's domain" development; \
need IMAGE_REGISTRY "$$IMAGE_REGISTRY" "name the registry that the cluster pulls images from" ghcr.io/me; \
version="$(VERSION)"; \
if test -z "$$version"; then \
	version=$$(git rev-parse --verify --quiet HEAD 2>/dev/null) || { echo "Error: there is no git commit to name the version by; name one: make $@ VERSION=name" >&2; exit 1; }; \
	test -z "$$(git status --porcelain --untracked-files=no; git status --porcelain $(CODE))" || { echo "Error: files differ from the last commit, which names the version; commit them, or: make $@ VERSION=name" >&2; exit 1; }; \
fi; \
case "$$version" in *[!A-Za-z0-9._-]*) echo "Error: VERSION=$$version has a character that no version may have; use letters, digits, . _ and -" >&2; exit 1;; esac
endef

register: $(INSTALLED) ## Register all workflows on a cluster, as the git commit: make register [VERSION=name] [ACTIVATE=1]
	@$(for_cluster); $(BIN)/pyflyte register --project "$$FLYTE_PROJECT" --domain "$$FLYTE_DOMAIN" --version "$$version" \
		--destination-dir . $(if $(filter 1,$(ACTIVATE)),--activate-launchplans) workflows

run-remote: $(INSTALLED) ## Run on a cluster: make run-remote [PRESET=demo | CONFIG=my.yaml] [WORKFLOW=align | evaluate | prepare_data]
	@case "$(WORKFLOW)" in fine_tune|align|evaluate|prepare_data) ;; *) echo "Error: WORKFLOW=$(WORKFLOW) is not a workflow that takes a config; use fine_tune, align, evaluate or prepare_data" >&2; exit 1;; esac
	@$(for_cluster); FLYTE_FINE_TUNE_VERSION="$$version" $(BIN)/pyflyte run --remote --copy all \
		--project "$$FLYTE_PROJECT" --domain "$$FLYTE_DOMAIN" workflows/$(WORKFLOW).py $(WORKFLOW) --config $(CONFIG)

# npm puts node_modules beside package.json, so a copy goes into the ignored build/
console-form: ## Install what draws the console's form in tests: make console-form [RJSF=version of the form's library]
	@command -v npm >/dev/null || { echo "Error: npm is not installed; install Node.js 18 or later, and npm"; exit 1; }
	@mkdir -p build/console
	@$(if $(RJSF),sed 's/\(@rjsf.*": "\)[0-9.]*/\1$(RJSF)/',cat) tests/console/package.json > build/console/package.json
	cd build/console && npm install --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error

# in the order of the tree: by number of tests, which is xdist's, the files that take longest come last, one after another
test: lint types ## Lint, check types, and run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

rehearse: $(INSTALLED) ## Run what registration sends, task by task, as a cluster would
	$(BIN)/python -m pytest tests/rehearsal -n 2 --dist loadfile -v

fuzz: $(INSTALLED) ## Try any bytes as configs, rows and model folders, with new seeds: make fuzz [SECONDS=60]
	FUZZ_SECONDS=$(or $(SECONDS),60) $(BIN)/python -m pytest tests/fuzz -q

test-fast: $(INSTALLED) ## Run the tests that take seconds
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

lint: $(INSTALLED) ## Check style and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## Check types
	$(BIN)/mypy

package: $(INSTALLED) ## Serialize all workflows and tasks, as for registration, into flyte-package.tgz
	$(BIN)/pyflyte --pkgs workflows package --fast --image localhost/fine-tune:dev --output flyte-package.tgz --force

images: $(INSTALLED) ## Build and push the container images: make images [IMAGE_BUILDER=default | envd] (docs/images.md)
	@$(BIN)/python -m images.build

lock: $(INSTALLED) ## Pin every package of the images anew, from constraints.txt
	@$(BIN)/python -m images.lock

# without the pins of CUDA, so that torch for CPUs will do where the package index has it
test-gptq: ## Test GPTQ with the packages of its image, in a virtual environment of its own
	@command -v $(PYTHON) >/dev/null || { echo "Error: $(PYTHON) is not installed; install Python 3.11, or name another with PYTHON=..."; exit 1; }
	@mkdir -p build && grep -vE '^(nvidia|cuda)-|^triton|^#' images/gptq.txt > build/gptq.txt
	test -d build/gptq || $(PYTHON) -m venv build/gptq
	build/gptq/bin/python -m pip install --quiet --disable-pip-version-check --requirement build/gptq.txt
	build/gptq/bin/python -m pip install --quiet --disable-pip-version-check $$(grep -E '^pytest(-timeout)?==' constraints.txt)
	build/gptq/bin/python -m pytest tests/tasks/quantize/test_gptq.py -q

benchmark: $(INSTALLED) ## Print the start-up cost as a ratio
	$(BIN)/python benchmarks/startup.py

clean: ## Remove outputs of local runs; steps whose outputs are gone run again
	rm -rf .flyte outputs flyte-package.tgz
