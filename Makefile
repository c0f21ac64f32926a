# Everything runs in .venv, which `setup` makes and updates. `make help` lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PY := $(BIN)/python
READY := $(VENV)/.ready

.PHONY: help setup demo test test-lowest test-places test-kernels test-gpu bench-gpu test-comfyui contract bench-comfyui bench-built-in bench-approximations measures train workflows pictures docs sbom soak soak-comfyui mutants lint format bench bench-all parity comfyui clean

help: ## show this list
	@$(PYTHON) -c "import re; [print(f'  make {m[1]:<22}{m[2]}') for m in re.finditer(r'(?m)^([a-z-]+):.*? ## (.+)', open('Makefile').read())]"

setup: $(READY) ## make .venv with everything
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet "$(TORCH)"
	$(PY) -m pip install --quiet --editable ".[dev,training]"
	$(PY) -c "open('$(READY)', 'w').close()"

demo: setup ## render output/demo.mp4 with the built-in model
	$(PY) -c "import pathlib; pathlib.Path('output').mkdir(exist_ok=True)"
	$(PY) -m hallo3 demo -o output/demo.mp4

# With REQUIRE_COMFYUI=1 the tests in a real ComfyUI run too, in their own environment, and may not be skipped.
ifeq ($(REQUIRE_COMFYUI),1)
test: setup test-comfyui ## run the tests
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not soak" --ignore=tests/comfyui
else
test: setup
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not soak"
endif

# An environment of its own, because ComfyUI's requirements are many; torch is the same.
COMFYUI_VENV := .venv-comfyui
COMFYUI_PY := $(subst $(VENV),$(COMFYUI_VENV),$(PY))
COMFYUI_READY := $(COMFYUI_VENV)/.ready

$(COMFYUI_READY): pyproject.toml tests/comfyui/requirements.py
	$(PYTHON) -m venv $(COMFYUI_VENV)
	$(COMFYUI_PY) -m pip install --quiet "$(TORCH)"
	cd tests && ../$(COMFYUI_PY) -m comfyui.requirements
	$(COMFYUI_PY) -m pip install --quiet --editable ".[dev]"
	$(COMFYUI_PY) -c "open('$(COMFYUI_READY)', 'w').close()"

# What an installation from this folder brings, listed by CycloneDX's own tool.
SBOM := build/sbom
SBOM_BIN := $(subst $(VENV),$(SBOM)/tool,$(BIN))
SBOM_PY := $(subst $(VENV),$(SBOM)/pack,$(PY))

