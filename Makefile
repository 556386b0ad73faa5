# GNU make 3.81 is enough (macOS ships it). `make help` lists the targets; every variable can be given on the command line:
#   make test PYTHON=/usr/bin/python3.12 TEST_ARGS='tests/consensus -k quorum'

VENV = .venv
PYTHON =
DEMO_ARGS =
BENCH_ARGS =
TEST_ARGS =
SWEEP_ARGS =
SCHEDULES = 1000000

BIN = $(VENV)/bin
ROOMS = consensus sequencer rollup_adapters netsim
CODE := $(wildcard $(ROOMS) benchmarks tests tools docs/conf.py)
INSTALL_INPUTS = pyproject.toml constraints.txt tools/make_venv.sh

.PHONY: help install demo test lint bench sweep mutants docs

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s%s\n", $$1, $$2 }'

install: $(VENV)/.installed-dev ## make .venv with everything for development

demo: $(VENV)/.installed-runtime ## four validators, three rollups, one kill -9 (DEMO_ARGS='--protocol hotstuff')
	$(BIN)/sequencer demo $(DEMO_ARGS)

test: $(VENV)/.installed-dev ## the tests, in parallel (TEST_ARGS='tests/consensus -k quorum')
	$(BIN)/python -m pytest -n auto $(TEST_ARGS)

lint: $(VENV)/.installed-dev ## ruff, its formatter, and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(CODE)

bench: $(VENV)/.installed-runtime ## throughput and latency on this machine (BENCH_ARGS)
	$(BIN)/sequencer bench $(BENCH_ARGS)

sweep: $(VENV)/.installed-dev ## the slow tests: many seeds, real processes, real SIGKILLs, a million silent schedules (SCHEDULES)
	$(BIN)/python -m pytest -n auto -m sweep --hypothesis-profile=explore $(SWEEP_ARGS)
	for protocol in $$($(BIN)/netsim list | sed -n 's/^protocol //p'); do \
		$(BIN)/netsim sweep swarm --seeds 0:$(SCHEDULES) --protocol $$protocol || exit 1; \
	done

mutants: $(VENV)/.installed-dev ## mutation testing of the safety-critical modules of consensus/
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/mutmut run
	$(BIN)/python tools/explain_mutants.py

docs: $(VENV)/.installed-dev ## the documentation, in docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

# The stamps make a second run quick. The development install contains the runtime.
$(VENV)/.installed-dev: $(INSTALL_INPUTS)
	PYTHON='$(PYTHON)' sh tools/make_venv.sh '$(VENV)' '.[dev]'
	touch $(VENV)/.installed-runtime $@

$(VENV)/.installed-runtime: $(INSTALL_INPUTS)
	PYTHON='$(PYTHON)' sh tools/make_venv.sh '$(VENV)' '.'
	touch $@
