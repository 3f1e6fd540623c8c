#!/bin/sh
# The PyTorch operator on the emulated device, where there is PyTorch: tests/gpu/python_op.py without a GPU.
python3 -c 'import torch' 2>/dev/null || { echo "python_op: 0 passed, 0 failed, 1 skipped"; exit 0; }
CUDA_VISIBLE_DEVICES='' CONVJIT_DRIVER=none CONVJIT_EMULATE=1 exec python3 tests/gpu/python_op.py
