"""The operator convjit::conv2d for PyTorch: builds torch_op.cpp at first use, and calls it.

The extension is kept in $TORCH_EXTENSIONS_DIR, else ~/.cache/torch_extensions, under a name that covers its source, PyTorch and
Python. `python -m convjit.torch_op` builds it ahead of time, for images and machines without a compiler.
"""

import hashlib
import os
import sys
import sysconfig
from pathlib import Path

import torch
import torch.nn.functional as F

from convjit import _library
from convjit.problem import four_sides, pair, split_activation

_HERE = Path(__file__).parent


def _name():
    text = b"".join(path.read_bytes() for path in (_HERE / "torch_op.cpp", _HERE / "convjit.h"))
    of = f"{torch.__version__} {sysconfig.get_config_var('SOABI')}".encode()
    return "convjit_torch_op_" + hashlib.sha256(of + text).hexdigest()[:16]


def _build():
    """The extension's file, built unless it is there."""
    name = _name()
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions") / name
    file = folder / f"{name}.so"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            from torch.utils import cpp_extension

            cpp_extension.load(
                name,
                [str(_HERE / "torch_op.cpp")],
                extra_cflags=["-O2"],
                extra_include_paths=[str(_HERE)],
                build_directory=str(folder),
                with_cuda=False,
                is_python_module=False,
            )
        except Exception as error:
            raise ImportError(
                f"the PyTorch operator of convjit could not be built in {folder}; it needs a C++ compiler and ninja, once "
                f"(`{sys.executable} -m convjit.torch_op` builds it ahead of time): {error}"
            ) from error
    return file


def _load():
    _library.load()  # its functions are what the extension calls
    if not hasattr(torch.ops.convjit, "conv2d"):
        torch.ops.load_library(str(_build()))
    return torch.ops.convjit.conv2d.default


operator = _load()
SUPPORTED_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def is_supported(x):
    """Whether a tensor is of a type and on a device that convjit has kernels for."""
    return x.dtype in SUPPORTED_TYPES and (x.is_cuda or os.environ.get("CONVJIT_EMULATE") == "1")


def _fall_back(x, w, bias, stride, sides, dilation, groups, activation, residual):
    """The same by PyTorch alone."""
    top, left, bottom, right = sides
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    y = F.conv2d(x, w, bias, stride, (top, left), dilation, groups)
    name, alpha, beta = activation
    if name == "leaky_relu":
        y = F.leaky_relu(y, alpha)
    elif name == "clamp":
        y = torch.clamp(y, alpha, beta)
    elif name:
        y = getattr(torch if name in ("sigmoid", "tanh") else F, name)(y)
    return y if residual is None else y + residual


def conv2d(
    x, w, bias=None, stride=1, padding=0, dilation=1, groups=1, *, activation=None, residual=None, fallback=False
):
    """convjit.conv2d for tensors of PyTorch."""
    if not isinstance(w, torch.Tensor):
        raise TypeError(f"x is a tensor of PyTorch, but w is of type {type(w).__name__}")
    if x.dim() == 3 and w.dim() == 4:
        one = conv2d(
            x.unsqueeze(0),
            w,
            bias,
            stride,
            padding,
            dilation,
            groups,
            activation=activation,
            residual=None if residual is None else residual.unsqueeze(0),
            fallback=fallback,
        )
        return one.squeeze(0)
    if x.dim() not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: {list(x.shape)}"
        )
    stride, dilation = pair(stride, "stride"), pair(dilation, "dilation")
    sides = four_sides(padding, w.shape[-2:], stride, dilation) if w.dim() > 1 else (0, 0, 0, 0)
    activation = split_activation(activation)
    if not fallback:
        return operator(x, w, bias, stride, sides, dilation, groups, *activation, residual)
    if is_supported(x):
        try:
            return operator(x, w, bias, stride, sides, dilation, groups, *activation, residual)
        except NotImplementedError:  # such as a GPU that is too old, or forward-mode differentiation
            pass
    return _fall_back(x, w, bias, stride, sides, dilation, groups, activation, residual)


def forget_weights():
    """Drops the packed weights that are kept for inference.

    They are kept by tensor and version, so that in-place updates are noticed. Updates through `tensor.data`, and by replaying
    a CUDA graph, PyTorch itself does not count: call this after them. Conv2d.train() and .eval() call it, too.
    """
    torch.ops.convjit.forget_weights()


if __name__ == "__main__":
    print(_build())
