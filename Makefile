# Commands of the project; `make help` lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
# uv creates the environment. If uv is not installed, a copy is installed into .cache/uv.
UV := $(shell command -v uv || echo .cache/uv/bin/uv)
UV_VERSION := 0.13.8
PYTHONS := >=3.11,<3.14

export FRUITS_CACHE_DIR := $(CURDIR)/.cache

# Airflow, TensorFlow and moto take seconds to compile, which each process would repeat.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

.PHONY: demo
demo: $(VENV)/.run ## run the whole pipeline here; IMAGES=<folder or s3://> WEIGHTS=<imagenet|file|random:0> COMPONENTS=50 PRECISION=<float32|int8>
	@$(BIN)/python -m fruit_pipeline demo \
	  $(if $(IMAGES),--images '$(IMAGES)') $(if $(WEIGHTS),--weights '$(WEIGHTS)') \
	  $(if $(ALPHA),--alpha '$(ALPHA)') $(if $(COMPONENTS),--components '$(COMPONENTS)') \
	  $(if $(VARIANCE),--variance '$(VARIANCE)') \
	  $(if $(PRECISION),--precision '$(PRECISION)') $(if $(INPUT_SIZE),--input-size '$(INPUT_SIZE)')

# Airflow and its AWS as containers; docker-compose.yaml. Nothing here needs the environment below.

PYTHON3 := $(shell command -v python3 || echo python3)
COMPOSE := docker compose
ifdef PROFILE
export COMPOSE_PROFILES := $(PROFILE)
endif

.PHONY: up
up: env ## start Airflow and its AWS in containers; PROFILE=<local|localstack|aws>
	@$(PYTHON3) docker/preflight.py
	@others=$$(comm -13 <($(COMPOSE) config --services | sort) <($(COMPOSE) --profile '*' config --services | sort)); \
	  $(COMPOSE) --profile '*' rm --stop --force $$others >/dev/null 2>&1 || true
	@echo "building the image (2.9 GB; 2 to 10 minutes the first time), starting the containers"
	@$(COMPOSE) up --detach --wait --wait-timeout 900 --quiet-pull || { \
	  echo "error: not every container became healthy; \`docker compose ps --all\` shows which, \`make logs\` why"; exit 1; }
	@echo "Airflow: http://$$($(COMPOSE) port api-server 8080); user and password: UI_USER and UI_PASSWORD in .env"

.PHONY: down
down: ## stop the containers; their data is kept
	@$(COMPOSE) --profile '*' down --remove-orphans

.PHONY: logs
logs: ## follow the logs of the containers; SERVICE=<name> for one
	@$(COMPOSE) --profile '*' logs --follow --tail 200 $(SERVICE)

.PHONY: reset
reset: ## stop the containers and delete their data: YES=1
	@test -n '$(YES)' || { echo "this deletes Airflow's database and logs, the local AWS's buckets and the caches; the same with YES=1 does it"; exit 2; }
	@$(COMPOSE) --profile '*' down --remove-orphans --volumes

.PHONY: env
env: ## write .env for the containers: secrets, ports, folders; existing values are kept
	@$(PYTHON3) docker/make_env.py

# Tests wait for processes and answers: three workers keep two cores busy.
PYTEST := $(BIN)/python -m pytest

.PHONY: test
test: $(VENV)/.dev ## lint, types, unit tests, one whole run and one refused run
	@mkdir -p .cache/test; failed=; \
	$(MAKE) lint >.cache/test/lint.log 2>&1 & lint=$$!; \
	$(MAKE) smoke >.cache/test/smoke.log 2>&1 & smoke=$$!; \
	trap 'kill $$lint $$smoke 2>/dev/null || true' EXIT; \
	$(MAKE) unit || failed=" unit"; \
	wait $$smoke || failed="$$failed smoke"; cat .cache/test/smoke.log; \
	wait $$lint || failed="$$failed lint"; cat .cache/test/lint.log; \
	test -z "$$failed" || { echo "error: failed:$$failed"; exit 1; }

.PHONY: test-all
test-all: ## make test, and everything else: more whole runs, scheduler, notebooks, hostile runs, containers
	@failed=; $(MAKE) test || failed=" test"; $(MAKE) test-rest || failed="$$failed test-rest"; \
	test -z "$$failed" || { echo "error: failed:$$failed"; exit 1; }

.PHONY: test-rest
test-rest: ## what make test-all runs beside make test
	@$(MAKE) --keep-going e2e compose

.PHONY: unit
unit: $(VENV)/.dev ## unit tests only
	@echo "unit tests"
	@$(PYTEST) -m "not smoke and not e2e and not slow and not faults and not compose" --numprocesses 3 --dist worksteal

.PHONY: smoke
smoke: $(VENV)/.dev ## one whole run of the DAG and one refused run: real Airflow, local AWS, Spark
	@echo "one whole run and one refused run"
	@$(PYTEST) -m smoke tests/e2e

.PHONY: e2e
e2e: $(VENV)/.dev ## the other whole runs, and the slow unit tests
	@echo "end-to-end and slow tests"
	@$(PYTEST) -m "e2e or slow" --numprocesses 3 --dist loadfile

.PHONY: faults
faults: $(VENV)/.dev ## break whole runs in every way we know and print what came of it; PAGE=docs/reliability.md keeps the table
	@echo "faults: some 150 whole runs of the DAG, three at a time: about two hours on two cores"
	@$(PYTEST) -m faults tests/faults tests/load --numprocesses 3 --dist load $(if $(PAGE),--faults-page '$(PAGE)')

