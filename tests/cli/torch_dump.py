"""Tests of `convjit dump --format torch` that need neither PyTorch nor a GPU.

The file runs here over a stand-in for PyTorch, which shows what it asks of load_inline and of nn.Conv2d. Its C++ launcher
runs over a stand-in for the CUDA runtime, and must start the same kernels, with the same grids and arguments, as the
library does over the fake driver (tests/fake/fake.h). tests/gpu/torch_dump.py does the rest, with PyTorch and a GPU.
"""

import ctypes
import os
import re
import subprocess
import sys
import tempfile
import types
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import libconvjit

BUILD = os.environ.get("BUILD") or "build"
ARCH = "sm_90a"

# every kind of launch: one kernel and two, workspace, 64-bit arguments, all tensors; and all that ModelNew may be told
PROBLEMS = [
    "n8c64h512w256k128r5s7",
    "n1c128h28w28k128r3s3_pad1",
    "n4c64h20w20k128r1s1_bias",
    "n2c6h9w11k4r3s2_stride2x1_pad1x2x0x3_dil2x1_g2_f16_nhwc_bias_silu_residual",
    "n1c3h40w40k8r4s4_pad1x1x2x2_bf16_clamp-1x1",
    "n1c3h30000w30000k1r1s1_tf32_residual",
    "n2c64h20w24k64r3s3_pad1_f16_relu",
    "n2c10h9w11k4r3s2_g2_f16_krsc",
]


def dump(problem, *options):
    return subprocess.run(
        [f"{BUILD}/convjit", "dump", problem, "--arch", ARCH, *options], check=True, capture_output=True, text=True
    ).stdout


class Tensor:
    def __init__(self, name, requires_grad=False):
        self.name, self.requires_grad, self.format = name, requires_grad, None

    def contiguous(self, memory_format="contiguous_format"):
        self.format = memory_format
        return self


def stand_in():
    """Modules in PyTorch's place, which note calls in `torch.noted`."""
    torch, nn = types.ModuleType("torch"), types.ModuleType("torch.nn")
    utils, extension = types.ModuleType("torch.utils"), types.ModuleType("torch.utils.cpp_extension")
    torch.noted = {"grad": False}
    torch.float32, torch.float16, torch.bfloat16 = "float32", "float16", "bfloat16"
    torch.channels_last = "channels_last"
    torch.is_grad_enabled = lambda: torch.noted["grad"]

    class Function:
        @classmethod
        def apply(cls, *tensors):
            torch.noted["apply"] = cls
            return cls.forward(None, *tensors)

    torch.autograd = types.SimpleNamespace(Function=Function)

    class Module:
        def __call__(self, *inputs):
            return self.forward(*inputs)

    class Conv2d(Module):
        def __init__(self, *arguments):
            self.arguments, self.weight = arguments, Tensor("weight", requires_grad=True)
            self.bias = Tensor("bias", requires_grad=True) if arguments[7] else None

    nn.Module, nn.Conv2d = Module, Conv2d
    torch.nn = nn

    def load_inline(
        name, cpp_sources, cuda_sources, functions, extra_cflags, extra_cuda_cflags, no_implicit_headers=False
    ):
        torch.noted["load_inline"] = dict(locals())
        return types.SimpleNamespace(conv2d=lambda *tensors: [tensor.name for tensor in tensors])

    extension.load_inline = load_inline
    torch.utils = utils
    return {"torch": torch, "torch.nn": nn, "torch.utils": utils, "torch.utils.cpp_extension": extension}


def run_file(text):
    """(names of the file, what it asked of load_inline, the stand-in)"""
    modules = stand_in()
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        names = {"__name__": "dumped"}
        exec(compile(text, "dumped.py", "exec"), names)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return names, modules["torch"].noted["load_inline"], modules["torch"]


