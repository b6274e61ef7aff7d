# What people and continuous integration run. `make help` lists it.

VENV := .venv-dev/bin
.DEFAULT_GOAL := help
.PHONY: help run test install templates check format unit integration conformance security bench docs clean

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

run:  ## set up, start a server, run the examples with both SDKs, stop it
	scripts/quickstart

test:  ## set up and run every check and test
	scripts/test

install:  ## .venv with the server, .venv-dev with the development tools, .venv-mcp for cloister mcp
	bash -euo pipefail -c '. scripts/lib.sh && ensure_venv server && ensure_venv dev && ensure_mcp'

templates:  ## build the stock templates (root)
	$(VENV)/cloister template build all

check:  ## lint, types and structure
	$(VENV)/ruff check .
	$(VENV)/mypy
	$(VENV)/pytest -q tests/style

format:  ## fix lint faults that can be fixed automatically
	$(VENV)/ruff check --fix .

unit:  ## tests without root and network
	$(VENV)/pytest -q tests/unit

integration:  ## tests on the real kernel, languages and network (root)
	scripts/test tests/integration

conformance:  ## tests with the official SDKs (root)
	scripts/test tests/conformance

security:  ## attacks and crashes (root)
	scripts/test tests/security tests/chaos

bench:  ## measure this machine (root)
	bash -euo pipefail -c '. scripts/lib.sh && ensure_venv bench'
	$(VENV)/python bench/report.py
	$(VENV)/python bench/files.py
	$(VENV)/python bench/ingress.py
	$(VENV)/python bench/templates.py

docs:  ## renew the generated documents, and build the documentation site in build/site
	$(VENV)/python -m cloister.config.document docs/configuration.md
	$(VENV)/python -m cloister.node.layout docs/files.md
	$(VENV)/python -m cloister.api.metrics.document docs/howto/monitoring.md
	$(VENV)/python scripts/site/reference.py
	bash -euo pipefail -c '. scripts/lib.sh && ensure_docs'
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict --config-file scripts/site/mkdocs.yml

clean:  ## remove the virtual environment and caches, not the templates
	rm -rf .venv .venv-dev .venv-examples .venv-mcp .venv-docs .venv-agents .venv-crewai .venv-harbor .venv-releases build .pytest_cache .mypy_cache .ruff_cache .proxies examples/javascript/node_modules
