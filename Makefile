# make quickstart   set up everything in .venv and run the main job: two ablations, two reports
# make test         set up everything and run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

# Where this is set, every process compiles torch and Lightning anew: 24 s an import in place of 9.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup quickstart test lint types bench compatibility algorithms gumbel derivations study proof table clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(0 if ok else "nastricks needs Python 3.11 to 3.13; name one with make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

quickstart: setup
	$(BIN)/nastricks ablate recipes/ablations/quickstart.yaml recipes/ablations/quickstart_darts.yaml --workers $(WORKERS)

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks

# Evidence that writes pages of docs/. With two workers on two cores of an AMD EPYC: compatibility 11 minutes (1,221 pairs),
# algorithms 25; gumbel 3 minutes on one core.
compatibility: setup
	$(BIN)/python -m proofs compatibility --workers $(WORKERS)

algorithms: setup
	$(BIN)/nastricks ablate recipes/ablations/algorithms.yaml --workers $(WORKERS) --out runs/algorithms
	$(BIN)/python -m proofs algorithms runs/algorithms

gumbel: setup
	$(BIN)/python -m proofs gumbel

# Who should share which weights: 235 trainings of supernets, 23 minutes with two workers.
study: setup
	$(BIN)/nastricks ablate recipes/ablations/weight_sharing.yaml --workers $(WORKERS) --out runs/weight_sharing

derivations: setup
	$(BIN)/python -m proofs derivations

# Twenty steps of every gradient-based recipe on real CIFAR-10, which NASTRICKS_DATA names: 9 minutes on one core.
proof: setup
	$(BIN)/python -m proofs cifar10

# The shipped ground truth: 64 children, 10 replicas each; and shorter trainings for Hyperband, 5 replicas each.
TABLE := -c recipes/spaces/tiny64.yaml -c recipes/data/digits.yaml -c recipes/child/tiny64.yaml --workers $(WORKERS)
table: setup
	$(BIN)/nastricks bench $(TABLE) --replicas 10 --out runs/table
	$(BIN)/nastricks bench $(TABLE) --replicas 5 --trainer.max_epochs 2 --out runs/table-2-epochs
	$(BIN)/nastricks bench $(TABLE) --replicas 5 --trainer.max_epochs 6 --out runs/table-6-epochs
	cp runs/table/table.csv src/nastricks/tables/tiny64_digits.csv
	cp runs/table-2-epochs/table.csv src/nastricks/tables/tiny64_digits_2_epochs.csv
	cp runs/table-6-epochs/table.csv src/nastricks/tables/tiny64_digits_6_epochs.csv

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache
