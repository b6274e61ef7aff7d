# What people and continuous integration run. `make help` lists it.

VENV := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help run test install templates check format unit bench docs clean

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

run:  ## set up, start a server, run the examples with both SDKs, stop it
	scripts/quickstart

test:  ## set up and run every check and test
	scripts/test

install:  ## .venv with cloister and the development tools
	bash -euo pipefail -c '. scripts/lib.sh && ensure_venv dev'

templates:  ## build the stock templates (root)
	$(VENV)/cloister template build all

check:  ## lint and types
	$(VENV)/ruff check .
	$(VENV)/mypy src/cloister
	$(VENV)/pytest -q tests/style

format:  ## repair what lint can repair
	$(VENV)/ruff check --fix .

unit:  ## the tests that need no root and no network
	$(VENV)/pytest -q tests/unit tests/style

bench:  ## measure this machine (root)
	$(VENV)/python -m bench

docs:  ## renew the generated documents
	$(VENV)/python -m cloister.config.document docs/configuration.md

clean:  ## remove the virtual environment and caches, not the templates
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache examples/javascript/node_modules
