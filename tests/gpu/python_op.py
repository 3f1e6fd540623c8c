#!/usr/bin/env python3
"""The operator convjit::conv2d and convjit.Conv2d beside PyTorch's own, on a GPU.

With CONVJIT_EMULATE=1, where there is no GPU, on the emulated device: slowly, and without what only a GPU has.
"""

import contextlib
import copy
import os
import pickle
import re
import sys
import threading
import types
import unittest
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))
from checks import Checks, use_checkout

use_checkout()

TYPES = ("float32", "float16", "bfloat16")
TOLERANCES = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}  # of small sums of small numbers


def integers(device, *shape, dtype=None):
    """Small whole numbers: their convolutions are exact in every type."""
    import torch

    return torch.randint(-2, 3, shape, device=device).to(dtype or torch.float32)


def close(found, expected, tolerance):
    import torch

    return found.shape == expected.shape and torch.allclose(found.double(), expected.double(), tolerance, tolerance)


# ---- PyTorch's own tests of an operator ----


def opinfo():
    """PyTorch's description of conv2d, with samples. Its module imports a package that samples do not need."""
    with contextlib.suppress(ImportError):
        import expecttest  # noqa: F401
    sys.modules.setdefault("expecttest", types.SimpleNamespace(TestCase=unittest.TestCase))
    from torch.testing._internal.common_methods_invocations import op_db

    (info,) = (each for each in op_db if each.name == "nn.functional.conv2d")
    return info


def check_samples(checks, device):
    """Every sample of PyTorch's OpInfo, and each once more not contiguous: outputs, layouts and gradients."""
    import convjit
    import torch
    import torch.nn.functional as F

    for name in TYPES:
        for sample in opinfo().sample_inputs(device, getattr(torch, name), requires_grad=True):
            for each in (sample, sample.noncontiguous()):
                with no_tf32():
                    check_sample(checks, name, each, convjit.conv2d, F.conv2d)


def check_sample(checks, name, sample, ours, theirs):
    import torch

    tensors = [t for t in (sample.input, *sample.args) if isinstance(t, torch.Tensor)]
    y, expected = (function(sample.input, *sample.args, **sample.kwargs) for function in (ours, theirs))
    what = f"{name} {[list(t.shape) for t in tensors]} {sample.kwargs}"
    # in double, which neither rounds
    exact = theirs(*(t.double() for t in tensors), **sample.kwargs)
    checks.that(close(y, exact, TOLERANCES[name]), f"{what}: outputs")
    checks.that(y.stride() == expected.stride() and y.dtype == expected.dtype, f"{what}: layout and type")
    gradient = torch.ones_like(y)
    found, wanted = (torch.autograd.grad(out, tensors, gradient) for out in (y, expected))
    checks.that(all(close(*pair, TOLERANCES[name]) for pair in zip(found, wanted)), f"{what}: gradients")


def check_error_inputs(checks, device):
    """PyTorch's error inputs give errors in PyTorch's words."""
    import convjit

    for error in opinfo().error_inputs(device):
        sample = error.sample_input
        try:
            convjit.conv2d(sample.input, *sample.args, **sample.kwargs)
        except error.error_type as raised:
            checks.that(re.search(error.error_regex, str(raised)), f"'{raised}' is not like '{error.error_regex}'")
        else:
            checks.that(False, f"no error: {error.error_regex}")


def check_operator(checks, device):
    """torch.library.opcheck: schema, autograd registration, fake tensors, and AOT dispatch with dynamic shapes."""
    import convjit.torch_op
    import torch

    def t(*shape, grad=False, dtype=torch.float32, format=torch.contiguous_format):
        return integers(device, *shape, dtype=dtype).to(memory_format=format).requires_grad_(grad)

    last = torch.channels_last
    for arguments in (
        (t(2, 4, 8, 9), t(6, 2, 3, 3), None, [1, 1], [1, 1, 1, 1], [1, 1], 2),
        (t(2, 4, 8, 9, grad=True), t(6, 4, 3, 2, grad=True), t(6, grad=True), [2, 1], [1, 0, 2, 1], [1, 2], 1, "relu"),
        (
            t(2, 4, 8, 9, format=last),
            t(6, 4, 3, 3),
            t(6),
            [1, 1],
            [1, 1, 1, 1],
            [1, 1],
            1,
            "clamp",
            -1.0,
            2.0,
            t(2, 6, 8, 9),
        ),
        (
            t(2, 4, 5, 5, grad=True, dtype=torch.bfloat16, format=last),
            t(6, 4, 1, 1, dtype=torch.bfloat16),
            None,
            [1, 1],
            [0] * 4,
            [1, 1],
            1,
        ),
    ):
        result = torch.library.opcheck(convjit.torch_op.operator, arguments)
        checks.that(set(result.values()) == {"SUCCESS"}, f"opcheck: {result}")


