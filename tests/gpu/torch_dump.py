#!/usr/bin/env python3
"""`convjit dump --format torch` on a GPU with PyTorch: builds the dumped files, compares with nn.Conv2d and float64.

usage: torch_dump.py            all problems below, each in a process of its own (building takes most of the time)
       torch_dump.py PROBLEM    one
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "bench"))
from layers import largest_error

BUILD = Path(os.environ.get("BUILD") or ROOT / "build")

PROBLEMS = [
    "n2c16h20w24k32r5s7_bias",
    "n1c128h28w28k128r3s3_pad1_f16_nhwc_bias_silu_residual",  # few outputs: the reduction is split, with a workspace
    "n2c6h9w11k4r3s2_stride2x1_pad1x2_dil2x1_g2_bf16_krsc",
    "n1c3h40w40k8r4s4_pad1x1x2x2_tf32_nhwc_relu",  # the padding that nn.Conv2d calls "same"
]

SLOPE = 1.1  # no activation used here is steeper than silu's 1.0999


class Checks:
    """Counts; prints what failed."""

    def __init__(self, problem):
        self.problem, self.passed, self.failed = problem, 0, 0

    def that(self, holds, what):
        self.passed, self.failed = self.passed + bool(holds), self.failed + (not holds)
        if not holds:
            print(f"{self.problem}: FAILED: {what}")

    def raises(self, kind, part, what, function):
        try:
            function()
        except kind as error:
            self.that(part in str(error), f"{what}: '{error}' lacks '{part}'")
        else:
            self.that(False, f"{what}: no error")


class Case:
    """A problem string, its dumped file as a module, and the same layer from PyTorch."""

    def __init__(self, text):
        import torch
        import torch.nn.functional as F

        self.text, self.fields = text, text.split("_")[1:]
        self.sizes = dict((letter, int(value)) for letter, value in re.findall(r"([a-z])(\d+)", text.split("_")[0]))
        self.mode = next((field for field in self.fields if field in ("tf32", "f16", "bf16")), "f32")
        self.dtype = {"f16": torch.float16, "bf16": torch.bfloat16}.get(self.mode, torch.float32)
        self.format = torch.channels_last if "nhwc" in self.fields else torch.contiguous_format
        self.activation = F.silu if "silu" in self.fields else F.relu if "relu" in self.fields else lambda v: v
        self.residual = "residual" in self.fields
        numbers = {
            name: tuple(map(int, values.split("x")))
            for name, values in re.findall(r"_(stride|pad|dil|g)(\d+(?:x\d+)*)", text)
        }
        self.stride, self.dilation = ((numbers.get(name, (1,)) * 2)[:2] for name in ("stride", "dil"))
        self.padding = (numbers.get("pad", (0,)) * 4)[:4]
        self.groups = numbers.get("g", (1,))[0]
        self.arguments = (
            self.sizes["c"],
            self.sizes["k"],
            (self.sizes["r"], self.sizes["s"]),
            self.stride,
            self.padding[:2] if self.padding[:2] == self.padding[2:] else "same",
            self.dilation,
            self.groups,
            "bias" in self.fields,
        )
        self.module = self.build()

    def build(self):
        dumped = subprocess.run(
            [BUILD / "convjit", "dump", self.text, "--format", "torch"], check=True, capture_output=True, text=True
        ).stdout
        folder = BUILD / "tests" / "gpu"
        (folder / "extensions").mkdir(parents=True, exist_ok=True)
        os.environ["TORCH_EXTENSIONS_DIR"] = str((folder / "extensions").resolve())
        path = folder / f"{re.sub('[^a-z0-9]', '_', self.text)}.py"
        path.write_text(dumped)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def inputs(self, n, h, w):
        import torch

        x = torch.randn(n, self.sizes["c"], h, w, device="cuda").to(self.dtype).contiguous(memory_format=self.format)
        if not self.residual:
            return [x]
        filters = torch.empty(self.sizes["k"], self.sizes["c"] // self.groups, *self.arguments[2], device="cuda")
        p, q = self.exact_convolution(x, filters, None).shape[2:]
        return [
            x,
            torch.randn(n, self.sizes["k"], p, q, device="cuda").to(self.dtype).contiguous(memory_format=self.format),
        ]

    def exact_convolution(self, x, weight, bias):
        import torch.nn.functional as F

        top, left, bottom, right = self.padding
        return F.conv2d(
            F.pad(x.double(), (left, right, top, bottom)),
            weight.double(),
            None if bias is None else bias.double(),
            self.stride,
            0,
            self.dilation,
            self.groups,
        )

    def wrong(self, model, y, x, residual=None):
        """how many outputs are off by more than their bounds"""
        weight, bias = model.conv2d.weight.detach(), model.conv2d.bias
        bias = None if bias is None else bias.detach()
        exact = self.activation(self.exact_convolution(x, weight, bias))
        magnitude = self.exact_convolution(x.abs(), weight.abs(), None if bias is None else bias.abs())
        if residual is not None:
            exact = exact + residual.double()
            magnitude = magnitude + residual.double().abs()
        terms = self.sizes["c"] // self.groups * self.sizes["r"] * self.sizes["s"] + 4  # and the epilogue
        bound = SLOPE * largest_error(self.mode, terms, magnitude, exact.abs()) + 1e-6 * magnitude
        return int((~((y.double() - exact).abs() <= bound)).sum())


def check_parameters(case, checks):
    """The same random numbers, in the same order, under the same names."""
    import torch

    torch.manual_seed(5)
    theirs = torch.nn.Conv2d(*case.arguments)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    ours = case.module.ModelNew(*case.arguments)
    checks.that(torch.equal(torch.get_rng_state(), state), "as many random numbers are drawn")
    expected = {f"conv2d.{name}": value for name, value in theirs.state_dict().items()}
    found = ours.state_dict()
    checks.that(
        list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in found),
        "the same parameters",
    )
    return ours.to("cuda", case.dtype)


def check_outputs(case, checks, model):
    import torch

    sizes = case.sizes
    with torch.no_grad():
        for n, h, w in ((sizes["n"], sizes["h"], sizes["w"]), (3, sizes["h"] + 7, sizes["w"] + 3), (1, 13, 64)):
            inputs = case.inputs(n, h, w)
            y = model(*inputs)
            checks.that(
                y.dtype == case.dtype and y.is_contiguous(memory_format=case.format),
                f"{n} {h} {w}: type and layout of y",
            )
            wrong = case.wrong(model, y, *inputs)
            checks.that(wrong == 0, f"{n} {h} {w}: {wrong} of {y.numel()} outputs wrong")
        empty = case.inputs(1, 20, 20)
        y = model(*(tensor[:0] for tensor in empty))
        checks.that(y.shape[0] == 0 and y.shape[1] == sizes["k"], "a batch of none")
        inputs = case.inputs(2, 20, 20)
        expected = model(*inputs)
        model.to(memory_format=torch.channels_last)  # weights too
        checks.that(torch.equal(model(*inputs), expected), "a channels_last model")


def check_streams(case, checks, model):
    """Work goes to the current stream: captured in a graph, and behind what fills the input."""
    import torch

    with torch.no_grad():
        inputs = case.inputs(2, 20, 20)
        expected = model(*inputs)
        other = [tensor.clone() for tensor in inputs]
        model(*other)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(*other)
        y.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        checks.that(torch.equal(y, expected), "a captured graph")


def check_gradients(case, checks, model):
    inputs = case.inputs(1, 20, 20)
    y = model(*inputs)
    checks.that(y.requires_grad, "the output knows that it needs a gradient")
    checks.raises(NotImplementedError, "forward pass", "backward", lambda: y.sum().backward())


def check_refusals(case, checks, model):
    import torch

    x, *rest = case.inputs(2, 20, 20)
    other = torch.contiguous_format if case.format == torch.channels_last else torch.channels_last

    def refused(part, what, tensor):
        checks.raises(RuntimeError, part, what, lambda: model(tensor, *rest))

    with torch.no_grad():
        refused("this kernel was compiled for", "another type", x.to(torch.float64))
        refused("memory format", "another layout", x.contiguous(memory_format=other))
        refused("memory format", "a gap between rows", x[:, :, :, ::2])
        refused("expected (N, ", "fewer channels", x[:, 1:])
        refused("expected (N, ", "three dimensions", x[0])
        refused("CUDA device", "on the CPU", x.cpu())
        top, left, bottom, right = case.padding
        if top + bottom < case.dilation[0] * (case.sizes["r"] - 1):
            refused("filter is larger", "a single row", x[:, :, :1].contiguous(memory_format=case.format))
        shifted = torch.empty(x.numel() + 1, dtype=x.dtype, device="cuda")[1:].as_strided(x.shape, x.stride())
        needed = int(re.search(r"must begin at a multiple of (\d+) bytes", case.module.BINDING).group(1))
        if needed > x.element_size():
            refused("must begin at a multiple", "an unaligned tensor", shifted)
    checks.raises(
        ValueError,
        "in_channels",
        "another in_channels",
        lambda: case.module.ModelNew(case.sizes["c"] + 1, *case.arguments[1:]),
    )


def run_one(problem):
    case, checks = Case(problem), Checks(problem)
    model = check_parameters(case, checks)
    check_outputs(case, checks, model)
    check_streams(case, checks, model)
    check_gradients(case, checks, model)
    check_refusals(case, checks, model)
    print(f"torch_dump: {checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


def run_all():
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, problem], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for problem in PROBLEMS
    ]
    passed = failed = 0
    for problem, process in zip(PROBLEMS, processes):
        output = process.communicate()[0]
        counts = re.search(r"^torch_dump: (\d+) passed, (\d+) failed$", output, re.M)
        if counts:
            passed, failed = passed + int(counts.group(1)), failed + int(counts.group(2))
        if not counts or process.returncode:
            failed += not counts
            print(f"{problem}: exit {process.returncode}\n{output}")
    print(f"torch_dump: {passed} passed, {failed} failed")
    return 1 if failed else 0


def main():
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed\ntorch_dump: 0 passed, 0 failed, 1 skipped")
        return 0
    if not torch.cuda.is_available():
        print("PyTorch sees no GPU\ntorch_dump: 0 passed, 1 failed")
        return 1
    return run_one(sys.argv[1]) if len(sys.argv) > 1 else run_all()


if __name__ == "__main__":
    sys.exit(main())
