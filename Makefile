# `make` lists what there is. Everything needs only Python 3.10-3.12, git and, the first time, a network:
# the environment is built in .venv with the tested versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
# from here, so that a space or a quote in the clone's own path is in no command
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN_NOTEBOOKS := 00_data data/browse model/costs 03_train 04_eval results/vocoder_study results/zoo results/sampler_cost results/offscreen results/audio_words results/quality results/outside results/gap_training results/gap_causes 05_gap 06_listen 07_play results/compose_study results/editing_study results/failures results/report_page
export PATH := $(CURDIR)/$(BIN):$(PATH)
# our kernel, not one of the same name elsewhere; text is UTF-8 in any locale
export JUPYTER_PATH := $(CURDIR)/$(VENV)/share/jupyter$(if $(JUPYTER_PATH),:$(JUPYTER_PATH))
export PYTHONUTF8 := 1

.PHONY: help reports test readme notebooks docs lab hooks constraints lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

reports: $(READY)  ## rebuild every table and figure in reports/, and the README; RECOMPUTE=1 redoes all sampling
	@$(BIN)/python .ci/notebooks.py reports $(if $(RECOMPUTE),--recompute) $(if $(MINUTES),--minutes) $(RUN_NOTEBOOKS)
	@$(MAKE) --no-print-directory readme

readme: $(READY)  ## run the cover notebook, and write README.md from it
	@$(BIN)/python .ci/notebooks.py refresh index
	@$(BIN)/python .ci/readme.py

test: $(READY)  ## every check; ARGS="-k word" picks some
	@$(BIN)/python .ci/runtime.py
	@$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder $(ARGS)

notebooks: $(READY)  ## export, then run every notebook in place from a clean kernel and clean it
	@$(BIN)/python -c 'from nbdev.doclinks import nbdev_export; nbdev_export()'
	@$(BIN)/python .ci/notebooks.py refresh $(NAMES)
	@$(BIN)/python .ci/readme.py
	@$(BIN)/python .ci/architecture.py

docs: $(READY)  ## build the site in _docs/ (needs Quarto 1.7, e.g. from environment.yml)
	@$(BIN)/python .ci/site.py

lab: $(READY)  ## open the notebooks in JupyterLab
	@$(BIN)/python -m jupyterlab nbs

hooks: $(READY)  ## check notebooks and code before each commit, from now on
	@$(BIN)/pre-commit install

constraints: $(READY)  ## pin the versions installed in .venv
	@$(BIN)/python .ci/constraints.py

lock: $(READY)  ## write requirements.lock, for uv, from those pins (needs uv)
	@$(BIN)/python .ci/lock.py

clean:  ## remove what can be built again, except .venv and data
	rm -rf _docs _proc reports/runs reports/smoke data/smoke .pytest_cache .ruff_cache .mypy_cache build *.egg-info nbs/.last_checked
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(READY): settings.ini setup.py constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "no $(PYTHON) here: install Python 3.10-3.12, or name one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) .ci/python_version.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the environment in $(VENV): a few minutes and some GB the first time"
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