def check_gradients(checks, device):
    """gradcheck and gradgradcheck. A convolution is linear in each operand, so that wide steps are exact in float32."""
    import convjit
    import torch

    x = torch.randn(1, 4, 5, 6, device=device, requires_grad=True)
    w = torch.randn(2, 2, 3, 2, device=device, requires_grad=True)
    b = torch.randn(2, device=device, requires_grad=True)
    r = torch.randn(1, 2, 3, 6, device=device, requires_grad=True)
    tolerances = {"eps": 1e-1, "atol": 2e-2, "rtol": 2e-2, "nondet_tol": 1e-4}

    def f(x, w, b, r, padding=(0, 1, 0, 0), activation=None):
        return convjit.conv2d(x, w, b, padding=padding, groups=2, activation=activation, residual=r)

    with no_tf32(), quiet():
        checks.that(torch.autograd.gradcheck(f, (x, w, b, r), **tolerances), "gradcheck")
        checks.that(torch.autograd.gradgradcheck(f, (x, w, b, r), **tolerances), "gradgradcheck")
        tolerances["eps"] = 1e-2
        for activation in ("silu", "tanh", "gelu", ("leaky_relu", 0.3)):
            passes = torch.autograd.gradcheck(lambda *t: f(*t, activation=activation), (x, w, b, r), **tolerances)
            checks.that(passes, f"gradcheck with {activation}")


def no_tf32():
    import torch

    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


@contextlib.contextmanager
def quiet():
    """without the warning that float32 is not double, which is known here"""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Input #.* requires gradient and is not a double precision")
        yield


# ---- What a call does ----


def check_activations(checks, device):
    """Each activation, with bias and residual: by the kernel, and composed where a gradient is wanted."""
    import convjit
    import torch
    import torch.nn.functional as F

    x, w, b = (torch.randn(*shape, device=device) for shape in ((2, 4, 9, 7), (6, 4, 3, 3), (6,)))
    r = torch.randn(2, 6, 7, 5, device=device)
    references = {
        None: lambda v: v,
        "relu": F.relu,
        "silu": F.silu,
        "gelu": F.gelu,
        "hardswish": F.hardswish,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "leaky_relu": F.leaky_relu,
        ("leaky_relu", 0.2): lambda v: F.leaky_relu(v, 0.2),
        ("clamp", -0.5, 1.5): lambda v: v.clamp(-0.5, 1.5),
    }
    for activation, reference in references.items():
        exact = reference(F.conv2d(x.double(), w.double(), b.double())) + r.double()
        with no_tf32():
            plain = convjit.conv2d(x, w, b, activation=activation, residual=r)
            trained = convjit.conv2d(x, w.clone().requires_grad_(), b, activation=activation, residual=r)
        checks.that(close(plain, exact, 2e-5), f"activation {activation}")
        checks.that(trained.requires_grad and close(trained, exact, 2e-5), f"activation {activation}, with gradient")
    checks.raises(ValueError, "unknown activation", "a wrong name", lambda: convjit.conv2d(x, w, activation="swash"))


