"""conv2d on arrays of NumPy, CuPy and whatever else has __dlpack__, without PyTorch.

Arrays in host memory are copied to the GPU and back or, where there is none, to the emulated device; those on a GPU are
used where they are. A call returns when the result is there.
"""

import ctypes
import math
import sys
from ctypes import byref, c_void_p

from convjit import _dlpack, _library
from convjit.problem import problem_string

ELEMENT_SIZES = {name: bits // 8 for name, (_, bits) in _dlpack.TYPES.items()}


class Memory:
    """Memory of a device, for as long as this lives."""

    def __init__(self, context, size):
        self.context, self.size, self.handle = context, size, c_void_p()
        _library.check(_library.load().convjit_device_alloc(context, byref(self.handle), size))

    def __del__(self):
        if self.handle:
            _library.load().convjit_device_free(self.context, self.handle)

    @property
    def address(self):
        return self.handle.value

    def write(self, address):
        _library.check(_library.load().convjit_device_write(self.context, self.handle, address, self.size))
        return self

    def read(self):
        """A buffer with a copy of the contents"""
        host = (ctypes.c_uint8 * self.size)()
        _library.check(_library.load().convjit_device_read(self.context, host, self.handle, self.size))
        return host


class Array:
    """A result, for another library's from_dlpack."""

    def __init__(self, owner, address, shape, math, on_gpu, ordinal):
        self.shape = shape
        self._owner, self._address, self._math, self._on_gpu, self._ordinal = owner, address, math, on_gpu, ordinal

    def __dlpack_device__(self):
        return (_dlpack.CUDA if self._on_gpu else _dlpack.CPU), self._ordinal

    def __dlpack__(self, **_):
        """A capsule. The contents are complete, whatever stream the consumer will use."""
        return _dlpack.export(self._owner, self._address, self.shape, self._math, self._on_gpu, self._ordinal)


def _numpy_of(array):
    """The module numpy if this is an array of its, else None."""
    numpy = sys.modules.get("numpy")
    return numpy if numpy and isinstance(array, numpy.ndarray) else None


def _view(array, name, dimensions):
    """A dense view of an argument, which it checks."""
    numpy = _numpy_of(array)
    if numpy:
        array = numpy.require(array, requirements=["C", "W", "A"])  # a copy, of one that DLPack cannot describe
    if not hasattr(array, "__dlpack__"):
        raise TypeError(f"{name} is of type {type(array).__name__}, which has no __dlpack__")
    view = _dlpack.View(array)
    if len(view.shape) != dimensions:
        raise ValueError(f"{name} has {len(view.shape)} dimensions, not {dimensions}: its shape is {view.shape}")
    if view.type is None:
        raise TypeError(f"{name} is of a type that is not supported; float32, float16 and bfloat16 are")
    if not view.dense:
        raise ValueError(f"{name} is not contiguous: its strides are {view.strides}")
    return view


def _agree(views):
    """Raises unless all arguments are of one type and on one device."""
    first = views["x"]
    for name, view in views.items():
        if view.type != first.type:
            raise TypeError(f"{name} is {view.type}, but x is {first.type}: they must be the same")
        if (view.on_gpu, view.ordinal) != (first.on_gpu, first.ordinal):
            raise ValueError(f"{name} and x are on different devices")


def _like(array, result):
    """The result as an array of the library that the argument is from, or as it is if that cannot import it."""
    from_dlpack = getattr(sys.modules.get(type(array).__module__.partition(".")[0]), "from_dlpack", None)
    return from_dlpack(result) if from_dlpack else result


def _device_of(view, device):
    if device not in ("auto", "gpu", "emu"):
        raise ValueError(f"device is 'auto', 'gpu' or 'emu', not {device!r}")
    if view.on_gpu and device == "emu":
        raise ValueError("x is on a GPU, and device is 'emu'")
    if device == "auto":
        return "gpu" if view.on_gpu or _library.has_gpu() else "emu"
    return device


class _Plan:
    """A plan of a problem string, for one launch."""

    def __init__(self, problem, device):
        self.context, self.handle = _library.context(device), c_void_p()
        parsed = _library.parse(problem)
        _library.check(_library.load().convjit_plan_create(byref(self.handle), self.context, byref(parsed)))
        self.p, self.q = (
            _library.load().convjit_problem_p(byref(parsed)),
            _library.load().convjit_problem_q(byref(parsed)),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _library.load().convjit_plan_destroy(self.handle)

    def launch(self, **addresses):
        dll = _library.load()
        needed = dll.convjit_plan_workspace(self.handle)
        workspace = Memory(self.context, needed) if needed else None
        tensors = _library.Tensors(
            size=ctypes.sizeof(_library.Tensors), workspace=workspace and workspace.address, **addresses
        )
        _library.check(dll.convjit_plan_launch(self.handle, byref(tensors), None))
        _library.check(dll.convjit_device_sync(self.context, None))


def conv2d(
    x,
    w,
    bias=None,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    *,
    activation=None,
    residual=None,
    layout="nchw",
    tf32=False,
    device="auto",
):
    """convjit.conv2d for arrays: x (N, C, H, W), w (K, C/groups, R, S), float32, float16 or bfloat16.

    layout "nhwc": x is (N, H, W, C), and residual and result are (N, P, Q, K). tf32: products of float32 may be rounded
    to TF32. device "auto", "gpu" or "emu" says where arrays in host memory are computed.
    """
    if layout not in ("nchw", "nhwc"):
        raise ValueError(f"layout is 'nchw' or 'nhwc', not {layout!r}")
    arguments = {"x": (x, 4), "w": (w, 4), "bias": (bias, 1), "residual": (residual, 4)}
    views = {name: _view(array, name, n) for name, (array, n) in arguments.items() if array is not None}
    _agree(views)
    view, filters = views["x"], views["w"].shape[0]
    mode = "tf32" if tf32 and view.type == "f32" else view.type
    if bias is not None and views["bias"].shape != (filters,):
        raise ValueError(f"bias has shape {views['bias'].shape}, not ({filters},)")
    n, c, height, width = view.shape if layout == "nchw" else (view.shape[i] for i in (0, 3, 1, 2))
    problem = problem_string(
        (n, c, height, width),
        views["w"].shape,
        stride,
        padding,
        dilation,
        groups,
        math=mode,
        layout=layout,
        bias=bias is not None,
        activation=activation,
        residual=residual is not None,
    )
    with _Plan(problem, _device_of(view, device)) as plan:
        shape = (n, filters, plan.p, plan.q) if layout == "nchw" else (n, plan.p, plan.q, filters)
        if residual is not None and views["residual"].shape != shape:
            raise ValueError(f"residual has shape {views['residual'].shape}, not the result's {shape}")
        return _run(plan, views, shape, x)


def _run(plan, views, shape, x):
    """Launches a plan on views, copied to its device if need be, and returns the result as an array like x."""
    output = Memory(plan.context, math.prod(shape) * ELEMENT_SIZES[views["x"].type])
    names = {"input": "x", "weights": "w", "bias": "bias", "residual": "residual"}
    used = {field: views[name] for field, name in names.items() if name in views}
    on_gpu, ordinal, kind = views["x"].on_gpu, views["x"].ordinal, views["x"].type
    if on_gpu:
        plan.launch(output=output.address, **{field: view.address for field, view in used.items()})
        return _like(x, Array(output, output.address, shape, kind, True, ordinal))
    copies = {
        field: Memory(plan.context, math.prod(view.shape) * ELEMENT_SIZES[kind]).write(view.address)
        for field, view in used.items()
    }
    plan.launch(output=output.address, **{field: copy.address for field, copy in copies.items()})
    host, numpy = output.read(), _numpy_of(x)
    if numpy:
        return numpy.frombuffer(host, dtype=x.dtype).reshape(shape)
    return _like(x, Array(host, ctypes.addressof(host), shape, kind, False, ordinal))
