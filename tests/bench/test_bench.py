#!/usr/bin/env python3
"""Tests of the benchmark that need no GPU. The chart's need matplotlib, those of the checks PyTorch; else skipped."""

import contextlib
import io
import json
import math
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import bench
import report
from layers import COLUMNS, LAYOUTS, MODES, BadLayers, Layer, floor_us, largest_error, read_layers, rms_error

try:
    import torch
except ImportError:
    torch = None
try:
    import matplotlib
except ImportError:
    matplotlib = None

HERE = Path(__file__).resolve().parent
HEADER = ",".join(COLUMNS)


def layer(**changes):
    sizes = dict(
        name="x",
        n=2,
        c=4,
        h=9,
        w=10,
        k=6,
        r=3,
        s=2,
        stride_h=1,
        stride_w=1,
        pad_h=0,
        pad_w=0,
        dil_h=1,
        dil_w=1,
        groups=1,
    )
    return Layer(**{**sizes, **changes})


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def file(self, text, name="layers.csv"):
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path


class ReadLayers(Files):
    def refused(self, text, place, part):
        path = self.file(text)
        with self.assertRaises(BadLayers) as caught:
            read_layers(path)
        self.assertTrue(str(caught.exception).startswith(f"{path}:{place}: "), caught.exception)
        self.assertIn(part, str(caught.exception))

    def test_our_own(self):
        found = read_layers(HERE / "layers.csv")
        self.assertEqual(len(found), 28)
        self.assertEqual(found[0].problem("f16", "nhwc"), "n8c64h512w256k128r5s7_f16_nhwc_krsc")
        names = {each.name: each for each in found}
        self.assertEqual(names["kb80_5x9_dil"].problem("tf32", "nchw"), "n8c32h512w512k64r5s9_pad2x4_dil2x3_tf32_nchw")
        self.assertEqual(
            names["mbv3_dw5_s2"].problem("f32", "nchw"), "n64c72h56w56k72r5s5_stride2x2_pad2x2_g72_f32_nchw"
        )

    def test_sizes_agree_with_the_recorded_work(self):
        lines = (HERE / "h200_pytorch.csv").read_text().splitlines()
        recorded = {line.split(",")[0]: float(line.split(",")[1]) for line in lines[1:]}
        found = read_layers(HERE / "layers.csv")
        self.assertEqual(set(recorded), {each.name for each in found})
        for each in found:
            self.assertAlmostEqual(each.flop / 1e9, recorded[each.name], delta=0.006, msg=each.name)

    def test_comments_blank_lines_and_blanks(self):
        path = self.file(f"# mine\n\n{HEADER}\n a , 1,1,5,5,1,3,3,1,1,0,0,1,1, 1\r\n")
        self.assertEqual([each.name for each in read_layers(path)], ["a"])

    def test_refusals(self):
        row = "a,1,4,5,5,4,3,3,1,1,0,0,1,1,1"
        self.refused("", "1:1", "empty")
        self.refused(HEADER + "\n", "2:1", "no layer")
        self.refused(HEADER.replace("c,h", "h,c") + "\n" + row, "1:8", "column 'h', expected 'c'")
        self.refused(HEADER + ",x\n" + row, f"1:{len(HEADER) + 3}", "16 columns, expected 15")
        self.refused(HEADER + "\n" + row + ",1", f"2:{len(row) + 3}", "16 fields, expected 15")
        self.refused(HEADER + "\na,1", "2:4", "2 fields")
        self.refused(HEADER + "\n" + row.replace("a,", ",", 1), "2:1", "name: missing")
        self.refused(f"{HEADER}\n{row}\n\n{row}", "4:1", "'a' is on line 2 already")
        self.refused(HEADER + "\na,1,4,5,-5,4,3,3,1,1,0,0,1,1,1", "2:9", "w: '-5' is not a whole number")
        self.refused(HEADER + "\na,1,4,5,5,4,3,3.0,1,1,0,0,1,1,1", "2:15", "s: '3.0'")
        self.refused(HEADER + "\na,1,4,5,5,4,3,3,0,1,0,0,1,1,1", "2:17", "stride_h: 0 is outside 1 to 2147483647")
        self.refused(HEADER + "\na,2147483648,4,5,5,4,3,3,1,1,0,0,1,1,1", "2:3", "n: 2147483648 is outside")
        self.refused(HEADER + "\na,1,4,5,5,4,3,3,1,1,0,0,1,1,3", "2:29", "groups: 3 does not divide c 4")
        self.refused(HEADER + "\na,1,4,5,5,6,3,3,1,1,0,0,1,1,4", "2:29", "groups: 4 does not divide k 6")
        self.refused(
            HEADER + "\na,1,4,5,5,4,7,3,1,1,0,1,1,1,1",
            "2:13",
            "r: 7 taps, 1 apart, do not fit an input of 5 padded by 0",
        )
        self.refused(HEADER + "\na,1,4,5,5,4,3,3,1,1,0,0,1,3,1", "2:15", "s: 3 taps, 3 apart")


