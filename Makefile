# Two commands matter: `make bench` and `make test`. Both do all set-up by themselves.

VENV := .venv
PYTHON := $(VENV)/bin/python
ORION := $(VENV)/bin/orioncache
SCRIPTS := bench/setup.sh .ci/run $(wildcard initramfs/init initramfs/lib/*.sh bench/guest/*.sh)

.PHONY: help setup bench test soak lint clean
.DEFAULT_GOAL := help

help: ## what can be made
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1	/p' $(MAKEFILE_LIST)

setup: ## Debian packages, .venv with orioncache in it, the native library
	@bench/setup.sh

bench: setup ## build kernel, initramfs and a Debian root, boot them, print where the time went (ARGS="--rtt 1 …")
	@$(ORION) bench $(ARGS)

test: setup ## every layer of tests: unit, native, FUSE, failover, QEMU (ARGS="-k …")
	@# The kernel is built here and not by the first test that boots it: with progress on the screen.
	@$(if $(ARGS),,$(ORION) kernel build --fragment bench)
	@$(PYTHON) -m pytest $(ARGS)

soak: setup ## 10,000 random faults of two servers; half an hour of mixed load on each native cache: nothing noticed, nothing leaked
	@ORION_SOAK_FAULTS=$${ORION_SOAK_FAULTS:-10000} $(PYTHON) -m pytest -s tests/fuse/test_failover_soak.py
	@ORION_SOAK=$${ORION_SOAK:-1800} $(PYTHON) -m pytest -s tests/fuse/test_stress.py -k "long_mixed_load and native"

lint: setup ## ruff, mypy --strict, shellcheck, the C compiler's warnings as errors
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@shellcheck $(SCRIPTS)
	@$(MAKE) --no-print-directory -C native lint

clean: ## what the tree's own builds left; what is cached under ~/.cache/orioncache stays
	rm -rf $(VENV) build dist *.egg-info orioncache/native/_orion.*
