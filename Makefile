# Four verbs do everything: run, test, lint, bench. Each makes what it needs, from a clean clone,
# on a machine with nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo run test lint format bench simulate model chaos lock clean help

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "meterbridge needs Python 3.11 or newer; name one with: make PYTHON=python3.11 ...")'
	@echo 'installing into $(VENV), once; this takes a minute or two'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: $(STAMP) ## See the main job running on real input; ONCE=1 exits when both sides are equal
	$(BIN)/meterbridge demo $(if $(ONCE),--once)

run: $(STAMP) ## Start the service for a real account (settings: environment or .env)
	$(BIN)/meterbridge serve $(ARGS)

test: $(STAMP) ## All tests, on a PostgreSQL of our own unless TEST_DATABASE_URL names one
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

lint: $(STAMP) ## ruff, mypy --strict, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## Measure beside floors and rivals; writes docs/performance.md (ARGS="ingest --quick")
	$(BIN)/python -m bench $(ARGS)

simulate: $(STAMP) ## A year of 50 subscriptions on a movable clock; writes docs/periods.md
	$(BIN)/python -m tests.simulation $(ARGS)

model: $(STAMP) ## Random deliveries, changes and faults against the model: STEPS=20000
	MODEL_STEPS=$(or $(STEPS),20000) MODEL_SEED=$(or $(SEED),random) $(BIN)/python -m pytest -n0 -q tests/model $(ARGS)

chaos: $(STAMP) ## 500 faults, 100,000 windows, 20 minutes; writes docs/reliability.md: ARGS="--seed 2"
	$(BIN)/python -m tests.chaos --page docs/reliability.md $(ARGS)

lock: $(STAMP) ## Renew the hash-checked lock files
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 --extra embedded --group dev pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 --constraint requirements/dev.txt pyproject.toml -o requirements/runtime.txt
	printf 'hatchling>=1.27\n' | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 --constraint requirements/dev.txt - -o requirements/build.txt

clean: ## Remove what the other verbs made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
