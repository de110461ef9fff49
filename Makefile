# make demo   installs and runs the worked example, prints where the report lies
# make test   the whole suite (under 6 minutes on 2 cores)
# make test-all   also the slow tests: whole recipes, fault benches
# make docs   the documentation as a site in site/; make reference: only its page of keys
# make notebooks  executes examples/*.ipynb and saves their outputs
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RECIPE ?= recipes/lang.yaml
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: install demo test test-all lint reference docs notebooks clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

demo: install
	$(BIN)/adapt run $(RECIPE)

test: install
	$(PYTEST) -m "not slow"

test-all: install
	$(PYTEST)

notebooks: install
	$(BIN)/python examples/execute.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

reference: install
	$(BIN)/python -m adapt.recipe.reference > docs/reference.md

docs: reference
	$(BIN)/mkdocs build --strict --site-dir site

clean:
	rm -rf $(VENV) runs site
