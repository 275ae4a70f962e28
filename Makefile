# The four things a contributor needs. Everything happens in .venv; nothing is installed elsewhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FUZZ_INPUTS ?= 1000000

.PHONY: setup demo demo-split demo-stream demo-map emulate paper test check bench fuzz faults mutate clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP)  ## create .venv and install

demo: $(STAMP)  ## a server, four workers, fading links: bsp, rog:4 and rowcast
	$(BIN)/rowcast demo --policies bsp,rog:4,rowcast --seconds 40 --seed 0 --out demo-out

demo-split: $(STAMP)  ## a robot and a server, a fading link: local, offload, pipeline and rowcast
	$(BIN)/rowcast split demo --seconds 60 --seed 0 --out demo-split-out

demo-stream: $(STAMP)  ## a server, four robots with 12 to 75 samples a second: fixed, rate and team batches
	$(BIN)/rowcast stream demo --seconds 20 --seed 0 --out demo-stream-out

demo-map: $(STAMP)  ## a server, four robots that map a place together: bsp, rog:4 and rowcast, a minute each
	$(BIN)/rowcast demo --task crimp-room --policies bsp,rog:4,rowcast --seconds 60 --seed 0 --pace 0.3 --set ratio=0.2 \
		--out demo-map-out

emulate: $(STAMP)  ## real sockets in network namespaces, links as recorded: bsp, rog:4 and rowcast, a minute each
	@reason=$$($(BIN)/python -c "from rowcast.drivers.netns.rights import why_not_here as why; print(why() or '')"); \
	if [ -n "$$reason" ]; then echo "skipped: $$reason"; else \
		$(BIN)/rowcast emulate --policies bsp,rog:4,rowcast --minutes 1 --devices 0.3 --ratio 0.67 --out emulate-out; fi

paper: $(STAMP)  ## a reduced version of the whole evaluation in virtual time, with a report
	$(BIN)/rowcast compare --task cruda-digits --policies bsp,ssp:4,ssp:20,flown:4,rog:4,rog:20 --links outdoor \
		--workers 4 --hours 0.25 --seeds 3 --eval-every-s 30 --out paper-out
	$(BIN)/rowcast compare --task crimp-room --policies bsp,ssp:4,rog:4,rowcast --links outdoor --devices 1.0 \
		--workers 4 --hours 0.09 --seeds 3 --eval-every-s 30 --out paper-map-out

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP)  ## style, types, layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py

fuzz: $(STAMP)  ## FUZZ_INPUTS mutated frames, and every byte of recorded sessions damaged in turn
	$(BIN)/python tests/fuzzing.py --inputs $(FUZZ_INPUTS)
	$(BIN)/python tests/fuzzing_inferences.py
	$(BIN)/python tests/bitflips.py
	$(BIN)/python tests/tls_bitflips.py

faults: $(STAMP)  ## random faults: 4,000 schedules in virtual time, half with a durable server, 60 on real sockets
	$(BIN)/python tests/fault_schedules.py --virtual 2000 --durable 2000 --sockets 50 --crashes 10

mutate: $(STAMP)  ## 60 small faults in the core: does a test notice each?
	$(BIN)/python tools/mutate.py

bench: $(STAMP)  ## the numbers quoted in docs/benchmarks.md
	$(BIN)/python benchmarks/step_cost.py --check
	$(BIN)/python benchmarks/wire_size.py --check
	$(BIN)/python benchmarks/tensor_codecs.py --check
	$(BIN)/python benchmarks/memory.py --check
	$(BIN)/python benchmarks/worker_state.py --check
	$(BIN)/python benchmarks/pulls.py --check
	$(BIN)/python benchmarks/page.py --check
	$(BIN)/python benchmarks/fleet.py --check
	$(BIN)/python benchmarks/log_places.py --check
	$(BIN)/python benchmarks/finish_together.py --check
	$(BIN)/python benchmarks/goodput.py --check
	$(BIN)/python benchmarks/shaping.py --check
	$(BIN)/python benchmarks/agreement.py --check --parts steps
	$(BIN)/python benchmarks/wide_area.py --check
	$(BIN)/python benchmarks/tls.py --check
	$(BIN)/python benchmarks/split.py --check
	$(BIN)/python benchmarks/split_rows.py --check
	$(BIN)/python benchmarks/split_sockets.py --check
	$(BIN)/python benchmarks/drift.py --check
	$(BIN)/python benchmarks/motion.py --check --parts alone
	$(BIN)/python benchmarks/combining.py --check
	$(BIN)/python benchmarks/still_frames.py --check
	$(BIN)/python benchmarks/stream_faults.py --check
	$(BIN)/python benchmarks/stream_loader.py --check
	$(BIN)/python benchmarks/mapping.py --check --parts room,delay,speed
	$(BIN)/python benchmarks/simulate.py --check

clean:
	rm -rf $(VENV) demo-out demo-split-out demo-stream-out demo-map-out emulate-out split-bench-out bench-out paper-out paper-map-out compare-out mutate-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
