# make          set up a virtual environment with what the checks need
# make demo     install, train on the built-in scenes, evaluate
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

$(VENV)/dev: $(VENV)/run requirements-dev.txt requirements-video.txt requirements-geotiff.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/run
	$(BIN)/python main.py
	$(BIN)/python test.py --out $(DEMO) --overwrite

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
