#!/usr/bin/env python3
"""The package without PyTorch: conv2d on NumPy's and other arrays, on the emulated device; problem strings, dump,
precompile, cache; errors."""

import os
import sys
import tempfile
import threading

from checks import BUILD, ROOT, Checks, use_checkout

use_checkout()
sys.path.append(str(ROOT / ".deps" / "python"))


class Foreign:
    """An array of a library that knows DLPack and nothing else of ours."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def reference(x, w, bias, stride, sides, dilation, groups):
    """A convolution in float64, tap by tap."""
    import numpy

    top, left, bottom, right = sides
    x = numpy.pad(x.astype(float), ((0, 0), (0, 0), (top, bottom), (left, right)))
    (n, _, h, width), (k, filter_channels, r, s) = x.shape, w.shape
    p, q = (
        (size - d * (taps - 1) - 1) // step + 1 for size, d, taps, step in zip((h, width), dilation, (r, s), stride)
    )
    y = numpy.zeros((n, k, p, q))
    for g in range(groups):
        channels = x[:, g * filter_channels : (g + 1) * filter_channels]
        filters = slice(g * k // groups, (g + 1) * k // groups)
        for i in range(r):
            for j in range(s):
                rows = slice(i * dilation[0], i * dilation[0] + (p - 1) * stride[0] + 1, stride[0])
                columns = slice(j * dilation[1], j * dilation[1] + (q - 1) * stride[1] + 1, stride[1])
                y[:, filters] += numpy.einsum("nchw,kc->nkhw", channels[:, :, rows, columns], w[filters, :, i, j])
    return y + (0 if bias is None else bias.reshape(-1, 1, 1))


def integers(*shape, dtype="float32"):
    import numpy

    return numpy.random.randint(-3, 4, shape).astype(dtype)


def check_results(checks):
    """Integer data comes out exact, in each type and layout, with every argument."""
    import convjit
    import numpy

    for dtype in ("float32", "float16"):
        for layout in ("nchw", "nhwc"):
            for stride, padding, dilation, groups, biased in (
                (1, 0, 1, 1, False),
                ((2, 1), (1, 2), (1, 2), 2, True),
                (1, "same", 2, 1, True),
                (2, (1, 0, 2, 3), 1, 4, False),
            ):
                x, w = integers(2, 4, 9, 8, dtype=dtype), integers(8, 4 // groups, 3, 2, dtype=dtype)
                bias = integers(8, dtype=dtype) if biased else None
                pairs = [each if isinstance(each, tuple) else (each, each) for each in (stride, dilation)]
                sides = {"same": (2, 1, 2, 1)}.get(padding, padding) if isinstance(padding, str) else padding
                sides = (sides,) * 4 if sides == 0 else sides if len(sides) == 4 else sides * 2
                expected = reference(x, w, bias, pairs[0], sides, pairs[1], groups)
                residual = integers(*expected.shape, dtype=dtype)
                expected = numpy.maximum(expected, 0) + residual
                order = (0, 2, 3, 1) if layout == "nhwc" else (0, 1, 2, 3)
                y = convjit.conv2d(
                    x.transpose(order),
                    w,
                    bias,
                    stride,
                    padding,
                    dilation,
                    groups,
                    activation="relu",
                    residual=residual.transpose(order),
                    layout=layout,
                )
                what = f"{dtype} {layout} stride {stride} padding {padding} dilation {dilation} groups {groups}"
                checks.that(y.dtype == x.dtype and y.flags.writeable, f"{what}: type {y.dtype}")
                checks.that(numpy.array_equal(y, expected.transpose(order).astype(dtype)), f"{what}: values")


def check_inputs(checks):
    """Arrays with gaps, that may not be written, or of another library."""
    import convjit
    import numpy

    x, w = integers(1, 4, 9, 8), integers(8, 4, 3, 3)
    expected = convjit.conv2d(x, w)
    wide, locked = integers(1, 4, 9, 16), x.copy()
    wide[..., ::2] = x
    locked.flags.writeable = False
    checks.that(numpy.array_equal(convjit.conv2d(wide[..., ::2], w), expected), "an array with gaps")
    checks.that(numpy.array_equal(convjit.conv2d(locked, w), expected), "a read-only array")
    y = convjit.conv2d(Foreign(x), Foreign(w))
    checks.that(numpy.array_equal(numpy.from_dlpack(y), expected), "an array of another library")
    checks.raises(
        ValueError,
        "not contiguous",
        "gaps in another library's",
        lambda: convjit.conv2d(Foreign(wide[..., ::2]), Foreign(w)),
    )
    checks.that(numpy.array_equal(convjit.conv2d(x, w, tf32=True), expected), "TF32 of small integers")


def check_lifetimes(checks):
    """A result lives as long as what was made of it, and no longer."""
    import convjit
    import numpy
    from convjit import _dlpack

    y = convjit.conv2d(Foreign(integers(1, 4, 5, 5)), Foreign(integers(2, 4, 3, 3)))
    capsule = y.__dlpack__()
    checks.equal(len(_dlpack._exported), 1, "exported")
    del capsule
    checks.equal(len(_dlpack._exported), 0, "a capsule that nobody took")
    array = numpy.from_dlpack(y)
    before = array.copy()
    del y
    checks.that(numpy.array_equal(array, before), "an array outlives the result")
    del array
    checks.equal(len(_dlpack._exported), 0, "after the last array")


def check_errors(checks):
    import convjit
    import numpy

    x, w, conv2d = integers(1, 4, 6, 6), integers(8, 4, 3, 3), convjit.conv2d
    for kind, part, what, function in (
        (TypeError, "no __dlpack__", "a list", lambda: conv2d([[1.0]], w)),
        (ValueError, "has 3 dimensions, not 4", "three dimensions", lambda: conv2d(x[0], w)),
        (TypeError, "not supported", "double", lambda: conv2d(x.astype("double"), w.astype("double"))),
        (TypeError, "must be the same", "two types", lambda: conv2d(x, w.astype("float16"))),
        (ValueError, "an input of 4 channels, not 3", "channels", lambda: conv2d(x[:, :3], w)),
        (ValueError, "bias has shape", "a short bias", lambda: conv2d(x, w, x[0, 0, 0, :4])),
        (ValueError, "residual has shape", "a small residual", lambda: conv2d(x, w, residual=x)),
        (ValueError, "layout is", "layout", lambda: conv2d(x, w, layout="chwn")),
        (ValueError, "device is", "device", lambda: conv2d(x, w, device="tpu")),
        (ValueError, "one number or two", "stride", lambda: conv2d(x, w, stride=(1, 2, 3))),
        (RuntimeError, "strided", "same with a stride", lambda: conv2d(x, w, stride=2, padding="same")),
        (RuntimeError, "Invalid padding string", "padding", lambda: conv2d(x, w, padding="full")),
        (ValueError, "unknown activation", "activation", lambda: conv2d(x, w, activation="swish")),
        (ValueError, "takes 2 numbers", "clamp", lambda: conv2d(x, w, activation=("clamp", 1))),
        (convjit.Error, "filter", "a large filter", lambda: conv2d(x, numpy.ones((1, 4, 9, 9), "float32"))),
        (convjit.Error, "groups", "groups", lambda: conv2d(x, w, groups=0)),
        (convjit.Error, "expected", "a problem string", lambda: convjit.dump("n1c2")),
        (convjit.Error, "sm_12345", "an architecture", lambda: convjit.dump("n1c4h6w6k8r3s3", "sm_12345")),
        (ValueError, "format is", "a format", lambda: convjit.dump("n1c4h6w6k8r3s3", format="ptx")),
        (AttributeError, "no attribute 'conv3d'", "an attribute", lambda: convjit.conv3d),
    ):
        checks.raises(kind, part, what, function)
    try:
        convjit.dump("n1c2")
    except convjit.Error as error:
        checks.equal(error.status, "CONVJIT_PARSE", "status of an error")


def check_threads(checks):
    """One context, many threads."""
    import convjit
    import numpy

    x, w = integers(1, 4, 6, 6), integers(8, 4, 3, 3)
    expected, results = convjit.conv2d(x, w), []
    threads = [threading.Thread(target=lambda: results.append(convjit.conv2d(x, w))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    checks.that(len(results) == 6 and all(numpy.array_equal(y, expected) for y in results), "threads")


def check_problem_strings(checks):
    from convjit import problem_string

    checks.equal(problem_string((8, 64, 512, 256), (128, 64, 5, 7)), "n8c64h512w256k128r5s7", "defaults")
    checks.equal(
        problem_string(
            (1, 32, 20, 30),
            (64, 8, 3, 3),
            (2, 1),
            1,
            2,
            4,
            math="bf16",
            layout="nhwc",
            weights_layout="krsc",
            bias=True,
            residual=True,
            activation=("clamp", 0, 6),
        ),
        "n1c32h20w30k64r3s3_stride2x1_pad1_dil2_g4_bf16_nhwc_krsc_bias_clamp0x6_residual",
        "everything",
    )
    for activation, word in (("leaky_relu", "leaky_relu"), (("leaky_relu", 0.3), "leaky_relu0.3"), ("gelu", "gelu")):
        text = problem_string((1, 4, 9, 9), (4, 4, 4, 3), padding="same", activation=activation)
        checks.equal(text, f"n1c4h9w9k4r4s3_pad1x1x2x1_{word}", f"{activation}")


def check_generator(checks):
    """dump, schedules, info, precompile and the cache, with a compiler that is a stand-in."""
    import convjit

    problems = ["n1c4h6w6k8r3s3", "n1c4h6w6k8r3s3_f16"]
    text = convjit.dump(problems[0], "sm_80", "direct")
    checks.that("conv2d_direct_c4k8r3s3" in text and "sm_80" in text, "dump")
    checks.that("class ModelNew" in convjit.dump(problems[0], format="torch"), "dump for PyTorch")
    listed = convjit.schedules(problems[0], "sm_90a")
    checks.that(listed["problem"] == problems[0] and listed["candidates"][0]["predicted_us"] > 0, "schedules")
    info = convjit.info()
    checks.equal(info["version"], convjit.__version__, "version")
    checks.equal(info["library"], str(BUILD / "libconvjit.so.0"), "library")
    checks.equal(convjit.cache.directory(), os.environ["CONVJIT_CACHE_DIR"], "cache directory")
    seen = []
    checks.equal(convjit.precompile(problems, "sm_80", progress=lambda *event: seen.append(event)), 2, "compiled")
    checks.equal(sorted(seen), [(1, 2, seen[0][2], "compiled"), (2, 2, seen[1][2], "compiled")], "progress")
    checks.equal(sorted(event[2] for event in seen), sorted(problems), "problems of the progress")
    checks.equal(convjit.precompile(problems[0], "sm_80"), 0, "compiled again")
    seen.clear()
    checks.raises(
        convjit.Error,
        "sm_",
        "precompiling for what is no target",
        lambda: convjit.precompile(problems, "sm_1", progress=lambda *event: seen.append(event)),
    )
    bundle = os.path.join(os.environ["CONVJIT_CACHE_DIR"], "kernels.bundle")
    exported = convjit.cache.export_bundle(bundle)
    checks.that(exported >= 2, f"exported {exported} entries")
    checks.equal(convjit.cache.import_bundle(bundle), exported, "imported")
    with open(bundle, "r+b") as file:
        file.truncate(100)
    checks.raises(convjit.Error, "bundle", "a damaged bundle", lambda: convjit.cache.import_bundle(bundle))


def check_without(checks):
    """No PyTorch was imported on the way, and its absence is said."""
    import convjit

    checks.that("torch" not in sys.modules, "PyTorch was not imported")
    sys.modules["torch"] = None  # makes an import fail
    checks.raises(ImportError, "torch", "Conv2d without PyTorch", lambda: convjit.Conv2d)
    del sys.modules["torch"]


def main():
    try:
        import numpy
    except ImportError:
        print("NumPy is not installed\npython_array: 0 passed, 0 failed, 1 skipped")
        return 0
    numpy.random.seed(1)
    checks = Checks("python_array")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CONVJIT_CACHE_DIR"], os.environ["CONVJIT_DRIVER"] = cache, "none"
        os.environ["CONVJIT_NVRTC"] = str(BUILD / "tests" / "fake" / "libnvrtc.so")
        os.environ.pop("CONVJIT_CACHE_PATH", None)
        checks.run(
            [
                check_results,
                check_inputs,
                check_lifetimes,
                check_errors,
                check_threads,
                check_problem_strings,
                check_generator,
                check_without,
            ]
        )
    return checks.close()


if __name__ == "__main__":
    sys.exit(main())
