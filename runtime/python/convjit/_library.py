"""libconvjit through ctypes: finding it, the declarations of convjit.h that the package needs, contexts and errors."""

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import threading
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path

SONAME = "libconvjit.so.0"


class Error(RuntimeError):
    """A call of libconvjit that failed. `status` is the name of its status, such as "CONVJIT_INVALID"."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Unsupported(Error, NotImplementedError):
    """What was asked is well-formed, but no schedule serves it on this target, or there is no such device."""


class Problem(ctypes.Structure):
    """convjit_problem. Only the library looks inside; this is larger than the struct of any version so far."""

    _fields_ = [("opaque", ctypes.c_uint64 * 64)]


class Config(ctypes.Structure):
    """convjit_config as far as its device, and more bytes than those of any version so far"""

    _fields_ = [("size", c_size_t), ("device", c_int), ("ordinal", c_int), ("defaults", ctypes.c_uint64 * 32)]


class Tensors(ctypes.Structure):
    """convjit_tensors"""

    _fields_ = [("size", c_size_t)] + [
        (name, c_void_p) for name in ("input", "weights", "bias", "residual", "output", "workspace")
    ]


PROGRESS = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_size_t, POINTER(Problem), c_int, c_int)


class PrecompileOptions(ctypes.Structure):
    """convjit_precompile_options"""

    _fields_ = [("size", c_size_t), ("jobs", c_int), ("schedule", c_char_p), ("progress", PROGRESS), ("user", c_void_p)]


_SIGNATURES = {
    "convjit_version": (c_char_p, []),
    "convjit_strstatus": (c_char_p, [c_int]),
    "convjit_errmsg": (c_char_p, []),
    "convjit_free": (None, [c_void_p]),
    "convjit_open": (c_int, [POINTER(c_void_p), POINTER(Config)]),
    "convjit_problem_parse": (c_int, [POINTER(Problem), c_char_p]),
    "convjit_problem_format": (c_size_t, [POINTER(Problem), c_char_p, c_size_t]),
    "convjit_problem_p": (ctypes.c_int64, [POINTER(Problem)]),
    "convjit_problem_q": (ctypes.c_int64, [POINTER(Problem)]),
    "convjit_generate": (c_int, [c_void_p, POINTER(Problem), c_char_p, c_char_p, POINTER(c_void_p)]),
    "convjit_generate_torch": (c_int, [c_void_p, POINTER(Problem), c_char_p, c_char_p, POINTER(c_void_p)]),
    "convjit_schedules": (c_int, [c_void_p, POINTER(Problem), c_char_p, POINTER(c_void_p)]),
    "convjit_precompile": (
        c_int,
        [c_void_p, c_void_p, c_size_t, c_char_p, POINTER(PrecompileOptions), POINTER(c_size_t)],
    ),
    "convjit_cache_export": (c_int, [c_void_p, c_char_p, POINTER(c_size_t)]),
    "convjit_cache_import": (c_int, [c_void_p, c_char_p, POINTER(c_size_t)]),
    "convjit_info": (c_int, [c_void_p, POINTER(c_void_p)]),
    "convjit_plan_create": (c_int, [POINTER(c_void_p), c_void_p, POINTER(Problem)]),
    "convjit_plan_workspace": (c_size_t, [c_void_p]),
    "convjit_plan_alignment": (c_size_t, [c_void_p]),
    "convjit_plan_launch": (c_int, [c_void_p, POINTER(Tensors), c_void_p]),
    "convjit_plan_destroy": (None, [c_void_p]),
    "convjit_device_alloc": (c_int, [c_void_p, POINTER(c_void_p), c_size_t]),
    "convjit_device_free": (None, [c_void_p, c_void_p]),
    "convjit_device_write": (c_int, [c_void_p, c_void_p, c_void_p, c_size_t]),
    "convjit_device_read": (c_int, [c_void_p, c_void_p, c_void_p, c_size_t]),
    "convjit_device_sync": (c_int, [c_void_p, c_void_p]),
}


# ---- Finding the library ----


def _of_pkg_config():
    """The library of the convjit that pkg-config knows, if any."""
    if not shutil.which("pkg-config"):
        return None
    asked = subprocess.run(["pkg-config", "--variable=libdir", "convjit"], capture_output=True, text=True)
    return Path(asked.stdout.strip()) / SONAME if asked.returncode == 0 else None


def _checkout_builds():
    """Build directories: of the checkout that this file is in, and of the one that the package was installed from."""
    root = Path(__file__).resolve().parents[3]
    if (root / "runtime" / "convjit.h").exists():
        yield root / "build"
    try:
        from convjit._checkout import BUILD
    except ImportError:  # run from the checkout itself
        return
    yield Path(BUILD)


def _places():
    """(where, file name or None) in the order of search; a bare name is for the loader's own search."""
    chosen = os.environ.get("CONVJIT_LIBRARY")
    if chosen:
        yield "$CONVJIT_LIBRARY", chosen
        return
    yield "beside the package", Path(__file__).parent / SONAME
    for build in _checkout_builds():
        yield "the checkout's build", build / SONAME
    yield "the loader's path", SONAME
    yield "pkg-config", _of_pkg_config()
    yield "the Python's prefix", Path(sys.prefix) / "lib" / SONAME
    yield "the default prefix", Path("/usr/local/lib") / SONAME


