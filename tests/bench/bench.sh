#!/bin/sh
# Tests of the benchmark's own parts, where there is a Python 3.
command -v python3 >/dev/null || { echo "bench: 0 passed, 0 failed, 1 skipped"; exit 0; }
exec python3 tests/bench/test_bench.py
