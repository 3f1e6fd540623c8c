"""The problems that a call of a PyTorch model consists of, found without computing anything: for precompiling them."""

import torch
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from convjit import torch_op
from convjit.problem import problem_string

_MODES = {torch.float16: "f16", torch.bfloat16: "bf16"}


def _float32_mode():
    """As the operator decides it: the flag of convolutions, whichever of PyTorch's ways has set it."""
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "f32"


def _string_of(x, w, bias, stride, padding, dilation, groups, activation=None, alpha=0, beta=0, residual=None):
    """The problem string of a call of the operator."""
    numbers = {"leaky_relu": (alpha,), "clamp": (alpha, beta)}.get(activation, ())
    krsc = not w.is_contiguous() and w.is_contiguous(memory_format=torch.channels_last)
    last = torch.channels_last in (suggest_memory_format(x), suggest_memory_format(w))
    return problem_string(
        x.shape,
        w.shape,
        stride,
        padding,
        dilation,
        groups,
        math=_MODES.get(x.dtype) or _float32_mode(),
        layout="nhwc" if last else "nchw",
        weights_layout="krsc" if krsc else "kcrs",
        bias=bias is not None,
        activation=activation and (activation, *numbers),
        residual=residual is not None,
    )


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = {}  # in order, each once

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch_op.operator and args[0].shape[0] > 0:
            self.found[_string_of(*args, **(kwargs or {}))] = True
        return function(*args, **(kwargs or {}))


def problems(model, *args, **kwargs):
    """The problem strings of the convolutions by convjit that model(*args, **kwargs) would run, each once.

    Shapes are worked out on fake tensors: nothing is computed or compiled, and the model may be on any device. To have all
    kernels of a model compiled by several threads before its first call:

        convjit.precompile(convjit.problems(model, x))
    """
    recorder = _Recorder()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as fake, recorder:
        args, kwargs = tree_map_only(torch.Tensor, fake.from_tensor, (args, kwargs))
        model(*args, **kwargs)
    return list(recorder.found)
