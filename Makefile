# `make demo` and `make test` set up everything they need; a second call of either starts in seconds.
.PHONY: demo test lint coverage mutants errors bench environment clean postgresql clients
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
DEMO ?= demo
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
# Prefect's database of this checkout, not the user's own.
export PREFECT_HOME ?= $(CURDIR)/.make/prefect
export MPLCONFIGDIR ?= $(CURDIR)/.make/matplotlib

environment: .venv/ready

# torch is installed first, so that packages that depend on it do not bring another build.
.venv/ready: pyproject.toml constraints.txt
	@echo "Setting up .venv (once; some minutes) ..."
	@test ! -L .venv || { echo ".venv is a link to an environment that this would empty: remove the link." >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@mkdir -p .make && touch $@

# Explains the held-out study with the highest patient score.
demo: .venv/ready $(DEMO)/source
	$(BIN)/python -m flows.build_dataset --source $(DEMO)/source --store $(DEMO)/store --recipe quick
	$(BIN)/python -m spine_etl check $(DEMO)/store
	@for mask in $(DEMO)/source/segmentations/*.nii; do \
		study=$$(basename $$mask .nii); \
		$(BIN)/python -m spine_etl show --source $(DEMO)/source --study $$study --out $(DEMO)/pictures && \
		$(BIN)/python -m spine_etl show --store $(DEMO)/store --study $$study --out $(DEMO)/pictures && break; \
	done
	@test -e $(DEMO)/run || { rm -rf $(DEMO)/run.part && \
		$(BIN)/python -m model.train --store $(DEMO)/store --out $(DEMO)/run.part --recipe quick --fold 0 && \
		mv $(DEMO)/run.part $(DEMO)/run; }
	$(BIN)/python -m model.predict --store $(DEMO)/store --checkpoint $(DEMO)/run --out $(DEMO)/fold0.csv \
		--fold 0 --evaluate --pictures $(DEMO)/pictures
	@study=$$(grep _patient_overall $(DEMO)/fold0.csv | sort -t, -k2 -g | tail -n 1 | sed 's/_patient_overall.*//'); \
	$(BIN)/python -m model.explain --store $(DEMO)/store --checkpoint $(DEMO)/run --study $$study \
		--out $(DEMO)/pictures/explained.png

# Written under another name first, so that an interrupted run leaves no incomplete source.
$(DEMO)/source: | .venv/ready
	rm -rf $@.part
	$(BIN)/python -m spine_etl phantom --out $@.part --studies 20 --seed 1 --slices 160 --size 256 --masked-share 1
	mv $@.part $@

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The test of docker-compose.yml needs PostgreSQL; it is skipped with a message if that cannot be installed.
postgresql:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "Installing postgresql ..." && \
		apt-get update -qq >/dev/null && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends postgresql >/dev/null 2>&1; } || \
		echo "PostgreSQL is missing and cannot be installed: the test of docker-compose.yml will be skipped."

# Other zarr clients, for tests/store/test_clients.py; a test is skipped with a message if its client is missing.
CLIENTS := .make/clients
clients:
	@mkdir -p $(CLIENTS)
	@test -d $(CLIENTS)/node_modules/zarrita || { \
		command -v npm >/dev/null && echo "Installing zarrita ..." && \
		npm install --silent --no-save --prefix $(CLIENTS) zarrita@0.7.5 >/dev/null; } || \
		echo "zarrita cannot be installed: its test will be skipped."
	@test -x $(CLIENTS)/zarr-3.2/bin/python || { \
		for python in python3.13 python3.12 $(HOME)/.pyenv/versions/3.1[23]*/bin/python; do \
			$$python -c "" 2>/dev/null && break; python=; done; \
		test -n "$$python" && echo "Installing zarr-python 3.2 ..." && \
		rm -rf $(CLIENTS)/part && $$python -m venv $(CLIENTS)/part && \
		$(CLIENTS)/part/bin/python -m pip install --quiet --disable-pip-version-check \
			zarr==3.2.1 xarray==2026.9.0 && \
		mv $(CLIENTS)/part $(CLIENTS)/zarr-3.2; } || \
		echo "zarr-python 3.2 (Python 3.12) cannot be installed: its test will be skipped."

# Two test files at a time: half of the suite's time is spent waiting for servers to start.
test: lint postgresql clients
	$(BIN)/python -m pytest -n 2 --dist loadfile

# First interpreted, so that the lines of compiled kernels count; tests of the compilation do not apply there.
coverage: .venv/ready
	rm -f .coverage .coverage.*
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest tests/resample tests/segmentation -W ignore \
		-k "not warm_up and not they_are_given and not plausibility" --cov --cov-report=
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-append --cov-report=
	$(BIN)/coverage report --include 'spine_etl/*' --fail-under 92
	$(BIN)/coverage report --include 'flows/*,model/*' --fail-under 88

mutants: .venv/ready
	$(BIN)/python tests/mutants/run.py

errors: .venv/ready
	$(BIN)/python docs/make_errors.py

bench: .venv/ready
	$(BIN)/python -m pytest tests/benchmarks -m benchmark -s

clean:
	rm -rf .venv .make $(DEMO)