.PHONY: compose
compose: $(VENV)/.dev ## tests of the containers only; skipped, with the reason, where no Docker engine runs
	@echo "container tests"
	@$(PYTEST) -m compose tests/compose

.PHONY: screenshots
screenshots: $(VENV)/.dev ## the browser test of the containers, which saves its pictures in docs/images; IMAGES=<folder> WEIGHTS=<file>
	@FRUITS_SCREENSHOTS='$(CURDIR)/docs/images' \
	  $(if $(IMAGES),FRUITS_IMAGES='$(abspath $(IMAGES))') \
	  $(if $(WEIGHTS),FRUITS_WEIGHTS_DIR='$(dir $(abspath $(WEIGHTS)))' FRUITS_WEIGHTS='/weights/$(notdir $(WEIGHTS))') \
	  $(PYTEST) -m compose tests/compose/test_browser.py

.PHONY: bench
bench: $(VENV)/.dev ## benchmarks at small sizes; IMAGES=<folder> WEIGHTS=<file>
	@$(BIN)/python -m benchmarks --quick $(BENCH_OPTIONS)

.PHONY: bench-full
bench-full: $(VENV)/.dev ## benchmarks at full sizes (hours), written to benchmarks/RESULTS.md; IMAGES=<folder> WEIGHTS=<file>
	@$(BIN)/python -m benchmarks --full $(BENCH_OPTIONS)

BENCH_OPTIONS = $(if $(IMAGES),--images '$(IMAGES)') $(if $(WEIGHTS),--weights '$(WEIGHTS)')

.PHONY: notebooks
notebooks: $(VENV)/.dev ## execute the notebooks and save their output; IMAGES=<folder> WEIGHTS=<imagenet|file>
	@test -n '$(IMAGES)' || { echo "error: give IMAGES=<folder of <label>/<image>>"; exit 2; }
	@$(BIN)/python notebooks/execute.py --images '$(IMAGES)' --weights '$(or $(WEIGHTS),imagenet)'

.PHONY: infra-plan
infra-plan: $(VENV)/.dev ## what infra/template.yaml creates in an AWS account, and the purpose of each permission
	@$(BIN)/python infra/plan.py

.PHONY: clean-run
clean-run: $(VENV)/.run ## show a run's temporary data; RUN=<key or s3://> YES=1 deletes it, EVERYTHING=1 its results too
	@test -n '$(RUN)' || { echo "error: give RUN=<key>, or RUN=s3://<bucket>/runs/<key>"; exit 2; }
	@$(BIN)/python -m fruit_pipeline clean --run '$(RUN)' $(if $(EVERYTHING),--everything) $(if $(YES),--yes,--dry-run)
	@$(if $(YES),:,echo "nothing was deleted; the same with YES=1 deletes this")

.PHONY: lint
lint: $(VENV)/.dev ## ruff, mypy, bandit
	@echo "ruff, mypy, bandit"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/bandit -q -c pyproject.toml -r $(CODE)

CODE := dags spark_jobs local_emr docker infra benchmarks examples notebooks/execute.py

# pip-audit's result changes daily, and comes from a service of PyPI, so it is not part of the tests.
# `--strict`: a package without data fails it.
AUDIT := $(UV) tool run -q --from pip-audit==2.10.1 pip-audit --strict --disable-pip --require-hashes \
  --progress-spinner off
AUDITED := requirements.txt requirements-dev.txt bootstrap/requirements-node.txt
IGNORED = $(shell sed -n 's/^\([A-Za-z0-9-]\{1,\}\) .*/--ignore-vuln \1/p' .pip-audit-ignored)

.PHONY: audit
audit: $(VENV)/.dev ## known vulnerabilities of the dependencies (asks PyPI), unsafe code, secrets in the tree and git's history
	@echo "bandit"
	@$(BIN)/bandit -q -c pyproject.toml -r $(CODE)
	@echo "secrets in the tree and in the history"
	@$(BIN)/python tests/security/secret_scan.py
	@$(BIN)/python tests/security/secret_scan.py --history
	@failed=; for file in $(AUDITED); do \
	  echo "pip-audit $$file"; $(AUDIT) $(IGNORED) -r "$$file" || failed="$$failed $$file"; \
	done; test -z "$$failed" || { \
	  echo "error: NOT AUDITED, or with known vulnerabilities:$$failed. The lines above say which; without PyPI"; \
	  echo "nothing is known. A vulnerability that does not affect us goes into .pip-audit-ignored, with the reason"; \
	  exit 1; }

.PHONY: venv
venv: $(VENV)/.dev ## create the environment with everything for development

.PHONY: lock
lock: $(UV) ## compile the *.in files to pinned requirements with hashes
	@$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url requirements.in -o requirements.txt
	@$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url requirements-dev.in -o requirements-dev.txt
	@cd bootstrap && $(abspath $(UV)) pip compile -q --python-platform linux --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url requirements-node.in -o requirements-node.txt

.PHONY: clean
clean: ## delete the environment, caches, the local AWS's buckets and the demo's output
	rm -rf $(VENV) .cache demo-output .mypy_cache .pytest_cache .ruff_cache *.egg-info

# The environments, created again when their requirements change.

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
