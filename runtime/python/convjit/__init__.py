"""convjit: 2-D convolutions as kernels generated for the problem at hand.

    y = convjit.conv2d(x, w, bias, stride, padding, dilation, groups, activation="relu", residual=r)

takes tensors of PyTorch (with gradients, torch.compile, autocast, CUDA graphs), and arrays of NumPy, CuPy and whatever
else has __dlpack__. For PyTorch there are also convjit.Conv2d, a torch.nn.Conv2d, and convjit.replace(model), which puts it
in the place of every nn.Conv2d. PyTorch is imported only when one of these is used.

    convjit.dump(problem)         the CUDA that a problem string turns into
    convjit.schedules(problem)    the schedules considered for it
    convjit.problems(model, x)    the problem strings of a PyTorch model's convolutions
    convjit.precompile(problems)  compiles into the cache, no GPU needed
    convjit.cache                 the cache's directory; bundles of kernels to ship
    convjit.info()                library, compiler, driver and device found
    convjit.problem_string(...)   the problem string of sizes and arguments
"""

import importlib
import sys

from convjit import cache
from convjit._library import Error, Unsupported
from convjit.generator import dump, info, precompile, schedules
from convjit.problem import problem_string

__version__ = "0.1.0"
__all__ = [
    "Conv2d",
    "Error",
    "Unsupported",
    "cache",
    "conv2d",
    "dump",
    "forget_weights",
    "info",
    "precompile",
    "problem_string",
    "problems",
    "replace",
    "schedules",
]

_OF_PYTORCH = {"Conv2d": "nn", "forget_weights": "torch_op", "problems": "record", "replace": "nn"}


def __getattr__(name):
    """What needs PyTorch is imported when it is first asked for."""
    if name not in _OF_PYTORCH:
        raise AttributeError(f"module 'convjit' has no attribute '{name}'")
    return getattr(importlib.import_module("convjit." + _OF_PYTORCH[name]), name)


def __dir__():
    return __all__


def conv2d(x, w, bias=None, stride=1, padding=0, dilation=1, groups=1, *, activation=None, residual=None, **more):
    """act(conv2d(x, w) + bias) + residual, with the arguments of torch.nn.functional.conv2d.

    padding may also be four sides: (top, left, bottom, right). activation: "relu", "silu", "gelu" (the exact one),
    "hardswish", "sigmoid", "tanh", "leaky_relu" or ("leaky_relu", slope), ("clamp", low, high). residual: a tensor of the
    result's shape, added last.

    For tensors of PyTorch, fallback=True leaves what convjit does not support (other types, tensors on the CPU) to
    PyTorch; without it, that is an error. convjit.array.conv2d says what else is possible for other arrays.
    """
    if _is_tensor(x):
        from convjit import torch_op

        function = torch_op.conv2d
    else:
        from convjit import array

        function = array.conv2d
    return function(x, w, bias, stride, padding, dilation, groups, activation=activation, residual=residual, **more)


def _is_tensor(x):
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)
