# Everything starts here: `make run` does the main job, `make test` passes the tests. Both set up on first use.
VENV   := .venv
PY     := $(VENV)/bin/python
VF     := $(VENV)/bin/voltfront
CONFIG ?= small
OUT    ?= build/rtl/$(basename $(notdir $(CONFIG)))

.PHONY: help setup run rtl sim cells technology comparison characterize characterize-full tables check-tables fit validate validate-cycles cycle-cases explore report study figure test coverage test-browser test-documents verify verify-front lint torture robustness release-check bench bench-flow clean
.DEFAULT_GOAL := help

help:          ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/ready  ## make .venv, install what is missing (done by the other targets when needed)

$(VENV)/ready: pyproject.toml requirements.lock setup.sh
	@bash setup.sh $(VENV)

run: setup     ## the main job: RTL -> checked -> characterized -> fitted -> explored -> report
	$(VF) run

rtl: setup     ## emit Verilog: make rtl CONFIG=my.yaml OUT=dir
	$(VF) rtl --design $(CONFIG) --out $(OUT)

sim: setup     ## simulate layers on the RTL and compare every bit
	$(VF) simulate --design $(CONFIG)

cells: setup   ## characterize the fdsoi28p cells with ngspice over the whole grid (two core-minutes a corner; resumes)
	$(VF) cells --out flow/tech/fdsoi28p

technology: setup  ## docs/technology.md: the library against published silicon and direct simulation
	$(PY) -m flow.cells.accuracy
	$(PY) -m flow.validation

comparison: setup  ## docs/comparison.md: the same accelerator in fdsoi28p and the open PDKs below PDK_ROOT (a quarter of an hour; resumes)
	$(PY) -m flow.comparison

characterize: setup  ## simulate, synthesize, time and measure the calibration set
	$(VF) characterize

characterize-full: setup  ## the full calibration set, resumable: hours; results go to flow/tables/full, to be committed
	$(VF) characterize --plan full --shards flow/tables/full

tables: setup  ## build/tables from the results that ship with the project
	$(VF) tables

check-tables: setup  ## whether the results that ship still fit the RTL and the technology
	$(VF) tables --check

fit: setup     ## fit the model on the measured tables
	$(VF) fit

validate: setup  ## docs/validation.md: the model's errors on what took no part in the fit
	$(PY) -m fit.validation_page

validate-cycles: setup ## docs/cycles.md: the model's cycles against random cases that were simulated on the RTL (seconds)
	$(PY) -m fit.cycle_campaign page

cycle-cases: setup ## simulate those random cases again, and others to fit the model on (an hour; resumes)
	$(PY) -m fit.cycle_campaign simulate calibration --cases 400
	$(PY) -m fit.cycle_campaign simulate validation

explore: setup ## evaluate the design space
	$(VF) explore

report: setup  ## build/report/index.html
	$(VF) report

study: setup   ## docs/study.md: what voltage scaling brings beside a memory that does not scale (minutes)
	$(PY) -m explore.study

verify-front: setup  ## docs/front-verification.md: ten points of a front built, simulated and characterized (hours; resumes)
	$(VF) explore --space small --network alexnet --batch 1 --with-area --out build/verify/explore
	$(VF) verify --explore build/verify/explore --points 10 --page docs/front-verification.md

figure: setup  ## the README's figure, from the last exploration
	$(VF) report --headline docs/pareto.png

test: setup    ## all tests
	$(PY) -m pytest -n 2 --dist worksteal

coverage: setup  ## all tests, and which lines of each module they execute (build/coverage/pages)
	$(PY) -m pytest -n 2 --dist worksteal --cov --cov-report=term --cov-report=html:build/coverage/pages

test-browser: setup  ## the report in a real Chromium (minutes, where one is installed)
	$(PY) -m pytest -m browser tests/explore/test_report_browser.py

test-documents: setup  ## every command of the documents that takes minutes at most, and what they print, to the letter
	VOLTFRONT_ALL_DOCUMENTS=1 $(PY) -m pytest tests/test_documents.py

verify: setup  ## the verification campaign: random designs x random layers on the RTL (half an hour), docs/verification.md
	$(PY) -m hw.verify.campaign

lint: setup    ## common mistakes, and types
	$(PY) -m ruff check .
	$(PY) -m mypy

torture: setup  ## thousands of malformed inputs over all entry points
	$(PY) tests/torture.py --count 3000

robustness: setup  ## docs/robustness.md: kills, a full disk, hanging tools, two runs at once, old and hostile files (minutes, as root)
	$(PY) tests/robustness.py --page

release-check:  ## build the wheel, install it into a clean environment and run the main commands there (minutes)
	.ci/release-check

bench: setup   ## performance figures
	$(PY) benchmarks/bench.py

bench-flow: setup  ## time and memory of each stage of the characterization, for the designs DESIGNS (default small)
	$(PY) benchmarks/flow_bench.py $(DESIGNS)

clean:         ## remove everything generated (not .venv)
	rm -rf build
