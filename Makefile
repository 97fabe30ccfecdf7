# Two commands: `make run` (install, then the whole path on generated data) and `make test`.
# Needs Python 3.11 or 3.12 with venv, and make. No conda, no ffmpeg, no compiler.

PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
export UV_PYTHON_DOWNLOADS := never

.PHONY: run test test-slow torture golden lint bench bench-gpu setup lock schema docs clean

run: setup  ## Build the demo from raw folders to the report
	$(BIN)/snakemake --cores all all
	@echo "report: $(CURDIR)/results/report.html"

test: setup  ## Tests, without the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-slow: setup  ## The slow tests alone: whole workflow runs, full-size networks
	$(BIN)/python -m pytest -m slow

torture: setup  ## Every promise of docs/reliability.md in full (ARGS="kills --scale 0.1", ARGS=--docs)
	$(BIN)/python -m tests.torture $(ARGS)

golden: setup  ## Golden log-mel with another Python (OTHER=/path/to/python3.12) and the lock's packages for it, fetched; .venv stays as it is
	@test -n "$(OTHER)" || { echo "error: name a Python: make golden OTHER=/path/to/python3.12"; exit 1; }
	UV_CONSTRAINT=requirements.txt $(BIN)/uv run -q --no-project --isolated --python "$(OTHER)" \
		--with numpy --with pyarrow --with soundfile --with soxr python -m tests.torture.mel

lint: setup  ## Formatters, linters, types, workflow lint, schema up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint

bench: setup  ## Speed beside plain baselines, as ratios from one run
	$(BIN)/python -m tests.bench

bench-gpu:  ## Speed of full-size steps on a GPU, with .venv or else the python3 of the node (ARGS=--profile, ...)
	$(or $(wildcard $(BIN)/python),python3) -m tests.bench.gpu --json results/bench-gpu.json $(ARGS)

setup: .venv/ready  ## Build .venv from the hash-pinned requirements

.venv/ready: requirements.txt
	@test ! -L .venv || { echo "error: .venv is a link, and building it would empty the folder that it names; remove the link first"; exit 1; }
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 with venv found; install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@free=$$(df -Pk . | awk 'NR==2 {print int($$4 / 1048576)}'); test "$$free" -ge 8 || { echo "error: $$free GiB free here, the environment needs 8 (torch alone 5)"; exit 1; }
	@echo "building .venv with $(PYTHON) (downloads about 2.6 GB once)"
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install -q uv==0.13.8
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.txt
	@touch $@

lock: setup  ## Remake requirements*.txt from their direct lists
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links -o requirements.txt requirements-direct.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links -c requirements.txt -o requirements-cluster.txt requirements-cluster-direct.txt

docs: setup  ## Remake the parts of README.md and docs/ that are made from code
	$(BIN)/python -m tests.readme
	$(BIN)/python -m tests.evaluate.zoo_page

schema: setup  ## Remake workflow/schemas from pipeline/base/config.py
	$(BIN)/python -m pipeline.make_schema workflow/schemas/config.schema.json

clean:  ## Remove everything a run made; the environment stays
	rm -rf results logs benchmarks .snakemake
