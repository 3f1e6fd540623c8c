#!/usr/bin/env python3
"""Times convjit's kernels beside PyTorch's convolution, on one GPU, in one process, and checks both against float64.

For each layer, math mode and layout: random data; PyTorch with cudnn.benchmark = True under inference_mode; convjit
through plan_launch. Both take the same weights, in the layout of the input, as users of such models have them. Runs
alternate, the L2 cache is flushed before each, CUDA events take the times, and medians are printed. convjit's output is
poisoned with NaN before the timed runs and checked behind them (accuracy.py). Exit status 1 if anything is wrong or
failed.

    bench.py --lib build/libconvjit.so --out results.json --chart chart.png
    bench.py --only kb56 --modes f16 --layouts nhwc --all-schedules
    bench.py --packed
    bench.py --chart-only results.json --chart chart.png
"""

import argparse
import re
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import layers as bench_layers
import libconvjit
import report
from chart import NothingToDraw, draw
from layers import CEILINGS, LAYOUTS, MODES

HERE = Path(__file__).resolve().parent
FLUSH_BYTES = 256 * 2**20  # several times any L2 cache
LEAST_RUNS, MOST_RUNS = 5, 100
HOST_CALLS, HOST_REPEATS = 100, 7
HOST_LONGEST_US = 300  # calls of longer kernels would wait for the GPU


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--lib", default=libconvjit.default_path(), help="libconvjit.so; default $CONVJIT_LIB, build/libconvjit.so"
    )
    parser.add_argument(
        "--layers", default=HERE / "layers.csv", help="CSV with the columns " + ",".join(bench_layers.COLUMNS)
    )
    parser.add_argument("--only", type=regex, default="", metavar="REGEX", help="layers whose name matches")
    parser.add_argument("--modes", type=subset(MODES), default=list(MODES), metavar="LIST", help=",".join(MODES))
    parser.add_argument(
        "--layouts", type=subset(LAYOUTS), default=list(LAYOUTS), metavar="LIST", help=",".join(LAYOUTS)
    )
    parser.add_argument(
        "--schedule", help="this schedule (a name or a full specification) instead of the predicted best"
    )
    parser.add_argument(
        "--all-schedules",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="also time the first N candidates of each problem; all without N",
    )
    parser.add_argument(
        "--packed",
        action="store_true",
        help="also time launches with weights packed before, reported beside the call that packs them",
    )
    parser.add_argument(
        "--host", action="store_true", help="also measure what a call costs the host (ours includes ctypes)"
    )
    parser.add_argument(
        "--budget-ms", type=float, default=150, metavar="T", help="GPU time for a layer's runs in a mode and layout"
    )
    parser.add_argument(
        "--ceiling",
        type=ceiling,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="TFLOP/s of a mode, or TB/s of 'copy'; default: H200 as measured",
    )
    parser.add_argument(
        "--recorded", default=HERE / "h200_pytorch.csv", help="PyTorch's times on another day, for comparison"
    )
    parser.add_argument("--out", metavar="FILE", help="write results as JSON")
    parser.add_argument("--chart", metavar="FILE", help="write the chart as PNG")
    parser.add_argument("--chart-only", metavar="RESULTS", help="measure nothing; draw the chart of a results file")
    options = parser.parse_args(arguments)
    if options.chart_only and not options.chart:
        parser.error("--chart-only needs --chart FILE")
    if options.budget_ms <= 0:
        parser.error("--budget-ms must be positive")
    return options


def subset(known):
    def parse(text):
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"'{name}' is none of {','.join(known)}")
        return [name for name in known if name in names]

    return parse


def regex(text):
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"'{text}': {error}") from None


def ceiling(text):
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if name not in CEILINGS or not number > 0:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not NAME=VALUE with NAME one of {','.join(CEILINGS)} and a positive VALUE"
        )
    return name, number


class Gpu:
    """The current CUDA device: its stream, its clock, its cache."""

    device = "cuda"

    def __init__(self):
        import torch

        self.torch = torch
        self.trash = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
        self.stream = torch.cuda.current_stream().cuda_stream

    def synchronize(self):
        self.torch.cuda.synchronize()

    def flush(self):
        """Fills the L2 cache with other data. Twice: while the GPU does so, the host gets the next launch ready, so that
        no gap in front of it is timed."""
        self.trash.fill_(1)
        self.trash.fill_(2)

    def times_us(self, functions, runs):
        """functions called in turn, `runs` rounds, the cache flushed before each call: a list of times for each."""
        event = self.torch.cuda.Event
        pairs = [[(event(enable_timing=True), event(enable_timing=True)) for _ in functions] for _ in range(runs)]
        for round_ in pairs:
            for function, (start, end) in zip(functions, round_):
                self.flush()
                start.record()
                function()
                end.record()
        self.synchronize()
        return [[1e3 * start.elapsed_time(end) for start, end in column] for column in zip(*pairs)]


