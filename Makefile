# `make demo` and `make test` do all set-up on a fresh machine with Python 3.11 or later.
PYTHON ?= python3
CORES ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# What to try after the demo, in the words of its users.
NEXT := 'Activate the environment, then try:' '' '    source $(VENV)/bin/activate' \
	'    gensar recommend results/demo gensar_demo --user "\#17" --top 5' \
	'    gensar search results/demo gensar_demo "camp hike shelter dome tent" --user "\#17" --top 5' \
	'    make report     \# one page of all results: report.html'

.PHONY: demo environment test unit lint types style long report docs clean

demo: $(READY)
	$(BIN)/gensar run --cores $(CORES) results/tables/demo.csv
	@$(BIN)/gensar table results/tables/demo.csv
	@printf '%s\n' '' 'The shop is simulated: this shows that everything works and proves no quality.' '' $(NEXT)

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

# One page of all that is finished in results/, to look at or to send.
report: $(READY)
	$(BIN)/gensar report results --output report.html

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
