#!/bin/sh
# Tests of `convjit dump --format torch`, where there is a Python 3.
command -v python3 >/dev/null || { echo "torch: 0 passed, 0 failed, 1 skipped"; exit 0; }
exec python3 tests/cli/torch_dump.py