def check_formats(checks, device):
    """The output has the strides that PyTorch's has, ambiguous sizes included."""
    import convjit
    import torch
    import torch.nn.functional as F

    formats = (torch.contiguous_format, torch.channels_last)
    for x_shape, w_shape, groups in (
        ((2, 4, 6, 5), (8, 4, 3, 3), 1),
        ((2, 1, 6, 5), (8, 1, 3, 3), 1),
        ((2, 4, 1, 1), (8, 4, 1, 1), 1),
        ((2, 4, 6, 5), (4, 1, 3, 3), 4),
        ((1, 4, 6, 5), (1, 4, 3, 3), 1),
        ((2, 4, 3, 3), (8, 4, 3, 3), 1),
    ):
        for x_format in formats:
            for w_format in formats:
                x = integers(device, *x_shape).to(memory_format=x_format)
                w = integers(device, *w_shape).to(memory_format=w_format)
                y, expected = (f(x, w, groups=groups) for f in (convjit.conv2d, F.conv2d))
                what = f"{x_shape} {x_format}, {w_shape} {w_format}"
                checks.that(torch.equal(y, expected), f"{what}: values")
                checks.equal(y.stride(), expected.stride(), f"{what}: strides")


def check_views(checks, device):
    """Inputs with gaps, in other orders, and at odd addresses."""
    import convjit
    import torch
    import torch.nn.functional as F

    x, w = integers(device, 4, 8, 12, 10), integers(device, 6, 8, 3, 3)
    shifted = torch.empty(x.numel() + 1, device=device)[1:].view(x.shape).copy_(x)
    expanded = x[:1].expand(4, -1, -1, -1)
    for what, view in (
        ("every second column", x[..., ::2]),
        ("half of the batch", x[2:]),
        ("transposed", x.transpose(2, 3)),
        ("an odd address", shifted),
        ("expanded", expanded),
        ("permuted", x.permute(3, 1, 2, 0)),
    ):
        checks.that(torch.equal(convjit.conv2d(view, w), F.conv2d(view, w)), f"input {what}")
    filters = integers(device, 6, 8, 3, 6)[..., ::2]
    checks.that(torch.equal(convjit.conv2d(x, filters), F.conv2d(x, filters)), "weights with gaps")


def check_empty(checks, device):
    import convjit
    import torch

    x = torch.empty(0, 4, 9, 7, device=device, requires_grad=True)
    w = torch.randn(6, 4, 3, 3, device=device, requires_grad=True)
    y = convjit.conv2d(x, w, padding=1)
    checks.equal(tuple(y.shape), (0, 6, 9, 7), "a batch of none")
    y.sum().backward()
    checks.that(x.grad.shape == x.shape and bool((w.grad == 0).all()), "gradients of a batch of none")
    whole = torch.randn(1, 4, 9, 7, device=device)
    checks.raises(
        RuntimeError,
        "no channels",
        "no channels",
        lambda: convjit.conv2d(whole[:, :0], torch.empty(6, 0, 3, 3, device=device)),
    )


def check_precision(checks, device):
    """float32 is FP32 unless PyTorch's flag allows TF32, whichever of its two ways sets it."""
    import convjit
    import torch
    import torch.nn.functional as F

    x, w = torch.randn(2, 64, 20, 20, device=device), torch.randn(64, 64, 3, 3, device=device)
    exact = F.conv2d(x.double(), w.double())

    def error():
        return ((convjit.conv2d(x, w).double() - exact).norm() / exact.norm()).item()

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        strict = error()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        loose = error()
    checks.that(strict < 1e-6, f"strict float32 is off by {strict:.2g}")
    checks.that(loose < 2e-3, f"TF32 is off by {loose:.2g}")
    if device == "cuda":
        checks.that(loose > 10 * strict, f"TF32 is used when allowed ({loose:.2g}, strict {strict:.2g})")
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    checks.equal(error(), strict, "fp32_precision = ieee")
    torch.backends.cudnn.conv.fp32_precision = before


def check_determinism(checks, device):
    import convjit
    import torch

    for dtype in (torch.float32, torch.bfloat16):
        x, w = (
            torch.randn(3, 32, 17, 19, device=device, dtype=dtype),
            torch.randn(40, 32, 3, 3, device=device, dtype=dtype),
        )
        first = convjit.conv2d(x, w, padding=1)
        checks.that(
            all(torch.equal(convjit.conv2d(x, w, padding=1), first) for _ in range(3)), f"the same again, {dtype}"
        )


