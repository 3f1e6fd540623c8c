#!/usr/bin/env python3
"""Whole models with convjit.replace beside the same models with PyTorch's convolutions, on a GPU with torchvision.

usage: python_models.py [--models NAMES] [--modes NAMES] [--formats NAMES] [--runs NAMES] [--rounds N] [--json FILE]

Weights are random, of a fixed seed. A replaced model must be about as near to the model in float64 as PyTorch's is, in each
way to run it: eager, torch.compile(fullgraph=True), and captured into a CUDA graph. With --rounds, both sides are timed
in turn, with cudnn.benchmark = True, and medians are printed.
"""

import argparse
import copy
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))
from checks import Checks, use_checkout

use_checkout()

# name: (batch to compare, batch to time, height and width)
MODELS = {
    "resnet50": (4, 64, 224),
    "mobilenet_v3_large": (4, 128, 224),
    "efficientnet_b0": (4, 128, 224),
    "convnext_tiny": (4, 64, 224),
    "deeplabv3_resnet50": (2, 8, 512),
}
MODES = ("f32", "tf32", "bf16")
FORMATS = ("nchw", "channels_last")
RUNS = ("eager", "graph", "compile")
# What a model may be off beyond twice PyTorch's own error, relative to the norm of the output: some roundings in its type.
ALLOWANCES = {"f32": 1e-6, "tf32": 2e-3, "bf16": 4e-3}


def build(name):
    import torch
    import torchvision.models

    torch.manual_seed(7)
    family = torchvision.models.segmentation if name.startswith("deeplab") else torchvision.models
    model = getattr(family, name)(weights=None, **({"weights_backbone": None} if name.startswith("deeplab") else {}))
    return model.eval().requires_grad_(False)


def output(result):
    return result["out"] if isinstance(result, dict) else result


def captured(model, x):
    """The model as a function that replays a CUDA graph on x."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            model(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = output(model(x))

    def replay(_):
        graph.replay()
        return y

    return replay


def way(run, model, x):
    """The function of x that a way to run a model is."""
    import torch

    if run == "graph":
        return captured(model, x)
    if run == "compile":
        torch._dynamo.reset()
        return torch.compile(model, fullgraph=True)
    return model


def interleaved_ms(functions, x, rounds):
    import torch

    times = [[] for _ in functions]
    for i in range(rounds + 2):
        for function, mine in zip(functions, times):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function(x)
            end.record()
            end.synchronize()
            if i >= 2:
                mine.append(start.elapsed_time(end))
    return [statistics.median(mine) for mine in times]


def distance(y, exact):
    return ((y.double() - exact).norm() / exact.norm()).item()


class Pair:
    """A model with PyTorch's convolutions, and with convjit's, in one mode and format."""

    def __init__(self, name, model, mode, format):
        import convjit
        import torch

        self.small, self.large, self.size = MODELS[name]
        self.options = {"dtype": torch.bfloat16 if mode == "bf16" else torch.float32, "device": "cuda"}
        self.format = torch.channels_last if format == "channels_last" else torch.contiguous_format
        self.theirs = copy.deepcopy(model).to(**self.options).to(memory_format=self.format)
        self.ours = copy.deepcopy(self.theirs)
        self.report = convjit.replace(self.ours)

    def input(self, batch):
        import torch

        torch.manual_seed(batch)
        x = torch.randn(batch, 3, self.size, self.size).to(**self.options)
        return x.contiguous(memory_format=self.format)


def run_one(checks, name, model, mode, format, options):
    import convjit
    import torch

    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = mode == "tf32"
    pair = Pair(name, model, mode, format)
    x = pair.input(pair.small)
    batches = (pair.small, pair.large) if options.rounds else (pair.small,)
    convjit.precompile([each for n in batches for each in convjit.problems(pair.ours, pair.input(n))])
    exact = output(copy.deepcopy(model).to("cuda", torch.float64)(x.double()))
    theirs = distance(output(pair.theirs(x)), exact)
    result = {"model": name, "mode": mode, "format": format, "error": {"torch": theirs}, "ms": {}}
    for run in options.runs:
        ours = distance(output(way(run, pair.ours, x)(x)), exact)
        what = f"{name}, {mode}, {format}, {run}: off by {ours:.3g}, PyTorch {theirs:.3g}"
        checks.that(ours <= 2 * theirs + ALLOWANCES[mode], what)
        result["error"][run] = ours
    x = pair.input(pair.large)
    torch.backends.cudnn.benchmark = True  # only here: to compare, it would cost seconds a model
    for run in options.runs if options.rounds else ():
        functions = [way(run, each, x) for each in (pair.theirs, pair.ours)]
        theirs_ms, ours_ms = interleaved_ms(functions, x, options.rounds)
        result["ms"][run] = {"torch": theirs_ms, "convjit": ours_ms}
    times = ", ".join(f"{run} {t['torch']:.2f} -> {t['convjit']:.2f}" for run, t in result["ms"].items())
    errors = ", ".join(f"{run} {error:.2g}" for run, error in result["error"].items())
    print(f"{name} {mode} {format}: {len(pair.report.replaced)} replaced; errors: {errors}; ms: {times}", flush=True)
    return result


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def names(known):
        return {
            "type": lambda text: text.split(","),
            "default": list(known),
            "metavar": "NAMES",
            "help": ",".join(known),
        }

    for option, known in (("--models", MODELS), ("--modes", MODES), ("--formats", FORMATS), ("--runs", RUNS)):
        parser.add_argument(option, **names(known))
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="timed runs; without: only compare")
    parser.add_argument("--json", metavar="FILE", help="where to write errors and times")
    return parser.parse_args()


def main():
    options = arguments()
    try:
        import torch
        import torchvision  # noqa: F401
    except ImportError as error:
        print(f"{error}\npython_models: 0 passed, 0 failed, 1 skipped")
        return 0
    if not torch.cuda.is_available():
        print("PyTorch sees no GPU\npython_models: 0 passed, 1 failed")
        return 1
    checks, results = Checks("python_models"), []
    with torch.no_grad():
        for name in options.models:
            model = build(name)
            for mode in options.modes:
                for format in options.formats:
                    checks.run([lambda *these: results.append(run_one(*these))], name, model, mode, format, options)
                    torch.cuda.empty_cache()
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())
