# The front door. `make` lists what there is.
#
#   make demo                    sets up .venv if need be (tools/bootstrap.py), then runs
#   make demo NO_VENV=1          uses the Python at hand and installs nothing
#   make demo PYTHON=python3.12  another Python: with NO_VENV=1 the one to use, without it the one .venv is made by
#   make demo CUPY=cuda12        CUDA 12 where the driver would serve 13, or where there is no driver to ask

PYTHON ?= python3
ifneq ($(filter-out 0,$(NO_VENV)),)
PY := $(PYTHON)
SETUP :=
else
PY := .venv/bin/python
SETUP := venv
endif
# The doctor installs nothing: it looks at .venv if there is one.
DOCTOR_PY := $(if $(and $(SETUP),$(wildcard .venv/bin/python)),$(PY),$(PYTHON))

.DEFAULT_GOAL := help
.PHONY: help demo test lab check emulate diff bench autotune plots notebooks sass inject profile ablate mutants assignment docs doctor lint format clean venv

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "NO_VENV=1 makes each of them use the Python at hand and install nothing."

demo: $(SETUP) ## Run every stage that this machine can run on real activations; table and plots
	@$(PY) -m tools.demo $(DEMO_ARGS)

# One process a core; more than 16 would only crowd a GPU.
test: $(SETUP) ## Run the whole suite (PYTEST_ARGS="-k s12 -x" to narrow it)
	@$(PY) -m pytest -n auto --maxprocesses=16 $(PYTEST_ARGS)

# The root is the repository's, so that links from lessons to kernels open; a terminal opened in it has .venv's python.
# As root, which is what containers run as, Jupyter starts only when told to.
lab: $(SETUP) ## Open the lessons in JupyterLab (LAB_ARGS="--no-browser --port 8899")
	@$(if $(SETUP),PATH="$(CURDIR)/.venv/bin:$$PATH") $(PY) -m jupyter lab --ServerApp.root_dir=. \
		--LabApp.default_url=/lab/tree/notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

ifeq ($(STAGE),)
check: ## Check one stage after editing it: make check STAGE=s12
	@echo "Which stage? For example: make check STAGE=s12" >&2; exit 2
else
check: $(SETUP)
	@$(PY) -m tools.check $(STAGE) $(CHECK_ARGS)
endif

ifeq ($(STAGE),)
emulate: ## Run a CUDA stage on the CPU, counters at every line: make emulate STAGE=s20
	@echo "Which stage? For example: make emulate STAGE=s20, or STAGE=\"s20 s21\" for two side by side, STAGE=fragments, STAGE=\"banks s21\"" >&2; exit 2
else
emulate: $(SETUP)
	@$(PY) -m tools.emulator $(STAGE) $(EMULATE_ARGS)
endif

diff: $(SETUP) ## What changed between two stages, why, and what it bought: make diff FROM=s20 TO=s21
	@$(PY) -m tools.diff $(FROM) $(TO) $(DIFF_ARGS)

bench: $(SETUP) ## Time the stages on this machine (BENCH_ARGS="--quick --stages s12,s13")
	@$(PY) -m tools.bench $(BENCH_ARGS)

ifeq ($(STAGE),)
autotune: ## Find a CUDA stage's fastest tiles on this GPU: make autotune STAGE=s31, or STAGE=all
	@echo "Which stage? For example: make autotune STAGE=s31, or STAGE=all" >&2; exit 2
else
autotune: $(SETUP)
	@$(PY) -m tools.autotune $(STAGE) $(AUTOTUNE_ARGS)
endif

plots: $(SETUP) ## Draw the plots from recorded results, yours from `make bench` beside them; needs no GPU
	@$(PY) -m tools.plot $(PLOT_ARGS)

notebooks: $(SETUP) ## Execute the lessons, from their texts (NOTEBOOKS="s20 s21" for some); needs no GPU
	@$(PY) -m tools.notebooks $(NOTEBOOKS)

sass: $(SETUP) ## Compile every CUDA stage, GPU or not, and record registers, occupancy, instructions, listings
	@$(PY) -m tools.sass --record $(SASS_ARGS)
	@$(PY) -m tools.lesson.record_listings

inject: $(SETUP) ## Fill the figures in the README and the stage cards from the recorded results
	@$(PY) -m tools.inject $(INJECT_ARGS)

ifeq ($(STAGE),)
profile: ## Read one stage's hardware counters on a GPU: make profile STAGE=s20
	@echo "Which stage? For example: make profile STAGE=s20" >&2; exit 2
else
profile: $(SETUP)
	@$(PY) -m tools.profile $(STAGE) $(PROFILE_ARGS)
endif

ablate: $(SETUP) ## Time small changes of the last CUDA kernel, one at a time (ABLATE_ARGS="--list")
	@$(PY) -m tools.ablate $(ABLATE_ARGS)

mutants: $(SETUP) ## Prove that the suite bites: planted bugs, each of which has to fail it
	@$(PY) -m pytest tests/test_mutants.py -q -n auto --maxprocesses=16 $(PYTEST_ARGS)

# A NAME in the environment is not meant: WSL has the machine's there.
assignment: $(SETUP) ## Build a handout and its autograder: make assignment NAME=ps1; alone, list the assignments
	@$(PY) -m tools.assignment $(if $(filter command,$(origin NAME)),build $(NAME),list) $(ASSIGNMENT_ARGS)

docs: $(SETUP) ## Build the book, offline HTML, into build/docs
	@$(PY) -m docs $(DOCS_ARGS)

doctor: ## Say what this machine has, which stages run where on it, and how to get the rest
	@$(DOCTOR_PY) -m tools.doctor

lint: $(SETUP) ## Check style and format
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

format: $(SETUP) ## Fix style and format
	@$(PY) -m ruff check --fix . && $(PY) -m ruff format .

clean: ## Remove caches and build products; `rm -rf .venv` removes the rest
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find . -name .git -prune -o -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

venv:
	@$(PYTHON) tools/bootstrap.py $(if $(CUPY),--cupy $(CUPY))
