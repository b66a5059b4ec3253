# make demo   install, then train, predict and report on the miniature
# make test   install if needed, then every test
# make test-slurm   of these, the training under a real SLURM, which is started and stopped (Debian: slurm-wlm, munge)
# make docs   the documentation, into outputs/docs/index.html
# make peers  install what scripts/benchmark.py compares with

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slurm install check docs lock peers

demo: install
	$(VENV)/bin/python train.py experiment=demo

test: install
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slurm: install
	CXR_REQUIRE_REAL=1 $(VENV)/bin/python -m pytest tests/test_slurm.py

install: $(INSTALLED)

# every package is pinned with its hash; uv is the one thing pip brings. Compiled now, for a training starts in 10 s and not in 25 where Python may not write
$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python --require-hashes -r requirements.lock
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation -e .
	touch $@

# apart, for they bring half a hundred packages that nothing else needs
peers: install
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --require-hashes -r requirements-bench.lock

check: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

# after a change of dependencies in pyproject.toml
COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev

lock: install
	$(COMPILE) -o requirements.lock pyproject.toml
	cp requirements.lock requirements-bench.lock
	$(COMPILE) --extra bench -o requirements-bench.lock pyproject.toml