def check_weights(checks, device):
    """What is kept of weights in inference (dense copies, packed ones) is never older than they are."""
    import torch

    for channels, dtype in ((8, torch.float32), (64, torch.bfloat16)):
        for format in (torch.contiguous_format, torch.channels_last):
            check_kept_weights(checks, device, channels, {"dtype": dtype, "memory_format": format})


def check_kept_weights(checks, device, channels, options):
    import convjit
    import torch
    import torch.nn.functional as F

    x = integers(device, 2, channels, 9, 7).to(**options)
    shape = (16, channels, 3, 3)
    conv = torch.nn.Conv2d(channels, 16, 3, bias=False, device=device).requires_grad_(False).to(**options)

    def agrees(when, times=1):
        for i in range(times):
            found, exact = convjit.conv2d(x, conv.weight), F.conv2d(x.double(), conv.weight.double())
            checks.that(torch.equal(found, exact.to(x.dtype)), f"weights {when}, {options}, time {i + 1}")

    with torch.no_grad():
        conv.weight.copy_(integers(device, *shape))
        agrees("at first", 4)
        conv.weight.add_(1)
        agrees("after an in-place update", 3)
        with torch.inference_mode():
            agrees("in inference mode", 2)
        conv.weight.sub_(1)
        agrees("after an in-place update of what inference mode used", 3)
        conv.load_state_dict({"weight": integers(device, *shape)})
        agrees("after load_state_dict", 3)
        conv.weight.data = integers(device, *shape).to(**options)
        agrees("after another tensor was put into .data", 3)
        for _ in range(20):  # at the address of one that is gone
            conv.weight = torch.nn.Parameter(integers(device, *shape).to(**options), requires_grad=False)
            agrees("of another tensor", 2)
        conv.weight.data.add_(1)
        convjit.forget_weights()
        agrees("after an update through .data and forget_weights()", 3)
        module = convjit.Conv2d(channels, 16, 3, device=device).to(**options)
        module(x), module(x)
        module.weight.data.zero_()
        module.eval()
        checks.that(torch.equal(module(x), module.bias.view(1, -1, 1, 1).expand(2, 16, 7, 5)), "eval() forgets")
    with torch.inference_mode():
        filters = torch.randn(shape, device=device).to(**options)
        convjit.conv2d(x, filters), convjit.conv2d(x, filters)
        filters.zero_()
        checks.that(not convjit.conv2d(x, filters).any(), "weights without a version")


def check_refusals(checks, device):
    import convjit
    import torch
    import torch.nn.functional as F

    x, w = integers(device, 1, 4, 6, 6), integers(device, 4, 4, 3, 3)
    for dtype in (torch.float64, torch.int32, torch.complex64):
        arguments = (x.to(dtype), w.to(dtype))
        checks.raises(NotImplementedError, "is not supported", f"{dtype}", lambda: convjit.conv2d(*arguments))
    y = convjit.conv2d(
        x.double(),
        w.double(),
        padding=(1, 0, 0, 1),
        fallback=True,
        activation=("clamp", -1, 1),
        residual=x[..., :5, :5].double(),
    )
    expected = F.conv2d(F.pad(x.double(), (0, 1, 1, 0)), w.double()).clamp(-1, 1) + x[..., :5, :5]
    checks.that(torch.equal(y, expected), "fallback=True")
    check_forward_mode(checks, x, w)
    checks.raises(TypeError, "but w is of type list", "weights of Python", lambda: convjit.conv2d(x, [[1.0]]))
    checks.raises(RuntimeError, "should be the same", "two types", lambda: convjit.conv2d(x, w.half()))
    checks.raises(RuntimeError, "Expected residual", "a small residual", lambda: convjit.conv2d(x, w, residual=x))
    checks.raises(ValueError, "one number or two", "three strides", lambda: convjit.conv2d(x, w, stride=(1, 1, 1)))
    checks.raises(
        RuntimeError, "greater than actual", "a large filter", lambda: convjit.conv2d(x, integers(device, 4, 4, 7, 7))
    )
    if device == "cuda":
        checks.raises(NotImplementedError, "on the CPU", "a CPU tensor", lambda: convjit.conv2d(x.cpu(), w.cpu()))
        checks.raises(RuntimeError, "same device", "two devices", lambda: convjit.conv2d(x, w.cpu()))
        checks.that(
            torch.equal(convjit.conv2d(x.cpu(), w.cpu(), fallback=True), F.conv2d(x.cpu(), w.cpu())),
            "fallback on the CPU",
        )


