#!/usr/bin/env python3
"""KernelBench's convolutions with convjit.replace beside PyTorch's, like with like: both in strict FP32, then both in TF32.

usage: python_kernelbench.py [--only REGEX] [--rounds N] [FOLDER]

FOLDER is a checkout of KernelBench, or its level1 folder; $KERNELBENCH if not given; without either nothing is tested.
Outputs must agree on five random inputs: in strict FP32 within KernelBench's tolerance, in TF32 as closely with strict FP32
as PyTorch's do, by a factor of two, or within a rounding to TF32. kernelbench.py tests what `convjit dump --format torch` writes.
"""

import argparse
import copy
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))
from checks import Checks, use_checkout
from kernelbench import NUMBERS, TRIALS, allow_tf32, close, distance, drawn, execute, median_us, seeded

use_checkout()


def compare(checks, name, model, ours, get_inputs):
    for trial in range(TRIALS):
        inputs = drawn(get_inputs, trial)
        allow_tf32(False)
        strict = model(*inputs)
        checks.that(close(ours(*inputs), strict), f"{name}: trial {trial}, strict FP32")
        allow_tf32(True)
        theirs_off, ours_off = (distance(each(*inputs), strict) for each in (model, ours))
        what = f"{name}: trial {trial}, TF32: off by {ours_off:.2g}, PyTorch {theirs_off:.2g}"
        checks.that(ours_off <= 2 * theirs_off + 2**-11, what)


def run(checks, path, rounds):
    import convjit

    names = execute(path.read_text())
    model = seeded(lambda: names["Model"](*names["get_init_inputs"]())).cuda()
    ours = copy.deepcopy(model)
    convjit.replace(ours)
    compare(checks, path.stem, model, ours, names["get_inputs"])
    inputs, times = drawn(names["get_inputs"], 0), []
    for allowed in (False, True):
        allow_tf32(allowed)
        times += [median_us(each, inputs, rounds) for each in (model, ours)]
    print(
        "{:44} FP32: PyTorch {:.1f} us, convjit {:.1f} us; TF32: PyTorch {:.1f} us, convjit {:.1f} us".format(
            path.stem[:44], *times
        ),
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.environ.get("KERNELBENCH"))
    parser.add_argument("--only", default="", metavar="REGEX", help="problems whose file name matches")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="timed runs")
    options = parser.parse_args()
    if not options.folder:
        print("no checkout of KernelBench\npython_kernelbench: 0 passed, 0 failed, 1 skipped")
        return 0
    import torch

    torch.backends.cudnn.benchmark = True
    checks = Checks("python_kernelbench")
    with torch.no_grad():
        for number in NUMBERS:
            found = sorted(Path(options.folder).glob(f"**/{number}_conv*2D*.py"))
            checks.that(found, f"problem {number} is in {options.folder}")
            for path in found:
                if re.search(options.only, path.name):
                    checks.run([run], path, options.rounds)
                    torch.cuda.empty_cache()
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())