def _open_library():
    tried = []
    for where, name in _places():
        if name is None:
            tried.append(f"{where}: knows no convjit")
            continue
        try:
            # its symbols are for the PyTorch operator, too, which is loaded later
            return ctypes.CDLL(str(name), mode=ctypes.RTLD_GLOBAL), str(name)
        except OSError as error:
            tried.append(f"{where}: {error}")
    raise ImportError(
        "libconvjit was not found: run make (or make install) in a checkout of convjit, or set CONVJIT_LIBRARY. Searched:\n    "
        + "\n    ".join(tried)
    )


@functools.cache
def load():
    """The library, its functions declared."""
    from convjit import __version__

    dll, dll.file = _open_library()
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(dll, name)
        function.restype, function.argtypes = result, arguments
    found = dll.convjit_version().decode()
    if found.split(".")[:2] != __version__.split(".")[:2]:
        raise ImportError(f"{dll.file} is version {found}, but this package is for {__version__}: install both anew")
    return dll


# ---- Calling it ----


def check(status):
    """Raises what a failed call's status stands for."""
    if status:
        name, message = (text.decode() for text in (load().convjit_strstatus(status), load().convjit_errmsg()))
        no_device = name in ("CONVJIT_UNSUPPORTED", "CONVJIT_NO_DEVICE", "CONVJIT_NO_DRIVER")
        raise (Unsupported if no_device else Error)(name, message)


def parse(problem):
    """A problem string as the library's struct."""
    parsed = Problem()
    check(load().convjit_problem_parse(byref(parsed), problem.encode()))
    return parsed


def encoded(text):
    return None if text is None else os.fsencode(text)


def text_of(function, context, *arguments):
    """The text that a function leaves in its last parameter."""
    memory = c_void_p()
    check(function(context, *arguments, byref(memory)))
    try:
        return ctypes.string_at(memory).decode()
    finally:
        load().convjit_free(memory)


_contexts = {}
_contexts_lock = threading.Lock()


def context(device="gpu"):
    """The context of "gpu" or "emu", opened at first use and open as long as the process lives."""
    with _contexts_lock:
        if device not in _contexts:
            handle = c_void_p()
            config = Config(size=ctypes.sizeof(Config), device=("gpu", "emu").index(device))
            check(load().convjit_open(byref(handle), byref(config)))
            _contexts[device] = handle
        return _contexts[device]


@functools.cache
def has_gpu():
    memory = c_void_p()
    try:
        check(load().convjit_device_alloc(context("gpu"), byref(memory), 1))
    except Unsupported:
        return False
    load().convjit_device_free(context("gpu"), memory)
    return True
