# make          set up a virtual environment with what the checks need
# make demo     install, evaluate the shipped weights on the built-in scenes
# make test     lint and tests, what CI runs

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := results/demo

.PHONY: all demo test lint clean

all: $(VENV)/dev

$(VENV)/run: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.txt requirements-video.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/run
	$(BIN)/python test.py --out $(DEMO)
	@echo "The table is above and in $(DEMO)/results.json; pictures are in $(DEMO)/figures."
	@echo "Train:  $(BIN)/python main.py      Your own video:  $(BIN)/python enhance.py --help"

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
