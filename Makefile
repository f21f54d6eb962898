# `make demo` and `make test` do all set-up on a fresh machine with Python 3.11 or later.
PYTHON ?= python3
CORES ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo environment test unit lint types style long report docs clean

demo: $(READY)
	$(BIN)/snakemake --cores $(CORES) results/tables/demo.csv
	@cat results/tables/demo.md

environment: $(READY)

# Tests run side by side, one to a core, with one thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(CORES)

test: lint
	$(PYTEST) --dist worksteal -m "not workflow and not realdata and not cluster and not long"
	$(PYTEST) --dist loadfile --durations=15 -m "(workflow or realdata) and not cluster and not long"

unit: $(READY)
	$(PYTEST) --dist worksteal -m "not slow and not workflow and not realdata and not cluster"

# Every stage killed at every moment, all experiments of the paper in a small size, the report in a browser, and the flow
# on a real Slurm, where these can be had: `apt-get install chromium slurmctld slurmd slurm-client munge`, as root.
long: $(READY)
	$(PYTEST) --dist loadfile -rs --durations=15 -m "long or cluster"

# One page of all that has been built: `make report` after `snakemake all`, or TARGETS="results/overview/demo.html".
report: $(READY)
	$(BIN)/snakemake --cores $(CORES) --report report.html $(TARGETS)

# The documentation as a site, in site/; a broken link is an error (not with --quiet, which drops the warnings).
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: $(READY)
	$(MAKE) --no-print-directory --jobs $(CORES) types style

types: $(READY)
	$(BIN)/mypy

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

# Torch by itself and pinned first: a range would fetch a build with gigabytes of GPU libraries where none is needed.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo,dev]"
	touch $(READY)

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $(VENV)/.docs

clean:
	rm -rf results .snakemake site
