#!/usr/bin/env python3
"""What an eager call costs the host: convjit.conv2d beside torch.nn.functional.conv2d, on a problem that takes the GPU less.

usage: python_host_cost.py [ROUNDS]     fails if convjit's median is above PyTorch's
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))
from checks import Checks, use_checkout

use_checkout()
CALLS = 200  # in one go: few enough for the queue of a stream to hold them


def cost_us(function):
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CALLS):
        function()
    cost = (time.perf_counter() - start) / CALLS
    torch.cuda.synchronize()
    return 1e6 * cost


def medians(ours, theirs, rounds):
    for _ in range(3):
        cost_us(ours), cost_us(theirs)
    times = [(cost_us(ours), cost_us(theirs)) for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times)]


def cases():
    """(what, ours, theirs)"""
    import convjit
    import torch
    import torch.nn.functional as F

    x, w, b = (torch.randn(*shape, device="cuda") for shape in ((1, 4, 8, 8), (4, 4, 3, 3), (4,)))
    half = [t.half() for t in (x, w, b)]
    last = [half[0].to(memory_format=torch.channels_last), half[1].to(memory_format=torch.channels_last), half[2]]
    yield "float32", lambda: convjit.conv2d(x, w, b, padding=1), lambda: F.conv2d(x, w, b, padding=1)
    yield "float16", lambda: convjit.conv2d(*half, padding=1), lambda: F.conv2d(*half, padding=1)
    yield "float16, channels_last", lambda: convjit.conv2d(*last, padding=1), lambda: F.conv2d(*last, padding=1)
    ours, theirs = (kind(4, 4, 3, padding=1, device="cuda") for kind in (convjit.Conv2d, torch.nn.Conv2d))
    yield "modules, float32", lambda: ours(x), lambda: theirs(x)


def main():
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed\npython_host_cost: 0 passed, 0 failed, 1 skipped")
        return 0
    if not torch.cuda.is_available():
        print("PyTorch sees no GPU\npython_host_cost: 0 passed, 1 failed")
        return 1
    checks, rounds = Checks("python_host_cost"), int(sys.argv[1]) if len(sys.argv) > 1 else 21
    torch.backends.cudnn.benchmark = True
    for what, ours, theirs in cases():
        for mode, gradient in (("no_grad", False), ("grad", True)):
            with torch.set_grad_enabled(gradient):
                convjit_us, torch_us = medians(ours, theirs, rounds)
            print(f"{what}, {mode}: convjit {convjit_us:.2f} us, PyTorch {torch_us:.2f} us a call", flush=True)
            checks.that(convjit_us <= torch_us, f"{what}, {mode}: convjit costs the host more")
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())
