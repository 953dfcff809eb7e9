# Everything runs in a tool environment of this folder; nothing is installed globally.
#
#   make demo                 the whole loop on this machine, on real data (ARGS="--once --summary demo.json")
#   make test                 the tests
#   make pumps SEEDS=10       the demo's pumps with so many seeds, and the figures over all (long)
#   make test-tflite          those of models, slots and crashes on the other TFLite runtime
#   make extras               the tests of MLflow and Ray, in an environment of their own
#   make fleet                virtual devices against a broker of your own (ARGS="--fleet acme --host ...")
#   make bench ARGS=console   the dashboard on ten thousand devices and ten million frames (5 GB, minutes)
#   make site                 the documentation as a website, in build/site
#   make check                lint, types, import rules, locks, generated documents

SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
UV := .tools/bin/uv
RUN := $(VENV)/bin
MEMBERS := $(shell sed -n '/^members = \[/,/^\]/s/^ *"\(.*\)",/\1/p' pyproject.toml)
SOURCES := $(MEMBERS:%=%/src)
ARGS ?=
TFLITE := .venv-tflite
TFLITE_TESTS := tests/unit/scoring/test_golden.py tests/integration/scoring tests/integration/inference tests/crash/inference --ignore=tests/integration/inference/test_signed_install.py --ignore=tests/crash/inference/test_update_lock.py
RUNS ?= 1000
ROWS ?= 1000000
SEEDS ?= 10
ROWS_WAITING ?= 100000
export UV_PYTHON_DOWNLOADS = never
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# uv brings its own certificates; behind a company's proxy the system's are the right ones.
export SSL_CERT_FILE ?= $(wildcard /etc/ssl/certs/ca-certificates.crt)

.PHONY: help up down demo test test-tflite extras check lint types imports locks-fresh docs docs-fresh images-files images-fresh alone format lock bench pumps torture storm simulate fleet upgrade-day system site clean

help:
	@sed -n 's/^#   //p' Makefile

$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 with venv (Debian: apt-get install python3.11-venv), or say make PYTHON=..."; exit 1; }
	@echo "== making the tool environment"
	@$(PYTHON) -m venv .tools
	@.tools/bin/pip install --quiet --require-hashes -r locks/tools.txt

$(VENV)/.ready: $(UV) locks/dev.txt pyproject.toml $(MEMBERS:%=%/pyproject.toml)
	@echo "== installing the locked packages (TensorFlow is large: some minutes the first time)"
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	@$(UV) pip install --quiet --python $(RUN)/python --require-hashes -r locks/dev.txt
	@$(UV) pip install --quiet --python $(RUN)/python --no-deps --no-build-isolation $(MEMBERS:%=-e ./%)
	@touch $@

demo: $(VENV)/.ready
	@$(RUN)/python -m fieldloop_demo $(ARGS)

test: $(VENV)/.ready
	@$(RUN)/pytest -q $(ARGS)

# tflite-runtime needs numpy 1 and must not share a process with another runtime: its own environment.
$(TFLITE)/.ready: $(UV) locks/inference-tflite.txt locks/testing-tflite.txt $(MEMBERS:%=%/pyproject.toml)
	@echo "== installing the locked packages of tflite-runtime"
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) $(TFLITE)
	@$(UV) pip install --quiet --python $(TFLITE)/bin/python --require-hashes -r locks/inference-tflite.txt -r locks/testing-tflite.txt
	@$(UV) pip install --quiet --python $(TFLITE)/bin/python --no-deps --no-build-isolation $$($(PYTHON) tools/lock.py --folders inference-tflite | sed 's|^|-e ./|')
	@touch $@

# The models are built by TensorFlow, which is in the other environment; they are found by their hash.
# A signed install needs the cloud's packages, which are not in this one.
test-tflite: $(VENV)/.ready $(TFLITE)/.ready
	@cd tests && ../$(RUN)/python -c "from support.models import model; model('good')"
	@$(TFLITE)/bin/pytest -q $(TFLITE_TESTS) $(ARGS)