def check_forward_mode(checks, x, w):
    """A derivative that convjit does not have: refused, or PyTorch's if asked."""
    import convjit
    import torch
    import torch.nn.functional as F

    def derivative(**options):
        return torch.func.jvp(lambda w: convjit.conv2d(x, w, **options), (w,), (w + 1,))[1]

    checks.raises(NotImplementedError, "forward-mode", "forward-mode differentiation", derivative)
    checks.that(torch.equal(derivative(fallback=True), F.conv2d(x, w + 1)), "forward-mode differentiation, fallback")


def check_tracing(checks, device):
    """torch.fx sees a call in a module as one node."""
    import convjit
    import torch

    module = convjit.Conv2d(4, 6, 3, padding="same", padding_mode="circular", activation="relu", device=device)
    traced, x = torch.fx.symbolic_trace(torch.nn.Sequential(module)), torch.randn(2, 4, 9, 8, device=device)
    calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    checks.that(convjit.torch_op.conv2d in calls, f"traced: {calls}")
    checks.that(torch.equal(traced(x), module(x)), "what was traced")


def check_autocast(checks, device):
    import convjit
    import torch

    x, w, b = integers(device, 1, 4, 6, 6), integers(device, 4, 4, 3, 3).requires_grad_(), integers(device, 4)
    with torch.autocast(device, dtype=torch.bfloat16):
        y = convjit.conv2d(x, w, b, padding=1, residual=x)
    checks.equal(y.dtype, torch.bfloat16, "type under autocast")
    y.sum().backward()
    checks.equal(w.grad.dtype, torch.float32, "type of a gradient under autocast")


# ---- The module ----


def check_module(checks, device):
    """Conv2d takes what nn.Conv2d takes, and computes what it computes."""
    import convjit
    import torch

    for arguments in (
        {"kernel_size": 3},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
        {"kernel_size": 4, "padding": "same", "groups": 2},
        {"kernel_size": 3, "padding": "valid", "bias": False},
        {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
        {"kernel_size": 2, "padding": "same", "padding_mode": "circular"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "replicate", "dtype": torch.float16},
    ):
        arguments = {"in_channels": 4, "out_channels": 6, "device": device, **arguments}
        torch.manual_seed(3)
        theirs = torch.nn.Conv2d(**arguments)
        torch.manual_seed(3)
        ours = convjit.Conv2d(**arguments)
        state = ours.state_dict()
        same = all(torch.equal(state[name], value) for name, value in theirs.state_dict().items())
        checks.that(list(state) == list(theirs.state_dict()) and same, f"{arguments}: parameters")
        checks.equal(ours.extra_repr(), theirs.extra_repr(), f"{arguments}: extra_repr")
        x = torch.randn(2, 4, 9, 8, device=device, dtype=theirs.weight.dtype)
        exact = copy.deepcopy(theirs).double()(x.double())
        tolerance = TOLERANCES["float16"]  # PyTorch's default is TF32
        for what, module in (
            ("", ours),
            ("deepcopy", copy.deepcopy(ours)),
            ("pickle", pickle.loads(pickle.dumps(ours))),
            ("scripted name", theirs),
        ):
            checks.that(close(module(x), exact, tolerance), f"{arguments}: {what}")
    checks.equal(
        repr(convjit.Conv2d(1, 2, 3, activation="relu", fallback=True)),
        "Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), activation='relu', fallback=True)",
        "repr",
    )


def check_replace(checks, device):
    import convjit
    import torch
    from torch import nn

    class Odd(nn.Conv2d):
        pass

    class Reversed(nn.Conv2d):
        def forward(self, x):
            return super().forward(x.flip(-1))

    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        shared,
        nn.SiLU(),
        shared,
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Hardtanh(-1, 2)),
        Odd(4, 4, 1),
        nn.Conv2d(4, 2, 1),
        nn.GELU(approximate="tanh"),
    ).to(device)
    x = torch.randn(2, 3, 9, 8, device=device)
    calls = []
    model[7].register_forward_hook(lambda *_: calls.append(1))
    exact = copy.deepcopy(model).double()(x.double())
    calls.clear()
    report = convjit.replace(model, fold_activations=True)
    checks.that(close(model(x), exact, TOLERANCES["float16"]), "the replaced model")
    checks.equal([each.name for each in report.replaced], ["0", "2", "5.0", "7"], "replaced")
    checks.equal([each.activation for each in report.replaced], ["relu", None, ("clamp", -1, 2), None], "folded")
    checks.equal([each.name for each in report.skipped], ["6"], "skipped")
    checks.that("4 convolutions replaced, 2 of them" in str(report), f"the report as text: {report}")
    checks.equal(calls, [1], "hooks are still there")
    checks.that(model[2] is model[4] and type(model[3]) is nn.SiLU, "what is used twice is not folded")
    others = nn.ModuleList(
        [
            Reversed(4, 4, 1),
            nn.LazyConv2d(4, 1),
            nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
            Odd(4, 4, 1),
        ]
    )
    for skipped, why in zip(
        convjit.replace(others).skipped, ("a forward of its own", "not known", "parametrized", "may do more")
    ):
        checks.that(why in skipped.why, f"{skipped} lacks '{why}'")
    checks.that(type(others[1]) is nn.LazyConv2d, "a lazy convolution stays one")
    alone = nn.Conv2d(3, 4, 3)
    checks.that(convjit.replace(alone).replaced and type(alone) is convjit.Conv2d, "a model that is a convolution")


