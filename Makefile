# Every command of the project. `make serve` and `make test` work on a fresh Debian with Python 3.11+ and make.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
APT_INSTALL := $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy
DATA_BESIDE := $(wildcard ../shared/data)
export BATON_DATA_DIR ?= $(abspath $(DATA_BESIDE))
ifeq ($(BATON_DATA_DIR),)
unexport BATON_DATA_DIR
endif

.DEFAULT_GOAL := help
.PHONY: help install serve test test-cluster test-old-cpu image image-test lock sbom audit rollout coverage check fix bench bench-peers bench-page bench-command-line bench-generate bench-translate bench-scale bench-score bench-ray sizing profile gpu-check promises stress soak schemathesis fuzz report report-gradients loadtest loadtest-overload clean

help:  ## show the commands
	@grep -hE '^[a-z%-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z%-]+):.*  ## /\1\t/' | expand -t 20

install: $(VENV)/.serving  ## make .venv with what serving needs, and nothing else

serve: $(VENV)/.serving  ## serve models/ on port 8000 (BATON_PORT, and the other settings of docs/settings.md)
	exec $(BIN)/baton serve

test: $(VENV)/.development $(VENV)/kserve/.installed  ## run the tests
	@command -v curl >/dev/null || { echo "installing curl, which runs the README's calls"; $(APT_INSTALL) curl; }
	@command -v redis-server >/dev/null || { echo "installing redis-server, a store of states"; $(APT_INSTALL) redis-server; }
	@command -v nginx >/dev/null || test -x /usr/sbin/nginx || { \
	  echo "installing nginx, behind which replicas are tested"; $(APT_INSTALL) nginx; }
	@command -v prometheus >/dev/null && command -v promtool >/dev/null || { \
	  echo "installing prometheus, which scrapes a service and tests the alerts"; \
	  $(APT_INSTALL) --no-install-recommends prometheus; }
	@command -v haproxy >/dev/null || test -x /usr/sbin/haproxy || { \
	  echo "installing haproxy, with the configuration of deploy/"; $(APT_INSTALL) haproxy; }
	@command -v chromium >/dev/null || { echo "installing chromium, in which the page is tested"; $(APT_INSTALL) chromium; }
	@# One process more than cores: many tests wait for a server to start or for a deadline.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $$(($$(nproc) + 1)) --dist worksteal -m "not cluster"

test-cluster: $(VENV)/.development  ## run the tests that take minutes with clusters of Ray, or pods by the Kubernetes manifests (10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m cluster

# PyTorch can be told what to use, and its kernels are more than the emulator bears.
OF_PYTORCH = tests/training/networks tests/training/fit/test_run_precision.py

test-old-cpu: $(VENV)/.development  ## run the tests that depend on the processor on one with AVX2 alone, emulated (slow)
	@command -v qemu-x86_64 >/dev/null || { echo "installing qemu-user, which emulates it"; $(APT_INSTALL) qemu-user; }
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 $(BIN)/pytest $(OF_PYTORCH)
	OMP_NUM_THREADS=1 $(BIN)/python -m training.old_cpu -m pytest -m old_cpu $$(grep -rl --include='*.py' mark.old_cpu tests)

image:  ## build the container image `baton` (IMAGE_BUILD_ARGS: more options of docker build)
	docker build $(IMAGE_BUILD_ARGS) -t baton .

image-test: $(VENV)/.development  ## build every image from nothing, and test them on this machine's Docker engine
	@command -v debootstrap >/dev/null || { echo "installing debootstrap, which makes bases"; $(APT_INSTALL) debootstrap; }
	@command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 || { \
	  echo "installing docker-compose"; $(APT_INSTALL) docker-compose; }
	$(SUDO) tests/deploy/engine/images.sh
	OMP_NUM_THREADS=1 $(BIN)/pytest -s tests/deploy/test_image.py tests/deploy/test_compose.py

# Files of every platform and of Python 3.11 and newer; where pip finds them is not written down.
LOCK = $(BIN)/uv pip compile -q --upgrade --generate-hashes --universal --python-version 3.11 --no-emit-index-url \
	--no-header --no-annotate -c constraints.txt

lock: $(VENV)/.development  ## renew deploy/locks/, the hashes of what the image installs, from constraints.txt
	$(LOCK) --extra redis --extra otel pyproject.toml -o deploy/locks/serving.txt
	echo onnxruntime-gpu | $(LOCK) --no-deps - -o deploy/locks/cuda.txt
	echo setuptools | $(LOCK) - -o deploy/locks/build.txt

sbom: $(VENV)/.development  ## write sbom.json: what the image installs, as a CycloneDX bill of materials
	$(BIN)/python -m venv --clear --without-pip build/serving
	$(BIN)/python -m pip --python build/serving install -q --disable-pip-version-check --no-compile --require-hashes \
	  -r deploy/locks/serving.txt
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o sbom.json build/serving

audit: $(VENV)/.development  ## look for known vulnerabilities in what the image installs (needs an advisory source)
	$(BIN)/uvx pip-audit --strict --disable-pip --require-hashes -r deploy/locks/serving.txt

rollout:  ## replace the running replicas of docker-compose.yml one by one, by the image BATON_IMAGE (default: baton)
	deploy/rollout.sh

coverage: $(VENV)/.development  ## measure which branches of service and client the tests take (an hour)
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest tests --ignore tests/training -n $$(($$(nproc) + 1)) --dist worksteal -m "not cluster"
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered --sort cover

check: $(VENV)/.development  ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/.development  ## let ruff repair and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train-%: $(VENV)/.development  ## train, verify and publish a model, of training/recipes/ (TRAIN_ARGS: --seeds 0,1,2 --resume)
	$(BIN)/python -m training train $* $(TRAIN_ARGS)