class Numbers(unittest.TestCase):
    def test_output_size(self):
        # (9 + 2*1 - 2*(3-1) - 1) // 3 + 1 = 3;  (10 + 2*2 - 4*(2-1) - 1) // 2 + 1 = 5
        each = layer(stride_h=3, stride_w=2, pad_h=1, pad_w=2, dil_h=2, dil_w=4)
        self.assertEqual((each.p, each.q), (3, 5))

    def test_floors(self):
        kb56 = read_layers(HERE / "layers.csv")[0]
        # 582.62 GFLOP: 4.855 ms at 120 TFLOP/s, 1.618 at 360, 0.8828 at 660
        self.assertAlmostEqual(floor_us(kb56, "f32"), 4855.2, delta=0.1)
        self.assertAlmostEqual(floor_us(kb56, "tf32"), 1618.4, delta=0.1)
        self.assertAlmostEqual(floor_us(kb56, "f16"), 882.76, delta=0.01)
        # depthwise 3x7: 134217728 + 2688 + 129024000 elements move at 4.29 TB/s
        kb85 = next(each for each in read_layers(HERE / "layers.csv") if each.name == "kb85_dw3x7")
        self.assertAlmostEqual(floor_us(kb85, "f32"), 4 * 263244416 / 4.29e6, delta=1e-6)
        self.assertAlmostEqual(floor_us(kb85, "bf16"), 2 * 263244416 / 4.29e6, delta=1e-6)
        self.assertAlmostEqual(
            floor_us(kb85, "f32", {"f32": 1.0, "copy": 4.29}), 2 * 128 * 32 * 126 * 250 * 21 / 1e6, delta=1e-6
        )

    def test_bounds(self):
        unit = 2.0**-24
        self.assertEqual(largest_error("f32", 10, 3.0, 1.0), 36 * unit * 3)
        self.assertEqual(largest_error("f16", 10, 3.0, 1.0), 36 * unit * 3 + 2.0**-11 * (1 + 36 * unit * 3) + 2.0**-25)
        # a product of two numbers just below 1 + 2^-11, both rounded to 1, is inside the bound, but hardly
        factor = 1 + 2.0**-11 - 2.0**-23
        error = factor * factor - 1.0
        self.assertLess(error, largest_error("tf32", 1, factor * factor, factor * factor))
        self.assertGreater(error, largest_error("tf32", 1, factor * factor, factor * factor) * 0.9)
        # TF32 products must not pass as FP32: their error is at least 2^-12 of the result
        for terms in (1, 9, 2240, 100000):
            self.assertLess(rms_error("f32", terms, 1.0), 2.0**-12 / 2)

    def test_geometric_mean(self):
        self.assertAlmostEqual(report.geometric_mean([0.5, 2.0, 8.0]), 2.0)


def row(name, mode="f32", layout="nchw", torch_us=40.0, ours_us=20.0, **changes):
    error = {"max": 1e-5, "rms": 1e-6, "bound": 1e-4, "rms_limit": 1e-5, "wrong": 0, "of": 64}
    return {
        "layer": name,
        "mode": mode,
        "layout": layout,
        "problem": "n1c1h1w1k1r1s1",
        "flop": 2,
        "floor_us": 5.0,
        "torch_us": torch_us,
        "ours_us": ours_us,
        "speed": torch_us / ours_us,
        "runs": 9,
        "schedule": "direct:a=1",
        "origin": "disk",
        "plan_ms": 1.0,
        "torch_first_ms": 9.0,
        "error": {"ours": error, "torch": error},
        "wrong": "",
        **changes,
    }


FAILED = {
    "layer": "c",
    "mode": "f32",
    "layout": "nchw",
    "problem": "p",
    "flop": 2,
    "floor_us": 5.0,
    "failed": "no kernel",
}


