"""What convjit does with a problem short of running it: dump, schedules, precompile, info. None of it needs a GPU."""

import ctypes
import json
import sys

from convjit import _library

ORIGINS = ("memory", "disk", "compiled")


def dump(problem, arch=None, schedule=None, format="cuda"):
    """The text that a problem string turns into: format "cuda" (what NVRTC would see) or "torch" (a Python file)."""
    if format not in ("cuda", "torch"):
        raise ValueError(f"format is 'cuda' or 'torch', not {format!r}")
    dll = _library.load()
    function = dll.convjit_generate if format == "cuda" else dll.convjit_generate_torch
    parsed = ctypes.byref(_library.parse(problem))
    return _library.text_of(function, _library.context(), parsed, _library.encoded(arch), _library.encoded(schedule))


def schedules(problem, arch=None):
    """A dictionary: "candidates" (best first, with predicted times) and "refused" (with reasons) of a problem string."""
    parsed = ctypes.byref(_library.parse(problem))
    return json.loads(
        _library.text_of(_library.load().convjit_schedules, _library.context(), parsed, _library.encoded(arch))
    )


def info():
    """A dictionary about this installation: the library, the compiler and driver found or searched for, the device."""
    dll = _library.load()
    return {"library": dll.file, **json.loads(_library.text_of(dll.convjit_info, _library.context()))}


def precompile(problems, arch=None, jobs=0, schedule=None, progress=None):
    """Compiles the kernels of problem strings into the cache directory and returns how many were not there yet.

    A list of problems without a GPU needs `arch` ("sm_90a"). jobs: threads, 0 for one a core. progress(done, total,
    problem, what) is called after each problem; what is "memory", "disk", "compiled", or an exception for one that
    failed. Goes on past those, then raises the error of the first.
    """
    problems = [problems] if isinstance(problems, str) else list(problems)
    dll, compiled = _library.load(), ctypes.c_size_t()

    def report(_, done, total, problem, origin, status):
        what = _error(status) if status else ORIGINS[origin]  # first: the next call of the library ends its message
        text = ctypes.create_string_buffer(512)
        dll.convjit_problem_format(problem, text, len(text))
        progress(done, total, text.value.decode(), what)

    options = _library.PrecompileOptions(
        size=ctypes.sizeof(_library.PrecompileOptions),
        jobs=jobs,
        schedule=_library.encoded(schedule),
        progress=_library.PROGRESS(report if progress else 0),
    )
    _library.check(
        dll.convjit_precompile(
            _library.context(),
            _side_by_side(problems),
            len(problems),
            _library.encoded(arch),
            ctypes.byref(options),
            ctypes.byref(compiled),
        )
    )
    return compiled.value


def _error(status):
    try:
        _library.check(status)
    except _library.Error as error:
        return error


def _side_by_side(problems):
    """An array of the library's structs, which are as long as they say themselves and shorter than ours."""
    parsed = [bytes(_library.parse(problem)) for problem in problems]
    return b"".join(each[: int.from_bytes(each[:8], sys.byteorder)] for each in parsed)