def medians_us(gpu, functions, budget_ms):
    """(medians, runs): as many runs as the budget allows, after two that warm up and tell how long each takes."""
    probe = gpu.times_us(functions, 2)
    round_us = sum(min(times) for times in probe) + 150 * len(functions)  # a flush takes about 130 us
    runs = max(LEAST_RUNS, min(MOST_RUNS, int(1e3 * budget_ms / round_us)))
    return [statistics.median(times) for times in gpu.times_us(functions, runs)], runs


def host_us(gpu, function):
    """Median time of a call on the host, the GPU working in the background."""
    means = []
    for _ in range(HOST_REPEATS):
        gpu.synchronize()
        start = time.perf_counter()
        for _ in range(HOST_CALLS):
            function()
        means.append((time.perf_counter() - start) / HOST_CALLS * 1e6)
    gpu.synchronize()
    return statistics.median(means)


class Case:
    """One layer in one mode and layout: its tensors, PyTorch's call, and the reference."""

    def __init__(self, gpu, layer, mode, layout):
        import torch
        import accuracy

        self.gpu, self.layer, self.mode, self.layout = gpu, layer, mode, layout
        self.problem = layer.problem(mode, layout)
        self.dtype = {"f16": torch.float16, "bf16": torch.bfloat16}.get(mode, torch.float32)
        self.format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
        generator = torch.Generator(device=gpu.device).manual_seed(20240229)

        def uniform(*shape):
            # [-1, 1): a sum of products without a trend, as between normalised layers
            return torch.rand(shape, generator=generator, device=gpu.device).mul_(2).sub_(1).to(self.dtype)

        self.x = uniform(layer.n, layer.c, layer.h, layer.w).contiguous(memory_format=self.format)
        self.w = uniform(layer.k, layer.c // layer.groups, layer.r, layer.s).contiguous(memory_format=self.format)
        self.y = torch.empty(
            (layer.n, layer.k, layer.p, layer.q), dtype=self.dtype, device=gpu.device, memory_format=self.format
        )
        self.where = accuracy.positions(layer)
        self.exact, self.magnitude = accuracy.reference(layer, self.x, self.w, self.where)

    def torch_call(self):
        import torch.nn.functional as F

        x, w, layer = self.x, self.w, self.layer
        stride, padding, dilation = (
            (layer.stride_h, layer.stride_w),
            (layer.pad_h, layer.pad_w),
            (layer.dil_h, layer.dil_w),
        )
        return lambda: F.conv2d(x, w, None, stride, padding, dilation, layer.groups)

    def poison(self):
        self.y.fill_(float("nan"))

    def verdict(self, peer):
        import accuracy

        return accuracy.verdict(self.layer, self.mode, self.y, peer, self.where, self.exact, self.magnitude)


class OurCall:
    """A plan bound to a case's tensors: call it to enqueue it. Use it as a context manager."""

    def __init__(self, convjit, case, schedule):
        import torch

        started = time.perf_counter()
        self.plan = convjit.plan(case.problem, schedule)
        self.plan_ms = (time.perf_counter() - started) * 1e3
        self.case = case
        self.workspace = torch.empty(self.plan.workspace, dtype=torch.uint8, device=case.gpu.device)
        self.run = self.launcher(weights=case.w.data_ptr())

    def launcher(self, **weights):
        return self.plan.launcher(
            self.case.gpu.stream,
            input=self.case.x.data_ptr(),
            output=self.case.y.data_ptr(),
            workspace=self.workspace.data_ptr() or None,
            **weights,
        )

    def launcher_of_packed(self):
        """The same call with weights that are packed now, once; None if the kernel packs none."""
        import torch

        if not self.plan.packed_size:
            return None
        self.packed = torch.empty(self.plan.packed_size, dtype=torch.uint8, device=self.case.gpu.device)
        self.plan.pack(self.case.gpu.stream, self.case.w.data_ptr(), self.packed.data_ptr())
        return self.launcher(packed=self.packed.data_ptr())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.plan.__exit__()


def set_mode(mode):
    """PyTorch's switches: cuDNN searches for its fastest algorithm, and may use TF32 only where we do."""
    import torch

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = mode == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = mode == "tf32"


def measure(case, convjit, options, row):
    """Fills a row (report.py)."""
    theirs = case.torch_call()
    started = time.perf_counter()
    peer = theirs()
    case.gpu.synchronize()
    row["torch_first_ms"] = (time.perf_counter() - started) * 1e3
    with OurCall(convjit, case, options.schedule) as ours:
        packed = ours.launcher_of_packed() if options.packed else None
        case.poison()
        (row["torch_us"], row["ours_us"]), row["runs"] = medians_us(case.gpu, [theirs, ours.run], options.budget_ms)
        row["error"], row["wrong"] = case.verdict(peer)
        if packed:
            case.poison()
            (row["packed_us"],), _ = medians_us(case.gpu, [packed], options.budget_ms / 2)
            row["wrong"] = row["wrong"] or case.verdict(peer)[1]
        row["speed"] = row["torch_us"] / row["ours_us"]
        row.update(schedule=ours.plan.schedule, origin=ours.plan.origin, plan_ms=ours.plan_ms)
        if options.host and max(row["torch_us"], row["ours_us"]) <= HOST_LONGEST_US:
            row["torch_host_us"], row["ours_host_us"] = host_us(case.gpu, theirs), host_us(case.gpu, ours.run)
    if options.all_schedules is not None:
        row["schedules"] = measure_schedules(case, convjit, options, peer)


def measure_schedules(case, convjit, options, peer):
    candidates = convjit.schedules(case.problem)["candidates"]
    found = []
    for candidate in candidates[: options.all_schedules or None]:
        with OurCall(convjit, case, candidate["schedule"]) as ours:
            case.poison()
            (us,), _ = medians_us(case.gpu, [ours.run], options.budget_ms / 4)
            found.append(
                {
                    "schedule": candidate["schedule"],
                    "predicted_us": candidate["predicted_us"],
                    "us": us,
                    "wrong": case.verdict(peer)[1],
                }
            )
    return sorted(found, key=lambda each: each["us"])


def run_case(gpu, convjit, layer, mode, layout, options):
    """A row; what goes wrong with this case is in it."""
    import torch

    row = {
        "layer": layer.name,
        "mode": mode,
        "layout": layout,
        "problem": layer.problem(mode, layout),
        "flop": layer.flop,
        "floor_us": bench_layers.floor_us(layer, mode, options.ceilings),
    }
    try:
        set_mode(mode)
        measure(Case(gpu, layer, mode, layout), convjit, options, row)
    except (libconvjit.ConvjitError, torch.cuda.OutOfMemoryError) as error:
        row = {key: row[key] for key in ("layer", "mode", "layout", "problem", "flop", "floor_us")}
        row["failed"] = f"{type(error).__name__}: {error}"
    torch.cuda.empty_cache()  # the next layer's tensors have other sizes
    return row


def print_schedules(row):
    for each in row.get("schedules", ()):
        print(
            f"    {each['us']:11.1f} us, predicted {each['predicted_us']:11.1f}   {each['schedule']}"
            f"{'   WRONG: ' + each['wrong'] if each['wrong'] else ''}",
            flush=True,
        )


def run_all(options, chosen):
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("bench.py: PyTorch sees no GPU")
    rows, started = [], time.perf_counter()
    gpu = Gpu()
    print(report.table_head(), flush=True)
    with torch.inference_mode(), libconvjit.Convjit(options.lib) as convjit:
        machine = {
            "gpu": torch.cuda.get_device_name(),
            "torch": f"PyTorch {torch.__version__}",
            "cudnn": f"cuDNN {torch.backends.cudnn.version()}",
            "convjit": convjit.version(),
        }
        for layer in chosen:
            for mode in options.modes:
                for layout in options.layouts:
                    rows.append(run_case(gpu, convjit, layer, mode, layout, options))
                    print(report.table_line(rows[-1]), flush=True)
                    print_schedules(rows[-1])
    machine["seconds"] = round(time.perf_counter() - started, 1)
    return machine, rows


def bad_rows(rows):
    """rows that failed, or whose output, or that of any schedule, is wrong"""
    return [
        row
        for row in rows
        if "failed" in row or row["wrong"] or any(each["wrong"] for each in row.get("schedules", ()))
    ]


def draw_chart(results, options):
    try:
        draw(results, options.chart)
    except ModuleNotFoundError as error:
        raise SystemExit(f"bench.py: --chart needs the Python package {error.name}") from None


def main(arguments):
    options = parse_arguments(arguments)
    options.ceilings = {**CEILINGS, **dict(options.ceiling)}
    try:
        if options.chart_only:
            draw_chart(report.read_results(options.chart_only), options)
            return 0
        chosen = [layer for layer in bench_layers.read_layers(options.layers) if re.search(options.only, layer.name)]
        if not chosen:
            raise SystemExit(f"bench.py: --only matches no layer of {options.layers}")
        machine, rows = run_all(options, chosen)
        recorded = report.read_recorded(options.recorded)
        print("\n" + "\n".join(report.summary(rows, recorded)))
        print(f"{len(rows)} rows in {machine['seconds']} s; {len(bad_rows(rows))} wrong or failed")
        if options.out:
            report.write_results(options.out, machine, options.ceilings, rows)
        if options.chart:
            draw_chart({"machine": machine, "rows": rows}, options)
    except (bench_layers.BadLayers, report.BadResults, NothingToDraw, libconvjit.ConvjitError, OSError) as error:
        raise SystemExit(f"bench.py: {error}") from None
    return 1 if bad_rows(rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
