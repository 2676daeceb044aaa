# make demo and make test are all a newcomer needs; both set up first. See CONTRIBUTING.md.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup setup-benchmark setup-lerobot test lint format demo train-mini lock clean distclean

ENV := . ./env.sh
# Two workers; a file's tests stay in one, because nodes started for a module are shared by its tests.
# Those that hold clocks to account come after them, one at a time. What fails is named, and tried once more by itself:
# on a machine that others use a message may come late, and only what fails both times fails the run.
pytest_twice = { python -m pytest -m '$(1)' $(2) || python -m pytest -m '$(1)' --last-failed --last-failed-no-failures none; }
EVERY_TEST := { $(call pytest_twice,not alone,-n 2 --dist loadfile); beside=$$?; $(call pytest_twice,alone) && [ $$beside -eq 0 ]; }
PYTEST_ARGS ?=
DEMO_ARGS ?=
MINI_RUN ?= runs/train-mini
DEMOS_ARGS ?=
TRAIN_MINI_ARGS ?=

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "make %-15s %s\n", $$1, $$2}'

setup: ## virtual environment, ROS 2 and the built workspace; repeats only what is missing
	@sh scripts/setup.sh

setup-benchmark: setup ## vla-eval for `grape serve`, and LIBERO in .venv-benchmark
	@.venv/bin/python scripts/set_up_benchmark.py

setup-lerobot: ## LeRobot in .venv-lerobot, to check exports with its own reader
	@python3 scripts/set_up_lerobot.py

test: setup ## every test (PYTEST_ARGS="-k name" for some)
	@$(ENV) && export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} && \
	$(if $(PYTEST_ARGS),python -m pytest $(PYTEST_ARGS),$(EVERY_TEST))

lint: setup ## style, format and types
	@$(ENV) && ruff check . && ruff format --check . && python scripts/typecheck.py

format: setup ## rewrite to the house's format
	@$(ENV) && ruff check --fix . && ruff format .

demo: setup ## the whole loop in simulation: act, score, align, swap, evaluate; report in runs/demo
	@$(ENV) && grape demo $(DEMO_ARGS)

train-mini: setup ## train models/grape-mini from scripted demonstrations
	@$(ENV) && python -m grape_sim.demos --out $(MINI_RUN)/demos $(DEMOS_ARGS) && \
		python -m grape_policy.train_mini --demos $(MINI_RUN)/demos --run $(MINI_RUN)/training \
		--out models/grape-mini $(TRAIN_MINI_ARGS)

lock: ## resolve requirements*.in afresh (needs python3.11 and python3.12)
	python3 scripts/lock.py python3.11 python3.12

clean: ## remove what a build and the checks leave; keeps the virtual environment and runs/
	rm -rf ros2_ws/build ros2_ws/install ros2_ws/log build install log .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f .setup/build.stamp
	find launch scripts tests ros2_ws/src -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## also remove the virtual environment
	rm -rf .venv .venv-benchmark .venv-lerobot .setup
