# One .venv for everything; `make` alone explains itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# what the environment is made of: when it changes, so does the key, and `setup` runs again
KEY := $(shell { $(PYTHON) --version; cat pyproject.toml constraints.txt; } 2>/dev/null | cksum | tr ' ' -)

# test files at once, one for each processor but never one alone; each process has a PostgreSQL of its own
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n > 2 ? n : 2)))

# stacks that `chaos-full` breaks side by side: times of recovery are only worth something with cores to spare
AT_ONCE ?= 1

# hundreds of processes start in the tests: each would compile us anew
unexport PYTHONDONTWRITEBYTECODE

# human ratings, where this machine has them
DATA ?= $(wildcard ../shared/data)

.DEFAULT_GOAL := help
.PHONY: help setup install demo up test browser long lint bench pages screens routing allocation chaos chaos-full soak hostile audit lock

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## make .venv, or find it current
	@if [ "$$(cat $(STAMP) 2>/dev/null)" != "$(KEY)" ]; then $(MAKE) --no-print-directory install; fi

install:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; type: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt \
	  -e '.[models,postgres,flower,api,parquet,otel]' --group dev
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true # pip would on one core; templates of Python 2 fail
	@echo $(KEY) > $(STAMP)

demo: setup ## start everything, draw the example prompts under a budget, write demo/report.html
	$(BIN)/routet2i --home demo demo

up: setup ## run everything on this machine until Ctrl-C
	$(BIN)/routet2i up

test: lint browser ## lint, then every test that needs no accelerator; WORKERS=2 for fewer at once
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

browser: setup ## fetch a Chromium for the tests of the pages, where this machine has none
	@$(BIN)/python -m tests.pages.chromium

long: setup ## every statement of every pair of transactions, thousands of orders, clean environments of images
	$(BIN)/python -m pytest -m long

lint: setup ## ruff, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## measure speed, write reports/bench.json
	$(BIN)/python -m tests.bench

pages: setup ## measure how long pages take with 100,000 jobs, write reports/pages.json
	$(BIN)/python -m tests.pages

screens: browser ## draw the pages and Flower into docs/screens, with Chromium
	$(BIN)/python -m tests.pages --screens docs/screens

routing: setup ## measure every router, write docs/routing.md; DATA=FOLDER of rated sets
	$(BIN)/python -m scheduler.routing $(if $(DATA),--data $(DATA))

allocation: setup ## measure money and windows, write reports/allocation.json; PARTS="speed windows" for some
	$(BIN)/python -m tests.allocation $(if $(PARTS),--parts $(PARTS))

chaos: setup ## break everything for ten minutes, write reports/chaos.json
	$(BIN)/python -m tests.chaos --database sqlite --jobs 600 --faults 24 --report reports/chaos.json
	$(BIN)/python -m tests.chaos --database postgresql --jobs 600 --faults 30 --report reports/chaos.json
	$(BIN)/python -m tests.chaos --controls --only N1,N3,N4 --report reports/chaos.json
	$(BIN)/python -m tests.chaos --bare --jobs 600 --report reports/chaos.json
	$(BIN)/python -m routet2i.figures docs/reliability.md

chaos-full: setup ## 20 seeds x 6,000 jobs x 100 faults on each database: hours, and again goes on where it was left; AT_ONCE=4
	mkdir -p runs
	$(BIN)/python -m tests.chaos --database postgresql --full --runs 20 --jobs 6000 --faults 100 --json \
	  --at-once $(AT_ONCE) --verdicts runs/chaos-full.jsonl --report reports/chaos.json --part "full, postgresql, broker none"
	$(BIN)/python -m tests.chaos --database sqlite --full --runs 20 --jobs 6000 --faults 100 --json \
	  --at-once $(AT_ONCE) --verdicts runs/chaos-full.jsonl --report reports/chaos.json --part "full, sqlite, broker none"
	$(BIN)/python -m tests.chaos --database postgresql --broker aof --jobs 2000 --faults 60 \
	  --report reports/chaos.json
	$(BIN)/python -m tests.chaos --database postgresql --alone --jobs 1000 --faults 60 \
	  --report reports/chaos.json --part "one at a time, postgresql"
	for database in sqlite postgresql; do for cloud in http keys; do \
	  $(BIN)/python -m tests.chaos --database $$database --cloud $$cloud --runs 5 --jobs 1000 --faults 40 --json \
	    --report reports/chaos.json || exit 1; done; done
	$(BIN)/python -m tests.chaos --controls --report reports/chaos.json
	$(BIN)/python -m routet2i.figures docs/reliability.md

soak: setup ## half an hour on each database at the highest load that lasts, write reports/soak.json
	$(BIN)/python -m tests.soak --cores 2 --database sqlite --report reports/soak.json
	$(BIN)/python -m tests.soak --cores 2 --database postgresql --report reports/soak.json
	$(BIN)/python -m tests.soak --cores 2 --renderer pocket --minutes 10 --report reports/soak.json
	$(BIN)/python -m tests.soak --controls --report reports/soak.json
	$(BIN)/python -m routet2i.figures docs/reliability.md

hostile: setup ## give every door 120,000 hostile inputs, write reports/hostile.json; FUZZ=60 fuzzes besides
	$(BIN)/python -m tests.hostile --report reports/hostile.json $(if $(FUZZ),--fuzz $(FUZZ))

audit: setup ## advisories, bill of materials and licences of all that is pinned
	$(BIN)/python -m tests.supply

lock: setup ## write what is installed to constraints.txt
	$(BIN)/python -m pip list --format=freeze --exclude-editable --exclude pip \
	  --exclude setuptools --exclude wheel > constraints.txt
