# SPDX-License-Identifier: BSD-3-Clause
# The few commands of this project; meson does the building.  Each target
# works alone on a fresh Debian 12: what is missing is installed first.

.PHONY: all demo check check-asan check-tsan check-long lint bench bench-check \
  install clean

all:
	@sh scripts/setup.sh build
	@sh scripts/build.sh build

# make demo ORIGIN=/path serves that instead.
demo: all
	@sh scripts/setup.sh demo
	@bash demo/demo.sh

check check-asan check-tsan check-long:
	@sh scripts/setup.sh build demo check lint
	@bash scripts/check.sh $@

lint:
	@sh scripts/setup.sh build check lint
	@bash scripts/lint.sh

# The comparison with the peers, about half an hour; docs/bench/README.md.
bench: all
	@sh scripts/setup.sh bench
	@python3 bench/bench.py compare

bench-check: all
	@sh scripts/setup.sh bench
	@python3 bench/bench.py check

# Where "nbdkit fssnap" and "man" look.
install: all
	@if [ "$$(id -u)" = 0 ] || [ -n "$(DESTDIR)" ]; \
	then meson install -C build --no-rebuild; \
	else sudo meson install -C build --no-rebuild; fi

clean:
	rm -rf build build-asan build-tsan build-clang