.venv-extras/.ready: $(UV) locks/training-extras.txt $(MEMBERS:%=%/pyproject.toml)
	@echo "== installing MLflow and Ray beside TensorFlow (some minutes the first time)"
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-extras
	@$(UV) pip install --quiet --python .venv-extras/bin/python --require-hashes -r locks/training-extras.txt
	@$(UV) pip install --quiet --python .venv-extras/bin/python --no-deps --no-build-isolation $(MEMBERS:%=-e ./%)
	@touch $@

extras: .venv-extras/.ready
	@.venv-extras/bin/python -m pytest -q tests/extras $(ARGS)

check: lint types imports locks-fresh docs-fresh images-fresh
	@echo "== all checks passed"

lint: $(VENV)/.ready
	@echo "== ruff"
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .

types: $(VENV)/.ready
	@echo "== mypy --strict"
	@$(RUN)/mypy $(SOURCES)

imports: $(VENV)/.ready
	@echo "== import rules"
	@$(RUN)/lint-imports

locks-fresh: $(VENV)/.ready
	@echo "== locks"
	@$(RUN)/python tools/lock.py --uv $(UV) --check

docs: $(VENV)/.ready
	@$(RUN)/python tools/docs.py

docs-fresh: $(VENV)/.ready
	@echo "== generated documents"
	@$(RUN)/python tools/docs.py --check

images-files: $(VENV)/.ready
	@$(RUN)/python tools/dockerfiles.py

images-fresh: $(VENV)/.ready
	@echo "== Dockerfiles"
	@$(RUN)/python tools/dockerfiles.py --check

alone: $(VENV)/.ready
	@$(RUN)/python tools/alone.py --uv $(UV)

format: $(VENV)/.ready
	@$(RUN)/ruff check --fix .
	@$(RUN)/ruff format .

lock: $(UV)
	@$(PYTHON) tools/lock.py --uv $(UV)

# From the previous release to this one and back, with ROWS_WAITING rows in the log (some minutes).
upgrade-day: $(VENV)/.ready
	@LONG_TESTS=1 FIELDLOOP_ROWS=$(ROWS_WAITING) $(RUN)/pytest -q -s tests/compatibility/test_upgrade_day.py $(ARGS)

# The images and the whole compose system, with containers killed at random; needs a docker engine.
system: $(VENV)/.ready
	@$(RUN)/pytest -q -s tests/system/test_images.py tests/system/test_compose.py $(ARGS)

bench: $(VENV)/.ready
	@$(RUN)/python -m benchmarks $(ARGS)

pumps: $(VENV)/.ready
	@$(RUN)/python -m fieldloop_demo.pumps --seeds $(SEEDS) $(ARGS)

torture: $(VENV)/.ready
	@$(RUN)/python tests/crash/ingestion/torture.py --runs $(RUNS)

storm: $(VENV)/.ready
	@$(RUN)/python tests/crash/telemetry/storm.py --rows $(ROWS)
	@$(RUN)/python tests/crash/telemetry/storm.py --rows $(ROWS) --store postgresql --replicas 3

simulate: $(VENV)/.ready
	@$(RUN)/python -u -m fieldloop_delivery simulate $(ARGS)

# The notice about another generator's future is no finding about these pages.
site: $(VENV)/.ready
	@NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --quiet --strict

fleet: $(VENV)/.ready
	@$(RUN)/python -m fieldloop_simulator run $(ARGS)

up: $(VENV)/.ready
	@$(RUN)/python -m fieldloop_demo.stack up $(ARGS)

down: $(VENV)/.ready
	@$(RUN)/python -m fieldloop_demo.stack down $(ARGS)

clean:
	rm -rf .venv .venv-tflite .venv-extras .tools .demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