sbom: ## list all that is installed with the pack in build/sbom.cdx.json (CycloneDX)
	$(PYTHON) -m venv --clear $(SBOM)/pack
	$(PYTHON) -m venv --clear $(SBOM)/tool
	$(SBOM_PY) -m pip install --quiet "$(TORCH)" .
	$(SBOM_BIN)/python -m pip install --quiet "cyclonedx-bom>=7"
	$(SBOM_BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-file build/sbom.cdx.json $(SBOM_PY)

# With other numbers of threads and instruction sets; minutes.
test-places: setup ## run goldens and a job in other numeric places
	$(PY) tests/places.py

# The newest versions are those that `setup` takes; of torch the one that TORCH names.
LOWEST_VENV := .venv-lowest
LOWEST_PY := $(subst $(VENV),$(LOWEST_VENV),$(PY))

test-lowest: ## run the tests with the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear $(LOWEST_VENV)
	$(PYTHON) tools/lowest_versions.py > $(LOWEST_VENV)/lowest.txt
	$(LOWEST_PY) -m pip install --quiet -r $(LOWEST_VENV)/lowest.txt
	$(LOWEST_PY) -m pip install --quiet --no-deps --editable .
	$(LOWEST_PY) -m pytest -n auto --dist loadfile -m "not soak" --ignore=tests/comfyui

# The GPU kernels without a GPU: Triton's interpreter runs them, its compiler makes machine code of them (Linux).
test-kernels: setup ## run the Triton kernels without a GPU (Linux)
	$(PY) -m pip install --quiet triton
	REQUIRE_TRITON=1 $(PY) -m pytest tests/model/kernels/test_triton_kernels.py

test-gpu: setup ## run tests/gpu on an NVIDIA GPU
	HALLO3_TEST_DEVICE=cuda $(PY) -m pytest -n 0 tests/gpu

# For a GPU that you have for 15 minutes; without make, see the script.
bench-gpu: setup ## measure an NVIDIA GPU in 13 minutes, for benchmarks/results
	PYTHON=$(PY) bash benchmarks/gpu_session.sh first
	PYTHON=$(PY) bash benchmarks/gpu_session.sh second

test-comfyui: $(COMFYUI_READY) ## run the tests in a real ComfyUI
	$(COMFYUI_PY) -m pytest tests/comfyui -rs

# In an environment of its own, since comfy-cli installs ComfyUI's requirements beside itself.
APP_VENV := .venv-app
APP_PY := $(subst $(VENV),$(APP_VENV),$(PY))

comfyui: ## install ComfyUI with this pack (or use COMFYUI_PATH) and start it
	$(PYTHON) -m venv $(APP_VENV)
	$(APP_PY) -m pip install --quiet comfy-cli
	$(APP_PY) tools/start_comfyui.py $(ARGS)

# These need a Chromium: the templates; their thumbnails, the README's picture, preview colours.
workflows: $(COMFYUI_READY) ## write workflows/ and subgraphs/ with ComfyUI's own page
	$(COMFYUI_PY) tools/write_workflows.py

pictures: $(COMFYUI_READY) ## draw thumbnails, the README's picture, preview colours
	$(COMFYUI_PY) tools/make_pictures.py

bench-comfyui: $(COMFYUI_READY) ## compare with ComfyUI's own sampling and torch.compile
	$(COMFYUI_PY) -m benchmarks stock-schedule --json docs/measurements/stock_schedule.json
	$(COMFYUI_PY) -m benchmarks torch-compile --json docs/measurements/torch_compile.json

contract: $(COMFYUI_READY) ## write tests/data/nodes.json and the pages of help for other languages
	cd tests && ../$(COMFYUI_PY) -m comfyui.contract

soak: setup ## run long tests; results go to docs/measurements
	$(PY) -m pytest -m soak -s

# Kills a server again and again; needs a ComfyUI.
soak-comfyui: $(COMFYUI_READY) ## kill a ComfyUI server again and again
	$(COMFYUI_PY) -m pytest tests/soak/test_server.py -m soak -s

# The modules and their tests are in pyproject.toml; without Windows, on one core. A sample of each module: EACH of
# them, from the one of number OFFSET; `EACH=9999` is every one. Survivors: `mutmut show NAME`.
EACH ?= 40
OFFSET ?= 0
MUTMUT := OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 1

mutants: setup ## change code at random and count what the tests miss (an hour)
	$(PY) -m pip install --quiet "mutmut>=3.8"
	$(MUTMUT) hallo3.storage.files.x_free_name__mutmut_1
	$(MUTMUT) $$($(PY) tools/sample_mutants.py --each $(EACH) --offset $(OFFSET))
	$(PY) tools/count_mutants.py --json $(MEASURED)/mutation.json

lint: setup ## run ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(PY)

format: setup ## fix what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

BENCH := $(PY) -m benchmarks
MEASURED := docs/measurements

# Minutes. Times are of this device, which the result names.
bench: setup ## count and time a run (minutes)
	$(BENCH) counts --json $(MEASURED)/ledger.json --chart docs/pictures/cost.png
	$(BENCH) cpu --json $(MEASURED)/cpu.json
	$(BENCH) precision --json $(MEASURED)/precision.json
	$(BENCH) times --device cpu --json $(MEASURED)/times.json
	$(BENCH) length --short --json $(MEASURED)/length.json

# All but `drift`, which is for owners of released weights. The last line measures a GPU if there is one.
bench-all: bench bench-approximations ## every benchmark but drift
	$(BENCH) exactness --json $(MEASURED)/exactness.json
	$(BENCH) ceilings --json $(MEASURED)/ceilings.json
	$(BENCH) fits --json $(MEASURED)/fits.json
	$(BENCH) length --json $(MEASURED)/length.json
	$(BENCH) times

# How the built-in model behaves, and where it comes from (hours; see training/README.md).
bench-built-in: setup ## measure the built-in model (hours)
	$(BENCH) built-in --seconds 60 600 --json $(MEASURED)/built_in.json --table $(MEASURED)/built_in.md --pictures docs/pictures

# The tests' cases and the coefficients of their measures, on drawn people (needs OpenCV).
measures: setup ## fit the measures of drawn people and tell their errors (minutes)
	$(PY) -m training.angle
	$(PY) -m training.classifiers
	$(PY) -m training.truth --json $(MEASURED)/drawn_truth.json

# Samplers and approximations on data with a known distribution, and on the built-in model; four minutes.
bench-approximations: setup ## measure samplers and approximations (minutes)
	$(BENCH) mixtures --json $(MEASURED)/mixtures.json
	$(BENCH) approximations --json $(MEASURED)/approximations.json

train: setup ## train the built-in model (hours)
	$(PY) -m training all --out build/training

docs: setup ## build the documentation site in build/site
	$(PY) -m pip install --quiet --editable ".[docs]"
	$(PY) -m mkdocs build --quiet --strict

parity: setup ## compare with the recorded runs of the original
	$(PY) tests/parity.py tests/golden

clean: ## delete environments and outputs
	$(PYTHON) -c "import shutil; [shutil.rmtree(p, ignore_errors=True) for p in ('$(VENV)', '$(COMFYUI_VENV)', '$(APP_VENV)', '$(LOWEST_VENV)', 'output', 'build')]"
