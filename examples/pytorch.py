#!/usr/bin/env python3
"""A PyTorch model with convjit's convolutions: replaced in place, precompiled, compared, timed.

usage: pytorch.py       after `pip install runtime/python` (or with PYTHONPATH=runtime/python), on a GPU with PyTorch
"""

import copy

import convjit
import torch
from torch import nn


def block(channels):
    return nn.Sequential(
        nn.Conv2d(channels, channels, (5, 7), padding="same"),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        nn.SiLU(),
    )


def milliseconds(function, rounds=20):
    for _ in range(3):
        function()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(rounds):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / rounds


def main():
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False  # convjit obeys this, too
    theirs = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), block(64), block(64), nn.Conv2d(64, 8, 1)).cuda().eval()
    x = torch.randn(8, 3, 256, 256, device="cuda")

    ours = copy.deepcopy(theirs)
    print(convjit.replace(ours, fold_activations=True))
    problems = convjit.problems(ours, x)
    print("It consists of", *problems, sep="\n    ")
    print(convjit.precompile(problems), "kernels were compiled; the others were in the cache")

    with torch.no_grad():
        expected, found = theirs(x), ours(x)
        print(f"largest difference: {(found - expected).abs().max().item():.2g} of {expected.abs().max().item():.2g}")
        print(f"PyTorch {milliseconds(lambda: theirs(x)):.2f} ms, convjit {milliseconds(lambda: ours(x)):.2f} ms")
    ours(x).square().mean().backward()  # gradients are PyTorch's own
    print("gradient of the first weights:", tuple(ours[0].weight.grad.shape))


if __name__ == "__main__":
    main()
