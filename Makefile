# Commands of the project; `make help` lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
# uv makes the environment; when it is not installed, a copy of its own goes to .cache/uv.
UV := $(shell command -v uv || echo .cache/uv/bin/uv)
UV_VERSION := 0.13.8
PYTHONS := >=3.11,<3.14

export FRUITS_CACHE_DIR := $(CURDIR)/.cache

# Airflow, TensorFlow and moto take seconds to compile: each process would do it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: demo
demo: $(VENV)/.run ## run the whole pipeline here; IMAGES=<folder or s3://> WEIGHTS=<imagenet|file|random:0> COMPONENTS=50 PRECISION=<float32|int8>
	@$(BIN)/python -m fruit_pipeline.demo \
	  $(if $(IMAGES),--images '$(IMAGES)') $(if $(WEIGHTS),--weights '$(WEIGHTS)') \
	  $(if $(ALPHA),--alpha '$(ALPHA)') $(if $(COMPONENTS),--components '$(COMPONENTS)') \
	  $(if $(VARIANCE),--variance '$(VARIANCE)') \
	  $(if $(PRECISION),--precision '$(PRECISION)') $(if $(INPUT_SIZE),--input-size '$(INPUT_SIZE)')

.PHONY: test
test: lint unit e2e ## all checks: lint, types, unit tests, end-to-end runs

.PHONY: unit
unit: $(VENV)/.dev ## unit tests only
	@echo "unit tests"
	@$(BIN)/python -m pytest -m "not e2e" --numprocesses 2 --dist loadfile

.PHONY: e2e
e2e: $(VENV)/.dev ## end-to-end tests only: real Airflow, local AWS, Spark
	@echo "end-to-end tests"
	@$(BIN)/python -m pytest -m e2e

.PHONY: bench
bench: $(VENV)/.dev ## benchmarks at small sizes; IMAGES=<folder> WEIGHTS=<file>
	@$(BIN)/python -m benchmarks --quick $(BENCH_OPTIONS)

.PHONY: bench-full
bench-full: $(VENV)/.dev ## benchmarks at full sizes (80 minutes), written to benchmarks/RESULTS.md; IMAGES=<folder> WEIGHTS=<file>
	@$(BIN)/python -m benchmarks --full $(BENCH_OPTIONS)

BENCH_OPTIONS = $(if $(IMAGES),--images '$(IMAGES)') $(if $(WEIGHTS),--weights '$(WEIGHTS)')

.PHONY: infra-plan
infra-plan: $(VENV)/.dev ## what infra/template.yaml makes in an AWS account, and what each permission is for
	@$(BIN)/python infra/plan.py

.PHONY: clean-run
clean-run: $(VENV)/.run ## show a run's temporary data; RUN=<key or s3://> YES=1 deletes it, EVERYTHING=1 its results too
	@test -n '$(RUN)' || { echo "error: give RUN=<key>, or RUN=s3://<bucket>/runs/<key>"; exit 2; }
	@$(BIN)/python -m fruit_pipeline.clean --run '$(RUN)' $(if $(EVERYTHING),--everything) $(if $(YES),--yes,--dry-run)
	@$(if $(YES),:,echo "nothing was deleted; the same with YES=1 deletes this")

.PHONY: lint
lint: $(VENV)/.dev ## ruff and mypy
	@echo "ruff, mypy"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: env
env: $(VENV)/.dev ## make the environment with everything for development

.PHONY: lock
lock: $(UV) ## compile the *.in files to pinned requirements with hashes
	@$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url requirements.in -o requirements.txt
	@$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url requirements-dev.in -o requirements-dev.txt
	@cd bootstrap && $(abspath $(UV)) pip compile -q --python-platform linux --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url requirements-node.in -o requirements-node.txt

.PHONY: clean
clean: ## delete the environment, caches, the local AWS's buckets and the demo's output
	rm -rf $(VENV) .cache demo-output .mypy_cache .pytest_cache .ruff_cache *.egg-info

# The environments, made again when what they are made from changes.

.cache/uv/bin/uv:
	@echo "installing uv $(UV_VERSION) into .cache/uv"
	@python3 -m venv .cache/uv || { echo "error: python3 has no venv; install your system's python3-venv package, or uv"; exit 2; }
	@.cache/uv/bin/pip install -q --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/bin/python: | $(UV)
	@$(UV) venv -q --python '$(PYTHONS)' $(VENV) || { echo "error: a Python $(PYTHONS) is needed"; exit 2; }

$(VENV)/.run: requirements.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing Airflow, Spark and TensorFlow into $(VENV) (2.7 GB, once)"
	@$(UV) pip install -q --python $(VENV) --require-hashes -r requirements.txt
	@$(UV) pip install -q --python $(VENV) --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	@echo "installing pytest, ruff and mypy into $(VENV)"
	@$(UV) pip install -q --python $(VENV) --require-hashes -r requirements-dev.txt
	@touch $@