class Reports(Files):
    rows = [row("a"), row("b", torch_us=20.0, ours_us=40.0), row("a", "f16", "nhwc"), FAILED]

    def test_table(self):
        self.assertIn(" 40.0        20.0   2.00       5.0    4.00     8.00", report.table_line(self.rows[0]))
        self.assertIn("direct  packed 17.5 us", report.table_line(row("a", packed_us=17.5)))
        self.assertIn("WRONG: why", report.table_line(row("a", wrong="why")))
        self.assertIn("FAILED: no kernel", report.table_line(FAILED))

    def test_summary(self):
        lines = report.summary(self.rows, {("a", "f32", "nchw"): 20.0})
        self.assertEqual(len(lines), 3)
        # speeds 2 and 1/2: mean 1, one of two behind PyTorch, which took twice the recorded time on the layer known
        self.assertEqual(lines[1].split(), "f32 NCHW 2 1.00 1 5.66 5.66 2.00".split())
        self.assertEqual(lines[2].split(), "f16 channels_last 1 2.00 0 4.00 8.00".split())

    def test_bad_rows(self):
        self.assertEqual(bench.bad_rows(self.rows), [FAILED])
        wrong = row("a", wrong="NaN")
        beside = row("b", schedules=[{"schedule": "s", "us": 1.0, "predicted_us": 1.0, "wrong": "NaN"}])
        self.assertEqual(bench.bad_rows([row("c"), wrong, beside]), [wrong, beside])

    def test_files(self):
        path = self.folder / "results.json"
        report.write_results(path, {"gpu": "G"}, {"f32": 1.0}, self.rows)
        self.assertEqual(report.read_results(path)["rows"], self.rows)
        self.assertEqual([each.name for each in self.folder.iterdir()], ["results.json"])
        report.write_results(path, {}, {}, [row("a", plan_ms=float("nan"))])
        self.assertIsNone(report.read_results(path)["rows"][0]["plan_ms"])
        for text, part in (
            ("{", ":1:2: "),
            ("[]", "not a results file"),
            ('{"rows": 3}', "not a results file"),
            (json.dumps({"version": 99, "rows": []}), "version 99"),
        ):
            with self.assertRaises(report.BadResults) as caught:
                report.read_results(self.file(text, "bad.json"))
            self.assertIn(part, str(caught.exception))

    def test_recorded(self):
        recorded = report.read_recorded(HERE / "h200_pytorch.csv")
        self.assertEqual(len(recorded), 28 * 8)
        self.assertEqual(recorded["kb56_5x7", "f16", "nhwc"], 1240.3)
        self.assertEqual(recorded["kb85_dw3x7", "f32", "nchw"], 2259.2)


class CommandLine(Files):
    def refused(self, arguments, part):
        errors = io.StringIO()
        with self.assertRaises(SystemExit) as caught, contextlib.redirect_stderr(errors):
            bench.main(arguments)
        self.assertIn(part, errors.getvalue() + str(caught.exception))

    def test_refusals(self):
        self.refused(["--modes", "f32,f64"], "'f64' is none of f32,tf32,f16,bf16")
        self.refused(["--layouts", "hwcn"], "'hwcn' is none of nchw,nhwc")
        self.refused(["--ceiling", "f99=1"], "'f99=1' is not NAME=VALUE")
        self.refused(["--ceiling", "copy=-1"], "positive VALUE")
        self.refused(["--only", "("], "argument --only")
        self.refused(["--only", "no such layer"], "--only matches no layer")
        self.refused(["--budget-ms", "0"], "must be positive")
        self.refused(["--chart-only", "x.json"], "needs --chart FILE")
        self.refused(["--layers", str(self.folder / "none.csv")], "No such file")
        self.refused(["--layers", str(self.file("name,n\n"))], "layers.csv:1:7: 2 columns")
        self.refused(["--chart-only", str(self.file("{", "r.json")), "--chart", "c.png"], "r.json:1:2")

    def test_order_is_ours(self):
        options = bench.parse_arguments(["--modes", "bf16,f32", "--ceiling", "copy=3.3"])
        self.assertEqual(options.modes, ["f32", "bf16"])
        self.assertEqual(options.ceiling, [("copy", 3.3)])


@unittest.skipUnless(matplotlib, "matplotlib is not installed")
class Chart(Files):
    def test_png(self):
        rows = [
            row(name, mode, layout, torch_us=50.0 + i)
            for i, name in enumerate("abcde")
            for mode in MODES
            for layout in LAYOUTS
        ]
        results, path = self.folder / "r.json", self.folder / "c.png"
        report.write_results(results, {"gpu": "G"}, {}, rows + [FAILED])
        self.assertEqual(bench.main(["--chart-only", str(results), "--chart", str(path)]), 0)
        png = path.read_bytes()
        self.assertEqual(png[:8], b"\x89PNG\r\n\x1a\n")
        width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
        self.assertTrue(500 < width < 2000 and height > 1000, (width, height))

    def test_nothing(self):
        results = self.folder / "r.json"
        report.write_results(results, {}, {}, [FAILED])
        with self.assertRaises(SystemExit) as caught:
            bench.main(["--chart-only", str(results), "--chart", str(self.folder / "c.png")])
        self.assertIn("nothing to draw", str(caught.exception))