class Parsed:
    """The fields of a canonical problem string that these tests use."""

    def __init__(self, text):
        head, *fields = text.split("_")
        self.sizes = {letter: int(value) for letter, value in re.findall(r"([a-z])(\d+)", head)}
        self.n, self.c, self.h, self.w, self.k, self.r, self.s = (self.sizes[letter] for letter in "nchwkrs")
        self.bias, self.residual = "bias" in fields, "residual" in fields
        numbers = {
            field: [int(v) for v in values.split("x")]
            for field, values in re.findall(r"_(stride|pad|dil|g)(\d+(?:x\d+)*)", text)
        }
        self.stride, self.dilation = ((numbers.get(field, [1]) * 2)[:2] for field in ("stride", "dil"))
        self.padding = (numbers.get("pad", [0]) * 4)[:4]  # top, left, bottom, right
        self.groups = numbers.get("g", [1])[0]
        self.krsc = "krsc" in fields
        self.dtype = "float16" if "f16" in fields else "bfloat16" if "bf16" in fields else "float32"

    def output(self, h, w):
        sizes = (
            (h, self.padding[0] + self.padding[2], self.dilation[0] * (self.r - 1), self.stride[0]),
            (w, self.padding[1] + self.padding[3], self.dilation[1] * (self.s - 1), self.stride[1]),
        )
        return [(size + padding - reach - 1) // stride + 1 for size, padding, reach, stride in sizes]

    def arguments(self):
        return [
            self.c,
            self.k,
            (self.r, self.s),
            tuple(self.stride),
            tuple(self.padding),
            tuple(self.dilation),
            self.groups,
            self.bias,
        ]


class TheFile(unittest.TestCase):
    def each(self):
        for problem in PROBLEMS:
            with self.subTest(problem):
                yield problem, Parsed(problem), *run_file(dump(problem, "--format", "torch"))

    def test_kernel_is_the_dumped_source(self):
        for problem, p, names, asked, _ in self.each():
            source = dump(problem)
            self.assertEqual(names["KERNEL"], source)
            self.assertIn(source, asked["cuda_sources"])
            self.assertIn(re.search(r"// schedule  (\S+)", source).group(1), names["__doc__"])

    def test_command_makes_it_again(self):
        for problem, p, names, _, _ in self.each():
            command = re.search(r"^ +convjit (dump .*)$", names["__doc__"], re.M).group(1).split()
            again = subprocess.run([f"{BUILD}/convjit", *command], check=True, capture_output=True, text=True).stdout
            self.assertEqual(again, dump(problem, "--format", "torch"))

    def test_flags(self):
        for problem, p, names, asked, _ in self.each():
            self.assertEqual(asked["extra_cuda_cflags"][0], "-gencode=arch=compute_90a,code=sm_90a")
            options = re.search(r"// options   (.*)", names["KERNEL"]).group(1).split()
            passed = [option for option in options if not option.startswith(("--gpu-architecture", "--std"))]
            self.assertEqual(asked["extra_cuda_cflags"][1:], passed)
            self.assertEqual(asked["functions"], ["conv2d"])
            self.assertTrue(asked["no_implicit_headers"])
            self.assertTrue(asked["name"].isidentifier())

    def test_model_takes_what_it_was_compiled_for(self):
        for problem, p, names, _, torch in self.each():
            ModelNew = names["ModelNew"]
            for model in (
                ModelNew(p.c, p.k),
                ModelNew(*p.arguments()),
                ModelNew(*p.arguments(), "zeros", "cuda", p.dtype),
            ):
                inner = model.conv2d.arguments
                self.assertEqual(inner[:2], (p.c, p.k))
                self.assertEqual(inner[2], (p.r, p.s))
                self.assertEqual(inner[6:8], (p.groups, p.bias))
            self.assertEqual(
                ModelNew(p.c, p.k, device="cuda:1", dtype=p.dtype).conv2d.arguments[8:], ("zeros", "cuda:1", p.dtype)
            )
            self.assertEqual(ModelNew(p.c, p.k).conv2d.arguments[8:], ("zeros", None, None))

    def test_model_refuses_the_rest_by_name(self):
        for problem, p, names, _, _ in self.each():
            ModelNew = names["ModelNew"]
            good = dict(
                zip(
                    ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias"),
                    p.arguments(),
                )
            )
            bad = {
                "in_channels": p.c + 1,
                "out_channels": p.k + 1,
                "kernel_size": (p.r, p.s + 1),
                "stride": 7,
                "padding": 9,
                "dilation": (p.dilation[0], 8),
                "groups": p.groups + 1,
                "bias": not p.bias,
                "padding_mode": "reflect",
                "dtype": "float64",
            }
            for name, value in bad.items():
                with self.assertRaises(ValueError) as caught:
                    ModelNew(**{**good, name: value})
                self.assertTrue(str(caught.exception).startswith(f"ModelNew: {name}"), caught.exception)

    def test_single_numbers_stand_for_pairs(self):
        names, _, _ = run_file(dump("n1c2h9w9k4r3s3_stride2_pad1_dil2_g2", "--format", "torch"))
        names["ModelNew"](2, 4, 3, 2, 1, 2, 2)
        self.assertRaises(ValueError, names["ModelNew"], 2, 4, 3, 2, 2, 2, 2)

    def test_named_padding(self):
        names, _, _ = run_file(dump("n1c3h40w40k8r4s4_pad1x1x2x2", "--format", "torch"))
        self.assertEqual(names["ModelNew"](3, 8, 4, padding="same").conv2d.arguments[4], "same")
        self.assertRaises(ValueError, names["ModelNew"], 3, 8, 4, padding="valid")
        names, _, _ = run_file(dump("n1c3h40w40k8r4s4", "--format", "torch"))
        self.assertEqual(names["ModelNew"](3, 8, 4, padding="valid").conv2d.arguments[4], "valid")
        self.assertRaises(ValueError, names["ModelNew"], 3, 8, 4, padding="same")

    def test_forward(self):
        for problem, p, names, _, torch in self.each():
            model = names["ModelNew"](p.c, p.k)
            inputs = [Tensor("x")] + ([Tensor("residual")] if p.residual else [])
            expected = ["x", "weight"] + ["bias"] * p.bias + ["residual"] * p.residual
            self.assertEqual(model(*inputs), expected)
            self.assertEqual(model.conv2d.weight.format, "channels_last" if p.krsc else "contiguous_format")
            self.assertNotIn("apply", torch.noted)
            torch.noted["grad"] = True
            self.assertEqual(model(*inputs), expected)
            self.assertRaises(NotImplementedError, torch.noted["apply"].backward, None, None)


CUDA_RUNTIME = r"""
#include <cstddef>
#include <cstdint>
#include <cstdio>
typedef int cudaError_t;
typedef void *cudaStream_t;
enum { cudaSuccess = 0, cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct dim3 { unsigned x, y, z; dim3(unsigned a, unsigned b, unsigned c) : x(a), y(b), z(c) {} };
static cudaError_t cudaGetLastError() { return cudaSuccess; }
static const char *cudaGetErrorString(cudaError_t) { return "refused"; }
static const void *allowed_function;
static int allowed_smem = 48 * 1024;
static cudaError_t cudaFuncSetAttribute(const void *function, int attribute, int bytes)
{
    allowed_function = function, allowed_smem = bytes;
    return attribute == cudaFuncAttributeMaxDynamicSharedMemorySize ? cudaSuccess : 1;
}
struct entry { const void *function; const char *name; int n; int sizes[32]; };
extern const entry entries[];
enum { cudaLaunchAttributeClusterDimension = 4, cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
struct cudaLaunchAttribute {
    int id;
    struct { struct { unsigned x, y, z; } clusterDim; int programmaticStreamSerializationAllowed; } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim{1, 1, 1}, blockDim{1, 1, 1};
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};
#define CUDART_VERSION 13000
enum { cudaEnableDefault };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess };
// What the fake driver keeps of a map is its address.
static int encode_tiled(void *map, int, uint32_t, void *base, const uint64_t *, const uint64_t *, const uint32_t *,
                        const uint32_t *, int, int, int, int)
{
    *(void **)map = base;
    return 0;
}
static cudaError_t cudaGetDriverEntryPointByVersion(const char *, void **function, int, int,
                                                    cudaDriverEntryPointQueryResult *)
{
    *function = (void *)encode_tiled;
    return cudaSuccess;
}
static cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *function, void **args)
{
    const dim3 grid = config->gridDim, block = config->blockDim;
    const size_t smem = config->dynamicSmemBytes;
    const cudaStream_t stream = config->stream;
    unsigned cluster[3] = {1, 1, 1};
    int overlap = 0;
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const cudaLaunchAttribute &a = config->attrs[i];
        if (a.id == cudaLaunchAttributeClusterDimension)
            cluster[0] = a.val.clusterDim.x, cluster[1] = a.val.clusterDim.y, cluster[2] = a.val.clusterDim.z;
        if (a.id == cudaLaunchAttributeProgrammaticStreamSerialization) overlap = a.val.programmaticStreamSerializationAllowed;
    }
    if (smem > 48 * 1024 && (allowed_function != function || (size_t)allowed_smem < smem)) return 1;
    if (stream != (void *)0x77) return 1;
    const entry *e = entries;
    while (e->function != function) e++;
    std::printf("%s %u %u %u %u %u %u %u %u %u %d %zu", e->name, grid.x, grid.y, grid.z, block.x, block.y, block.z,
                cluster[0], cluster[1], cluster[2], overlap, smem);
    for (int i = 0; i < e->n; i++) {
        if (e->sizes[i] == 8) std::printf(" %llu", *(unsigned long long *)args[i]);
        else std::printf(" %u", *(unsigned *)args[i]);
    }
    std::printf("\n");
    return cudaSuccess;
}
"""

MAIN = r"""
int main(int argc, char **argv)
{
    int64_t v[5];
    for (int i = 0; i < 5; i++) v[i] = std::stoll(argv[1 + i]);
    try {
        convjit::launch((void *)0x1000, (void *)0x2000, (void *)0x3000, (void *)0x4000, (void *)0x5000, (char *)0x6000,
                        v[0], v[1], v[2], v[3], v[4], (void *)0x77);
    } catch (const std::runtime_error &error) {
        std::printf("error: %s\n", error.what());
    }
}
"""


def parameters(source):
    """{entry: [bytes of each parameter]} from the kernels' own parameter lists"""
    entries = {}
    for name, text in re.findall(r"__global__ void(?: __launch_bounds__\([^)]*\))?\s+(\w+)\(([^)]*)\)", source):
        text = re.sub(r"//[^\n]*", "", text)
        entries[name] = [8 if any(wide in one for wide in ("*", "long long", "TensorMap")) else 4 for one in text.split(",")]
    return entries


class Launcher:
    """The dumped file's C++ launcher as a program."""

    def __init__(self, folder, asked):
        headers, kernel, launcher = asked["cuda_sources"]
        entries = parameters(kernel)
        text = headers + "".join(f'extern "C" void {name}() {{}}\n' for name in entries)
        text += (
            "const entry entries[] = {\n"
            + "".join(
                f'    {{(const void *){name}, "{name}", {len(sizes)}, {{{", ".join(map(str, sizes))}}}}},\n'
                for name, sizes in entries.items()
            )
            + "};\n"
            + launcher
            + MAIN
        )
        (folder / "cuda_runtime.h").write_text(CUDA_RUNTIME)
        (folder / "launcher.cpp").write_text(text)
        self.program = folder / "launcher"
        compiler = os.environ.get("CXX") or "c++"
        subprocess.run(
            [
                compiler,
                "-std=c++17",
                "-Wall",
                "-Wextra",
                "-Wno-unused-parameter",
                "-Wno-unused-function",
                "-Werror",
                f"-I{folder}",
                "-o",
                self.program,
                folder / "launcher.cpp",
            ],
            check=True,
        )

    def run(self, *sizes):
        return subprocess.run(
            [self.program, *map(str, sizes)], check=True, capture_output=True, text=True
        ).stdout.splitlines()


class FakeLaunch(ctypes.Structure):
    """fake_launch of tests/fake/fake.h"""

    _fields_ = [
        ("entry", ctypes.c_char * 256),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("cluster", ctypes.c_uint * 3),
        ("smem", ctypes.c_uint),
        ("overlap", ctypes.c_int),
        ("stream", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("n_args", ctypes.c_int),
        ("args", ctypes.c_uint64 * 32),
    ]

    def line(self):
        numbers = [*self.grid, *self.block, *self.cluster, self.overlap, self.smem, *self.args[: self.n_args]]
        return " ".join([self.entry.decode(), *map(str, numbers)])


class SameLaunches(unittest.TestCase):
    """The launcher starts what the library starts."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        fakes = Path(BUILD).resolve() / "tests" / "fake"
        os.environ.update(
            CONVJIT_DRIVER=str(fakes / "libcuda.so"),
            CONVJIT_NVRTC=str(fakes / "libnvrtc.so"),
            CONVJIT_CACHE_DIR=str(cls.folder / "cache"),
        )
        cls.convjit = libconvjit.Convjit(Path(BUILD) / "libconvjit.so")
        cls.driver = ctypes.CDLL(str(fakes / "libcuda.so"))
        cls.driver.fake_cuda_launch.restype = ctypes.POINTER(FakeLaunch)

    def library(self, problem, schedule):
        """the lines of the launches of a plan"""
        with self.convjit.plan(problem, schedule) as plan:
            first = self.driver.fake_cuda_launches()
            plan.launcher(
                None,
                input=0x1000,
                weights=0x2000,
                bias=0x3000,
                residual=0x4000,
                output=0x5000,
                workspace=0x6000 if plan.workspace else None,
            )()
            last = self.driver.fake_cuda_launches()
        return [self.driver.fake_cuda_launch(i).contents.line() for i in range(first, last)]

    def test_same(self):
        several = 0
        for problem in PROBLEMS:
            with self.subTest(problem):
                p = Parsed(problem)
                _, asked, _ = run_file(dump(problem, "--format", "torch"))
                schedule = re.search(r"// schedule  (\S+)", asked["cuda_sources"][1]).group(1)
                launcher = Launcher(self.folder, asked)
                for n, h, w in ((p.n, p.h, p.w), (p.n + 2, p.h + 5, p.w + 1), (1, 40, 41)):
                    changed = re.sub(r"^n\d+(c\d+)h\d+w\d+", rf"n{n}\1h{h}w{w}", problem)
                    lines = launcher.run(n, h, w, *p.output(h, w))
                    try:
                        expected = self.library(changed, schedule)
                    except libconvjit.ConvjitError as refused:  # then the launcher refuses, for the same reason
                        self.assertTrue(lines[0].startswith("error: conv2d: "), lines)
                        self.assertIn(lines[0].removeprefix("error: conv2d: "), str(refused))
                        continue
                    self.assertEqual(lines, expected)
                    several += len(expected) > 1
        self.assertGreater(several, 0, "none of the problems has two launches")

    def test_sizes_that_the_kernel_cannot_serve(self):
        problem = "n1c64h20w20k64r3s3"
        _, asked, _ = run_file(dump(problem, "--schedule", "direct", "--format", "torch"))  # whose offsets are 32-bit
        launcher = Launcher(self.folder, asked)
        lines = launcher.run(1, 40000, 40000, 39998, 39998)
        self.assertEqual(len(lines), 1)
        self.assertTrue(lines[0].startswith("error: conv2d: an image of 2^31 elements or more"), lines)
        schedule = re.search(r"// schedule  (\S+)", asked["cuda_sources"][1]).group(1)
        with self.assertRaises(libconvjit.ConvjitError):
            self.library("n1c64h40000w40000k64r3s3", schedule)


def main():
    program = unittest.main(exit=False, verbosity=0, testRunner=unittest.TextTestRunner(stream=sys.stdout, verbosity=0))
    result = program.result
    bad, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    print(f"torch: {max(0, result.testsRun - bad - skipped)} passed, {bad} failed, {skipped} skipped")
    return 1 if bad or not result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