def check_problems(checks, device):
    """The problems of a model are found without computing them."""
    import convjit
    import torch
    from torch import nn

    model = nn.Sequential(
        convjit.Conv2d(3, 8, 3, stride=2, padding=1, activation=("leaky_relu", 0.2)),
        convjit.Conv2d(8, 8, (1, 3), padding="same", groups=4, bias=False),
        convjit.Conv2d(8, 8, (1, 3), padding="same", groups=4, bias=False),
        nn.Conv2d(8, 4, 1),
    ).to(device)
    x = torch.randn(2, 3, 20, 30, device=device)
    with no_tf32():
        found = convjit.problems(model, x)
    expected = [
        "n2c3h20w30k8r3s3_stride2_pad1_bias_leaky_relu0.2",
        "n2c8h10w15k8r1s3_pad0x1_g4",
    ]
    checks.equal(found, expected, "problems in FP32")
    for precision in ("tf32", "ieee"):
        before = torch.backends.cudnn.conv.fp32_precision
        torch.backends.cudnn.conv.fp32_precision = precision
        found = convjit.problems(model, x)
        torch.backends.cudnn.conv.fp32_precision = before
        checks.equal(["tf32" in each for each in found], [precision == "tf32"] * 2, f"problems, {precision}: {found}")
    model = model.to(torch.bfloat16, memory_format=torch.channels_last)
    found = convjit.problems(model, x.bfloat16().contiguous(memory_format=torch.channels_last))
    suffixed = [
        "n2c3h20w30k8r3s3_stride2_pad1_bf16_nhwc_krsc_bias_leaky_relu0.2",
        "n2c8h10w15k8r1s3_pad0x1_g4_bf16_nhwc_krsc",
    ]
    checks.equal(found, suffixed, "problems in bfloat16 and channels_last")


def check_compile(checks, device):
    """torch.compile without a graph break, with gradients, other sizes and on a GPU CUDA graphs."""
    import convjit
    import torch
    import torch.nn.functional as F

    module = convjit.Conv2d(4, 6, 3, padding=1, activation="silu", device=device).to(memory_format=torch.channels_last)

    def function(x, r):
        return F.relu(module(x * 2, r)) + convjit.conv2d(x, module.weight, padding="same")

    def inputs(n):
        return torch.randn(n, 4, 9, 8, device=device), torch.randn(n, 6, 9, 8, device=device)

    for options in ({"dynamic": True}, {}, *([{"mode": "reduce-overhead"}] if device == "cuda" else [])):
        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True, **options)
        for n in (2, 2, 3, 5):
            x, r = inputs(n)
            with torch.no_grad():
                checks.that(close(compiled(x, r), function(x, r), 1e-4), f"compiled, {options}, batch {n}")
        x, r = inputs(2)
        gradients = []
        for each in (compiled, function):
            x = x.detach().requires_grad_()
            module.zero_grad()
            each(x, r).square().sum().backward()
            gradients.append((x.grad, module.weight.grad.clone()))
        checks.that(all(close(*pair, 1e-2) for pair in zip(*gradients)), f"compiled, {options}: gradients")


