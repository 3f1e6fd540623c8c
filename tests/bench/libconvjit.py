"""libconvjit.so through ctypes: what measuring and testing programs in Python need of runtime/convjit.h."""

import ctypes
import json
import os
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p

ORIGINS = ("memory", "disk", "compiled")


class ConvjitError(Exception):
    """A call that failed: its status and message."""


class Problem(ctypes.Structure):
    """convjit_problem. Only the library looks inside; this is larger than the struct of any version so far."""

    _fields_ = [("opaque", ctypes.c_uint64 * 64)]


class Tensors(ctypes.Structure):
    """convjit_tensors"""

    _fields_ = [
        ("size", c_size_t),
        ("input", c_void_p),
        ("weights", c_void_p),
        ("bias", c_void_p),
        ("residual", c_void_p),
        ("output", c_void_p),
        ("workspace", c_void_p),
        ("packed", c_void_p),
    ]


_SIGNATURES = {
    "convjit_version": (c_char_p, []),
    "convjit_strstatus": (c_char_p, [c_int]),
    "convjit_errmsg": (c_char_p, []),
    "convjit_free": (None, [c_void_p]),
    "convjit_open": (c_int, [POINTER(c_void_p), c_void_p]),
    "convjit_close": (None, [c_void_p]),
    "convjit_problem_parse": (c_int, [POINTER(Problem), c_char_p]),
    "convjit_generate": (c_int, [c_void_p, POINTER(Problem), c_char_p, c_char_p, POINTER(c_void_p)]),
    "convjit_generate_torch": (c_int, [c_void_p, POINTER(Problem), c_char_p, c_char_p, POINTER(c_void_p)]),
    "convjit_schedules": (c_int, [c_void_p, POINTER(Problem), c_char_p, POINTER(c_void_p)]),
    "convjit_plan_create_with": (c_int, [POINTER(c_void_p), c_void_p, POINTER(Problem), c_char_p]),
    "convjit_plan_workspace": (c_size_t, [c_void_p]),
    "convjit_plan_packed_size": (c_size_t, [c_void_p]),
    "convjit_weights_pack": (c_int, [c_void_p, c_void_p, c_void_p, c_void_p]),
    "convjit_plan_alignment": (c_size_t, [c_void_p]),
    "convjit_plan_launch": (c_int, [c_void_p, POINTER(Tensors), c_void_p]),
    "convjit_plan_schedule": (c_char_p, [c_void_p]),
    "convjit_plan_origin": (c_int, [c_void_p]),
    "convjit_plan_destroy": (None, [c_void_p]),
}


def default_path():
    """$CONVJIT_LIB, else the library of the build directory ($BUILD, else build)."""
    return os.environ.get("CONVJIT_LIB") or os.path.join(os.environ.get("BUILD") or "build", "libconvjit.so")


class Convjit:
    """A context with the default configuration, of the library at `path`. Use it as a context manager."""

    def __init__(self, path):
        self.dll = ctypes.CDLL(os.path.abspath(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self.dll, name)
            function.restype, function.argtypes = result, arguments
        self.handle = c_void_p()
        self.check(self.dll.convjit_open(byref(self.handle), None))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.dll.convjit_close(self.handle)
        self.handle = None

    def version(self):
        return self.dll.convjit_version().decode()

    def check(self, status):
        if status:
            raise ConvjitError(f"{self.dll.convjit_strstatus(status).decode()}: {self.dll.convjit_errmsg().decode()}")

    def problem(self, text):
        problem = Problem()
        self.check(self.dll.convjit_problem_parse(byref(problem), text.encode()))
        return problem

    def _text(self, function, *arguments):
        memory = c_void_p()
        self.check(function(self.handle, *arguments, byref(memory)))
        try:
            return ctypes.string_at(memory).decode()
        finally:
            self.dll.convjit_free(memory)

    def source(self, problem, arch=None, schedule=None, torch=False):
        """The CUDA text of a problem string, or the Python file for PyTorch."""
        function = self.dll.convjit_generate_torch if torch else self.dll.convjit_generate
        return self._text(
            function, byref(self.problem(problem)), arch and arch.encode(), schedule and schedule.encode()
        )

    def schedules(self, problem, arch=None):
        """The object that convjit_schedules writes as JSON."""
        return json.loads(self._text(self.dll.convjit_schedules, byref(self.problem(problem)), arch and arch.encode()))

    def plan(self, problem, schedule=None):
        return Plan(self, problem, schedule)


class Plan:
    """A plan of a problem string. The caller keeps the tensors and the workspace alive. Use it as a context manager."""

    def __init__(self, convjit, problem, schedule=None):
        self.convjit = convjit
        self.handle = c_void_p()
        dll = convjit.dll
        convjit.check(
            dll.convjit_plan_create_with(
                byref(self.handle), convjit.handle, byref(convjit.problem(problem)), schedule and schedule.encode()
            )
        )
        self.workspace = dll.convjit_plan_workspace(self.handle)
        self.packed_size = dll.convjit_plan_packed_size(self.handle)
        self.alignment = dll.convjit_plan_alignment(self.handle)
        self.schedule = dll.convjit_plan_schedule(self.handle).decode()
        self.origin = ORIGINS[dll.convjit_plan_origin(self.handle)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.convjit.dll.convjit_plan_destroy(self.handle)
        self.handle = None

    def pack(self, stream, weights, packed):
        """Enqueues the packing of weights into memory of packed_size bytes."""
        self.convjit.check(self.convjit.dll.convjit_weights_pack(self.handle, weights, packed, stream))

    def launcher(self, stream, **pointers):
        """A function without arguments that enqueues the plan on a stream (a number) with these device addresses."""
        tensors = Tensors(size=ctypes.sizeof(Tensors), **pointers)
        launch, handle, reference, check = (
            self.convjit.dll.convjit_plan_launch,
            self.handle,
            byref(tensors),
            self.convjit.check,
        )

        def run():
            status = launch(handle, reference, stream)
            if status:
                check(status)

        return run
