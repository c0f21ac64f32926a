# Everything runs in .venv, which `setup` makes and keeps up to date.
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

.PHONY: setup demo test test-kernels test-comfyui contract bench-comfyui bench-built-in bench-approximations train workflows pictures soak soak-comfyui lint format bench bench-all parity clean

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet "$(TORCH)"
	$(PY) -m pip install --quiet --editable ".[dev,training]"
	$(PY) -c "open('$(READY)', 'w').close()"

demo: setup
	$(PY) -c "import pathlib; pathlib.Path('output').mkdir(exist_ok=True)"
	$(PY) -m hallo3 animate --portrait samples/portrait.png --speech samples/speech.wav \
		--prompt "A person talks to the camera." --enlarge 4 -o output/demo.mp4

# With REQUIRE_COMFYUI=1 the tests in a real ComfyUI run too, in their own environment, and may not be skipped.
ifeq ($(REQUIRE_COMFYUI),1)
test: setup test-comfyui
	$(PY) -m pytest -n auto --dist loadfile -m "not soak" --ignore=tests/comfyui
else
test: setup
	$(PY) -m pytest -n auto --dist loadfile -m "not soak"
endif

# An environment of its own, because ComfyUI's requirements are many; torch is the same.
COMFYUI_VENV := .venv-comfyui
COMFYUI_PY := $(subst $(VENV),$(COMFYUI_VENV),$(PY))
COMFYUI_READY := $(COMFYUI_VENV)/.ready

$(COMFYUI_READY): pyproject.toml tests/comfyui/requirements.py
	$(PYTHON) -m venv $(COMFYUI_VENV)
	$(COMFYUI_PY) -m pip install --quiet "$(TORCH)"
	$(COMFYUI_PY) -m pip install --quiet --editable ".[dev]"
	cd tests && ../$(COMFYUI_PY) -m comfyui.requirements
	$(COMFYUI_PY) -c "open('$(COMFYUI_READY)', 'w').close()"

# The GPU kernels without a GPU: Triton's interpreter runs them, its compiler makes machine code of them (Linux).
test-kernels: setup
	$(PY) -m pip install --quiet triton
	REQUIRE_TRITON=1 $(PY) -m pytest tests/model/test_triton_kernels.py

test-comfyui: $(COMFYUI_READY)
	$(COMFYUI_PY) -m pytest tests/comfyui -rs

# These need a Chromium: the templates; their thumbnails, the README's picture, preview colours.
workflows: $(COMFYUI_READY)
	$(COMFYUI_PY) tools/write_workflows.py

pictures: $(COMFYUI_READY)
	$(COMFYUI_PY) tools/make_pictures.py

bench-comfyui: $(COMFYUI_READY)
	$(COMFYUI_PY) benchmarks/stock_schedule.py --json docs/measurements/stock_schedule.json
	$(COMFYUI_PY) benchmarks/torch_compile.py --json docs/measurements/torch_compile.json

contract: $(COMFYUI_READY)
	cd tests && ../$(COMFYUI_PY) -m comfyui.contract

soak: setup
	$(PY) -m pytest -m soak -s

# Kills a server again and again; needs a ComfyUI.
soak-comfyui: $(COMFYUI_READY)
	$(COMFYUI_PY) -m pytest tests/soak/test_server.py -m soak -s

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(PY)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

BENCH := $(PY) -m benchmarks
MEASURED := docs/measurements

# Minutes. Times are of the device that is here; the result says which.
bench: setup
	$(BENCH) counts --json $(MEASURED)/ledger.json --chart docs/pictures/cost.png
	$(BENCH) cpu --json $(MEASURED)/cpu.json
	$(BENCH) precision --json $(MEASURED)/precision.json
	$(BENCH) products --json $(MEASURED)/products.json
	$(BENCH) times --device cpu --json $(MEASURED)/times.json
	$(BENCH) length --short --json $(MEASURED)/length.json

# All but `drift`, which is for owners of released weights. The last line measures a GPU, if there is one.
bench-all: bench bench-approximations
	$(BENCH) exactness --json $(MEASURED)/exactness.json
	$(BENCH) ceilings --json $(MEASURED)/ceilings.json
	$(BENCH) length --json $(MEASURED)/length.json --chart docs/pictures/length.png
	$(BENCH) times

# How the built-in model behaves, and where it comes from (hours; see training/README.md).
bench-built-in: setup
	$(PY) benchmarks/built_in.py --seconds 60 600 --json docs/measurements/built_in.json \
		--sheet docs/pictures/built_in.png

# Samplers and approximations where the answer is known, and on the built-in model; four minutes.
bench-approximations: setup
	$(BENCH) mixtures --json $(MEASURED)/mixtures.json
	$(BENCH) approximations --json $(MEASURED)/approximations.json

train: setup
	$(PY) -m training all --out build/training

parity: setup
	$(PY) tests/parity.py tests/golden

clean:
	$(PYTHON) -c "import shutil; [shutil.rmtree(p, ignore_errors=True) for p in ('$(VENV)', '$(COMFYUI_VENV)', 'output', 'build')]"