def check_threads(checks, device):
    """Threads with sizes of their own and one context."""
    import convjit
    import torch
    import torch.nn.functional as F

    wrong = []

    def work(seed):
        with torch.no_grad():
            for i in range(5):
                x, w = integers(device, 1 + seed % 3, 4, 8 + i, 9), integers(device, 6, 4, 3, 3)
                if not torch.equal(convjit.conv2d(x, w), F.conv2d(x, w)):
                    wrong.append((seed, i))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    checks.equal(wrong, [], "threads")


# ---- What only a GPU has ----


def check_streams(checks, device):
    import convjit
    import torch
    import torch.nn.functional as F

    x, w = integers(device, 4, 16, 30, 30), integers(device, 32, 16, 3, 3).to(memory_format=torch.channels_last)
    expected = F.conv2d(x, w)
    stream = torch.cuda.Stream()
    with torch.no_grad():
        convjit.conv2d(x, w)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            late = torch.empty_like(x).copy_(x)  # must be waited for
            y = convjit.conv2d(late, w)
        stream.synchronize()
        checks.that(torch.equal(y, expected), "on another stream")


def check_graphs(checks, device):
    """A captured graph reads input and weights anew."""
    import convjit
    import torch
    import torch.nn.functional as F

    x = integers(device, 4, 16, 30, 30)
    for format in (torch.contiguous_format, torch.channels_last):
        w = integers(device, 32, 16, 3, 3).to(memory_format=format)
        with torch.no_grad():
            convjit.conv2d(x, w), convjit.conv2d(x, w)  # weights that come twice may be kept, but not by a graph
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = convjit.conv2d(x, w)
            for _ in range(2):
                x.copy_(integers(device, *x.shape))
                w.copy_(integers(device, *w.shape))
                graph.replay()
                checks.that(torch.equal(y, F.conv2d(x, w)), f"a captured graph, weights in {format}")


def check_devices(checks, device):
    """DataParallel, and tensors on another GPU than the current."""
    import convjit
    import torch
    import torch.nn.functional as F

    module = convjit.Conv2d(4, 6, 3, device=device)
    x = integers(device, 4, 4, 9, 8)
    with no_tf32():
        checks.that(
            close(torch.nn.DataParallel(module)(x), F.conv2d(x, module.weight, module.bias), 1e-5), "DataParallel"
        )
    if torch.cuda.device_count() < 2:
        checks.skipped += 1
        return
    x, w = integers("cuda:1", 2, 4, 9, 8), integers("cuda:1", 6, 4, 3, 3)
    y = convjit.conv2d(x, w)
    checks.that(y.device == x.device and torch.equal(y, F.conv2d(x, w)), "the other GPU")


EVERYWHERE = [
    check_error_inputs,
    check_operator,
    check_gradients,
    check_activations,
    check_formats,
    check_views,
    check_empty,
    check_precision,
    check_determinism,
    check_weights,
    check_refusals,
    check_autocast,
    check_module,
    check_replace,
    check_problems,
    check_tracing,
    check_threads,
    check_samples,
    check_compile,
]
ON_A_GPU = [check_streams, check_graphs, check_devices]


def main():
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed\npython_op: 0 passed, 0 failed, 1 skipped")
        return 0
    checks = Checks("python_op")
    if torch.cuda.is_available():
        wanted, device = EVERYWHERE + ON_A_GPU, "cuda"
    elif os.environ.get("CONVJIT_EMULATE") == "1":
        wanted, device = EVERYWHERE, "cpu"
    else:
        print("PyTorch sees no GPU\npython_op: 0 passed, 1 failed")
        return 1
    names = sys.argv[1:]
    torch.manual_seed(1)
    checks.run([f for f in wanted if not names or f.__name__ in names], device)
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())
