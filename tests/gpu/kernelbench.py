#!/usr/bin/env python3
"""Dumped files as KernelBench's ModelNew: its own problems, its own way to compare, on a GPU with PyTorch.

usage: kernelbench.py [--only REGEX] [--modes f32,tf32] [--rounds N] [FOLDER]

FOLDER is a checkout of KernelBench, or its level1 folder; $KERNELBENCH if not given; without either nothing is tested.
For each convolution of level 1: the problem file and the dumped file are executed, Model and ModelNew are built from
get_init_inputs() behind the same seed, and their outputs must agree on five random inputs within KernelBench's
tolerance. Like is compared and timed with like: f32 with PyTorch in strict FP32; tf32 with PyTorch's default, which
allows TF32 in dense convolutions. Where that default does not itself agree so with strict FP32, it is enough that ModelNew
is about as near to strict FP32 as Model. Prints both medians of times; tests/bench/bench.py measures with more care.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

BUILD = Path(os.environ.get("BUILD") or "build")
NUMBERS = (50, 55, 56, 62, 63, 80, 82, 83, 84, 85, 87)
TRIALS, TOLERANCE = 5, 1e-4  # KernelBench's for float32, absolute and relative

# Problems whose Model takes other arguments than nn.Conv2d: from those to nn.Conv2d's.
ADAPTERS = {
    50: lambda num_classes: (3, 96),
    82: lambda channels, kernel_size, stride, padding: (channels, channels, kernel_size, stride, padding),
    83: lambda channels, rows, stride, padding, dilation: (channels, channels, (rows, 1), stride, padding, dilation),
    85: lambda channels, _, r, s, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, groups: (
        channels,
        channels,
        (r, s),
        (stride_h, stride_w),
        (pad_h, pad_w),
        (dil_h, dil_w),
        groups,
    ),
}


def problem_string(model, x, mode):
    """of the only convolution of a model"""
    import torch

    (conv,) = (module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    n, c, h, w = x.shape
    r, s = conv.kernel_size
    pairs = "".join(
        "_{}{}x{}".format(name, *pair)
        for name, pair in (("stride", conv.stride), ("pad", conv.padding), ("dil", conv.dilation))
    )
    return f"n{n}c{c}h{h}w{w}k{conv.out_channels}r{r}s{s}{pairs}_g{conv.groups}_{mode}" + (
        "_bias" if conv.bias is not None else ""
    )


def execute(text):
    names = {}
    exec(compile(text, "<string>", "exec"), names)  # as KernelBench does: no file, no module
    return names


def median_us(model, inputs, rounds):
    import torch

    times = []
    for _ in range(rounds + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        model(*inputs)
        end.record()
        end.synchronize()
        times.append(1e3 * start.elapsed_time(end))
    return statistics.median(times[3:])


def seeded(make, seed=42):
    import torch

    torch.manual_seed(seed)
    torch.cuda.manual_seed(seed)
    return make()


def drawn(get_inputs, seed):
    """Inputs, drawn on the GPU: gigabytes of random numbers would take the CPU most of the time of a test."""
    import torch

    with torch.device("cuda"):
        return seeded(get_inputs, seed)


def close(a, b):
    import torch

    return a.shape == b.shape and torch.allclose(a, b, atol=TOLERANCE, rtol=TOLERANCE)


def distance(y, strict):
    return ((y - strict).norm() / strict.norm()).item()


def allow_tf32(allowed):
    import torch

    torch.backends.cudnn.allow_tf32 = allowed


def compare(model, model_new, get_inputs, mode):
    """(how many trials agree, whether ModelNew may be as far off strict FP32 as it is, a text about both)"""
    agree = model_agrees = 0
    off = {"Model": 0.0, "ModelNew": 0.0}
    for trial in range(TRIALS):
        inputs = drawn(get_inputs, trial)
        allow_tf32(False)
        strict = model(*inputs)
        allow_tf32(mode == "tf32")
        expected, found = model(*inputs), model_new(*inputs)
        agree += close(expected, found)
        model_agrees += close(expected, strict)
        for name, y in (("Model", expected), ("ModelNew", found)):
            off[name] = max(off[name], distance(y, strict))
    near = model_agrees < TRIALS and off["ModelNew"] <= 2 * off["Model"]
    text = f"{agree} of {TRIALS} agree"
    if mode == "tf32":
        text += f", of Model with strict FP32 {model_agrees}; off that {off['ModelNew']:.2g}, Model {off['Model']:.2g}"
    return agree, near, text


def run(path, number, mode, rounds):
    """whether ModelNew passes; None if there is no such ModelNew to test"""

    theirs = execute(path.read_text())
    arguments = theirs["get_init_inputs"]()
    model = seeded(lambda: theirs["Model"](*arguments)).cuda()
    inputs = drawn(theirs["get_inputs"], 0)
    problem = problem_string(model, inputs[0], mode)
    if mode == "tf32" and "_g1_" not in problem:
        return None  # PyTorch's default is FP32 for these
    dumped = subprocess.run(
        [BUILD / "convjit", "dump", problem, "--format", "torch"], check=True, capture_output=True, text=True
    ).stdout
    adapt = ADAPTERS.get(number, lambda *same: same)
    model_new = seeded(lambda: execute(dumped)["ModelNew"](*adapt(*arguments))).cuda()
    agree, near, text = compare(model, model_new, theirs["get_inputs"], mode)
    torch_us, ours_us = median_us(model, inputs, rounds), median_us(model_new, inputs, rounds)
    print(
        f"{path.stem[:44]:44} {mode}: PyTorch {torch_us:.1f} us, ModelNew {ours_us:.1f} us; {text}; {problem}",
        flush=True,
    )
    return agree == TRIALS or near


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.environ.get("KERNELBENCH"))
    parser.add_argument("--only", default="", metavar="REGEX", help="problems whose file name matches")
    parser.add_argument("--modes", type=lambda text: text.split(","), default=["f32", "tf32"], metavar="LIST")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="timed runs")
    options = parser.parse_args()
    if not options.folder:
        print("no checkout of KernelBench\nkernelbench: 0 passed, 0 failed, 1 skipped")
        return 0
    import torch

    results = []
    with torch.no_grad():
        for number in NUMBERS:
            found = sorted(Path(options.folder).glob(f"**/level1/{number}_*.py")) or sorted(
                Path(options.folder).glob(f"{number}_*.py")
            )
            if not found:
                print(f"no problem {number} in {options.folder}")
                results.append(False)
            elif re.search(options.only, found[0].name):
                for mode in options.modes:
                    results.append(run(found[0], number, mode, options.rounds))
                    torch.cuda.empty_cache()
    print(f"kernelbench: {results.count(True)} passed, {results.count(False)} failed")
    return 0 if results and False not in results else 1


if __name__ == "__main__":
    sys.exit(main())
