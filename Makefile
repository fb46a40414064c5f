# Every goal sets itself up: Python 3.11 or newer and make are all that is needed.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup up lambda demo test check nightly simulate lock package deploy undeploy maintenance clean

# The first interpreter that runs and is new enough; else python3, which is then told what is missing.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; exit; }; done; echo python3)
BIN := .venv/bin

help: ## List the goals
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 12

setup: ## Make .venv from the lock file (every other goal does it too)
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) found: install Python 3.11, 3.12 or 3.13, or name one with make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) requirements/bootstrap.py

up: setup ## Run the whole stack on this machine and print where to click
	@exec $(BIN)/python -m serverless.local.up

lambda: setup ## The same, with the web side as Lambda runs it; DOOR=http, rest, url, alb; STAGE=dev
	@exec $(BIN)/python -m serverless.local.up --lambda --door $(or $(DOOR),http) --stage "$(STAGE)"

demo: setup ## Run the main job on 336,776 flights without a browser
	@exec $(BIN)/python -m serverless.local.demo

# By the number of tests in them, files that are few and slow would come last, one core idle.
test: setup ## Run the tests that need nothing but pip
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder tests

check: setup ## Lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	SECRET_KEY=check $(BIN)/mypy
	$(BIN)/lint-imports

nightly: setup ## What is too long for CI: a file of a gigabyte, half an hour of random faults, all faults on SQLite
	@$(BIN)/python -m pytest -m nightly tests
	@$(BIN)/python -m pytest -n 3 --dist loadfile -m "faults and not broker" tests

simulate: setup ## Simulate scaling under load, as docs/scaling.md shows it; OPTIONS="--shape burst --seed 1"
	@$(BIN)/python -m tests.bench.simulation $(OPTIONS)

lock: setup ## Write the lock files anew from requirements/*.in
	requirements/lock.sh

package: setup ## Build the zip that Lambda runs, for TARGET=lambda (or local)
	@$(BIN)/python -m serverless.packaging --target $(or $(TARGET),lambda) $(if $(OUTPUT),--output $(OUTPUT))

deploy: setup ## Deploy a stage: STAGE=dev; says first what it will do
	@$(BIN)/python -m serverless.packaging
	@$(BIN)/python -m serverless.deploying deploy "$(STAGE)" $(OPTIONS)

undeploy: setup ## Remove a stage's function, front door and rules: STAGE=dev
	@$(BIN)/python -m serverless.deploying undeploy "$(STAGE)" $(OPTIONS)

maintenance: setup ## Close a stage's site for its visitors, or open it: STAGE=dev STATE=on
	@$(BIN)/python -m serverless.deploying maintenance "$(STAGE)" $(STATE) $(OPTIONS)

clean: ## Remove the virtual environment and the laptop's data
	rm -rf .venv .local build