report: $(VENV)/.development  ## draw the models: pictures, cards, docs/models.md (needs the data sets)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[report]'
	$(BIN)/python -m training report

report-gradients: $(VENV)/.development  ## measure gradients through time, and draw docs/recurrent-networks.md (4 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m training gradients

bench: $(VENV)/.development  ## measure beside floors, and write docs/benchmarks.md (needs wrk; about 9 minutes)
	$(BIN)/python -m loadtests.bench

sizing: $(VENV)/.development  ## measure what each model bears and takes, and write docs/operations.md (needs wrk; minutes)
	$(BIN)/python -m loadtests.sizing

profile: $(VENV)/.development  ## measure what a request costs the event loop (needs wrk; PROFILE_ARGS=--functions)
	$(BIN)/python -m loadtests.profile $(PROFILE_ARGS)

bench-peers: $(VENV)/.development  ## measure beside other servers, and with perf_analyzer (wrk; about 15 minutes)
	$(BIN)/python -m loadtests.peers
	$(BIN)/python -m loadtests.peers.analysis

bench-page: $(VENV)/.development  ## measure the page in a browser, and write docs/page.md (needs chromium; 3 minutes)
	$(BIN)/python -m loadtests.page

bench-generate: $(VENV)/.development  ## measure generation beside a loop of session.run, for docs/benchmarks.md (2 minutes)
	$(BIN)/python -m loadtests.generation

bench-translate: $(VENV)/.development  ## measure translation beside a loop of session.run, for docs/benchmarks.md (2 minutes)
	$(BIN)/python -m loadtests.translation

bench-score: $(VENV)/.development  ## measure baton score beside the in-process limits, and by Ray, for docs/benchmarks.md (15 minutes)
	$(BIN)/python -m loadtests.scoring

bench-ray: $(VENV)/.development  ## measure two replicas on Ray Serve beside two workers, for docs/benchmarks.md (wrk; 3 minutes)
	$(BIN)/python -m loadtests.ray_serve

bench-command-line: $(VENV)/.development  ## measure baton forecast beside HTTP calls, and write docs/command-line.md (2 minutes)
	$(BIN)/python -m loadtests.command_line

ONE_PACKAGE = $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -c constraints.txt

gpu-check: $(VENV)/.development  ## check and measure the models on an NVIDIA GPU (8 minutes; GPU_CHECK_ARGS='--provider cpu': dry)
	@if nvidia-smi -L; then \
	  echo "putting onnxruntime-gpu in the place of onnxruntime, until the check has ended"; \
	  trap '$(BIN)/python -m pip uninstall -q -y onnxruntime-gpu; $(ONE_PACKAGE) --force-reinstall onnxruntime' EXIT; \
	  trap 'exit 1' INT TERM; \
	  $(BIN)/python -m pip uninstall -q -y onnxruntime && $(ONE_PACKAGE) onnxruntime-gpu || exit 1; fi; \
	$(BIN)/python -m loadtests.gpu_check $(GPU_CHECK_ARGS)

bench-scale: $(VENV)/.development  ## measure one to three replicas, simulate more, and write docs/scale.md (wrk, nginx, redis; 15 minutes)
	$(BIN)/python -m loadtests.scale measure
	$(BIN)/python -m loadtests.scale predict

promises: $(VENV)/.development  ## hold sessions against an oracle while replicas are killed, paused, rolled, filled up (30 minutes)
	$(BIN)/python -m loadtests.promises --output loadtests/results/promises.json

stress: $(VENV)/.development  ## measure recovery from five times the peak, and normal load beside 5,000 idle streams (6 minutes)
	$(BIN)/python -m loadtests.stress

soak: $(VENV)/.development  ## call every kind of endpoint for 10 minutes, and see that nothing grows or is left
	$(BIN)/python -m loadtests.soak

schemathesis: $(VENV)/.development  ## send 2,000 generated requests to each call of the API (CASES; an hour or more)
	SCHEMATHESIS_CASES=$(or $(CASES),2000) OMP_NUM_THREADS=1 $(BIN)/pytest tests/service/web/test_openapi.py

FUZZ_TARGETS ?= token manifest tensors frames http websocket wav csv

fuzz: $(VENV)/.development  ## feed mutated bytes to each reader of what strangers send, ten minutes each (FUZZ_S, FUZZ_TARGETS)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	for target in $(FUZZ_TARGETS); do \
	  PYTHONPATH=.:tests:tests/support OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz $$target $(or $(FUZZ_S),600) || exit; done

LOADTEST = $(BIN)/python -m loadtests.run $(if $(HOST),--host '$(HOST)') $(if $(USERS),--users $(USERS)) \
	$(if $(RUN_TIME),--run-time $(RUN_TIME)) $(LOADTEST_ARGS)

loadtest: $(VENV)/.development  ## put mixed load on the service, check every answer (USERS, RUN_TIME, HOST, LOADTEST_ARGS)
	$(LOADTEST)

loadtest-overload: $(VENV)/.development  ## the same with a load that climbs past capacity and back; USERS is the peak
	$(LOADTEST) --overload

clean:  ## remove the environment and what tools left behind
	rm -rf $(VENV) build dist *.egg-info sbom.json client/build client/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz

$(VENV)/bin/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "installing python3-venv"; $(APT_INSTALL) python3-venv; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serving: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.development: pyproject.toml client/pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' -e client
	@# Its graphs are what tests need, without the torchaudio that it asks for.
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps silero-vad
	touch $@ $(VENV)/.serving

$(VENV)/kserve/.installed: tests/support/kserve.txt | $(VENV)/.development
	rm -rf $(@D)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-compile --target $(@D) -r $<
	touch $@
