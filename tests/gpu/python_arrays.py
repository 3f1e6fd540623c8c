#!/usr/bin/env python3
"""convjit.conv2d on arrays, on a GPU: NumPy's, which are copied there and back, and CuPy's, which are there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))
from checks import ROOT, Checks, use_checkout

use_checkout()
sys.path.append(str(ROOT / ".deps" / "python"))


def check_numpy(checks):
    """The GPU computes what the emulated device computes, to the bit."""
    import convjit
    import numpy

    x, w = (numpy.random.randint(-3, 4, shape).astype("float16") for shape in ((2, 16, 12, 11), (24, 16, 3, 3)))
    expected = convjit.conv2d(x, w, padding=1, activation="relu", device="emu")
    for device in ("gpu", "auto"):
        found = convjit.conv2d(x, w, padding=1, activation="relu", device=device)
        checks.that(numpy.array_equal(found, expected), f"NumPy's arrays, device {device}")


def check_cupy(checks):
    """In and out without leaving the GPU, behind the work that CuPy has under way."""
    try:
        import cupy
    except ImportError:
        checks.skipped += 1
        return
    import convjit
    import numpy

    x, w, b = (
        cupy.random.randint(-3, 4, shape).astype("float32") for shape in ((2, 16, 40, 30), (24, 16, 3, 3), (24,))
    )
    expected = convjit.conv2d(*(cupy.asnumpy(each) for each in (x, w, b)), padding=1)
    found = convjit.conv2d(x, w, b, padding=1)
    checks.that(isinstance(found, cupy.ndarray) and numpy.array_equal(cupy.asnumpy(found), expected), "CuPy's arrays")
    with cupy.cuda.Stream(non_blocking=True):
        late = cupy.zeros((64, 1024, 1024), "float32").sum() + x  # x, once the sum is known
        found = convjit.conv2d(late, w, b, padding=1)
        checks.that(numpy.array_equal(cupy.asnumpy(found), expected), "CuPy's arrays of another stream")
    checks.raises(ValueError, "on a GPU", "device='emu'", lambda: convjit.conv2d(x, w, device="emu"))
    checks.raises(
        ValueError, "different devices", "two devices", lambda: convjit.conv2d(x, cupy.asnumpy(w).astype("float32"))
    )


def main():
    try:
        import numpy
    except ImportError:
        print("NumPy is not installed\npython_arrays: 0 passed, 0 failed, 1 skipped")
        return 0
    numpy.random.seed(1)
    checks = Checks("python_arrays")
    checks.run([check_numpy, check_cupy])
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())