@unittest.skipUnless(torch, "PyTorch is not installed")
class Accuracy(unittest.TestCase):
    """The checks accept what is right and refuse what is a little wrong, on the CPU."""

    odd = layer(
        n=3, c=6, h=11, w=9, k=4, r=3, s=2, stride_h=2, stride_w=1, pad_h=1, pad_w=2, dil_h=2, dil_w=3, groups=2
    )

    def case(self, each, mode, layout="nchw"):
        class Cpu:
            device = "cpu"

        return bench.Case(Cpu, each, mode, layout)

    def exact(self, case):
        each = case.layer
        y = torch.nn.functional.conv2d(
            case.x.double(),
            case.w.double(),
            None,
            (each.stride_h, each.stride_w),
            (each.pad_h, each.pad_w),
            (each.dil_h, each.dil_w),
            each.groups,
        )
        return y.to(case.dtype)

    def test_reference_is_conv2d(self):
        for layout in LAYOUTS:
            case = self.case(self.odd, "f32", layout)
            n, p, q = case.where.unbind(1)
            whole = torch.nn.functional.conv2d(case.x.double(), case.w.double(), None, (2, 1), (1, 2), (2, 3), 2)
            self.assertLess((whole[n, :, p, q] - case.exact).abs().max().item(), 1e-13)
            self.assertTrue(bool((case.magnitude >= case.exact.abs()).all()))

    def test_right_outputs_pass(self):
        for mode in MODES:
            for layout in LAYOUTS:
                case = self.case(self.odd, mode, layout)
                case.y.copy_(self.exact(case))
                found, wrong = case.verdict(case.torch_call()())
                self.assertEqual(wrong, "", (mode, layout))
                self.assertGreater(found["ours"]["of"], 256)

    def wrong(self, mode, spoil, each=None):
        case = self.case(each or self.odd, mode)
        case.y.copy_(self.exact(case))
        spoil(case)
        return case.verdict(case.torch_call()())[1]

    def test_a_wrong_pixel_is_seen(self):
        def shift(case):
            case.y.copy_(case.y.roll(1, 3).clone())

        for mode in MODES:
            self.assertIn("off by more than their bounds", self.wrong(mode, shift))

    def test_wrong_outputs_between_the_samples_are_seen(self):
        big = layer(n=12, c=1024, h=32, w=32, k=4, r=3, s=3)  # 3640 positions of 10800

        def spoiler(change):
            def spoil(case):
                sampled = {tuple(each) for each in case.where.tolist()}
                n, p, q = next(
                    (n, p, q) for n in range(12) for p in range(30) for q in range(30) if (n, p, q) not in sampled
                )
                case.y[n, 3, p, q] += change

            return spoil

        self.assertIn("not sampled differs", self.wrong("f32", spoiler(1.0), big))
        self.assertIn("not sampled differs from PyTorch's by nan", self.wrong("f32", spoiler(float("nan")), big))

    def test_tf32_does_not_pass_as_f32(self):
        each = layer(n=2, c=64, h=20, w=20, k=8, r=5, s=7)

        def cut(added):
            def spoil(case):
                mask = torch.tensor(-0x2000, dtype=torch.int32)
                case.x, case.w = (((t.view(torch.int32) + added) & mask).view(torch.float32) for t in (case.x, case.w))
                case.y.copy_(self.exact(case))

            return spoil

        rounded, truncated = cut(0x1000), cut(0)
        self.assertIn("rms error", self.wrong("f32", rounded, each))
        self.assertEqual(self.wrong("tf32", rounded, each), "")
        self.assertIn("rms error", self.wrong("tf32", truncated, each))

    def test_outputs_that_are_short_do_not_pass(self):
        def shorten(by):
            return lambda case: case.y.mul_(1 - by)

        self.assertIn("too near to zero", self.wrong("f32", shorten(4 * 2.0**-24)))
        self.assertEqual(self.wrong("tf32", shorten(4 * 2.0**-24)), "")

    def test_f16_sums_do_not_pass(self):
        # a reduction whose partial sums are rounded to half precision
        each = layer(n=2, c=64, h=20, w=20, k=8, r=5, s=7)

        def half_sums(case):
            total = torch.zeros_like(case.y)
            for r in range(5):
                for s in range(7):
                    window = case.x[:, :, r : r + case.layer.p, s : s + case.layer.q].double()
                    total += torch.einsum("nchw,kc->nkhw", window, case.w[:, :, r, s].double()).half()
            case.y.copy_(total)

        self.assertIn("rms error", self.wrong("f16", half_sums, each))


def main():
    program = unittest.main(exit=False, verbosity=0, testRunner=unittest.TextTestRunner(stream=sys.stdout, verbosity=0))
    result = program.result
    bad, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    print(f"test_bench: {result.testsRun - bad - skipped} passed, {bad} failed, {skipped} skipped")
    return 1 if bad or not result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
