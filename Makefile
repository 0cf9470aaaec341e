# What CI and the README call; nothing else is needed.
.PHONY: run test fuzz sim lint bench doc images clean-run

CARGO ?= cargo
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)

# Build, start a server, run the StatefulSet example and show it. Safe to repeat.
run:
	tests/setup.sh
	$(CARGO) build --release --bin minik8s --bin minik8s-ctl
	examples/kubia/run.sh

# Sets the machine up where needed, then runs every test there is. Of the simulation 20,000 schedules: some 17 minutes of
# one core, in four tests that a runner spreads over all.
test: export MINIK8S_SIM_SCHEDULES ?= 20000
test: images
	$(CARGO) build --workspace --all-targets
ifeq ($(NEXTEST),yes)
	$(CARGO) nextest run --workspace --no-fail-fast
else
	$(CARGO) test --workspace --no-fail-fast
endif

# Every parser that a client can reach, against mutations of good inputs: each kind of input for FUZZ_SECONDS.
FUZZ_SECONDS ?= 600
fuzz:
ifeq ($(NEXTEST),yes)
	MINIK8S_FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) nextest run --workspace --no-fail-fast --success-output final -E 'test(fuzz_)'
else
	MINIK8S_FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --workspace --no-fail-fast fuzz_
endif

# The simulation alone, in a build of its own that is optimised a little and tries five times as many schedules a second.
sim: export MINIK8S_SIM_SCHEDULES ?= 20000
sim:
	$(CARGO) test --workspace --profile sim --test sim

images:
	tests/setup.sh
	tests/images.sh
	tests/clients.sh

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# Figures of this machine, now; compare only those of one run. What a part needs: BENCH="ready pods" make bench.
bench: images
	$(CARGO) build --release --workspace --bins
	$(CARGO) bench --workspace --benches -- $(BENCH)

doc:
	$(CARGO) doc --workspace --no-deps
