"""Results of the benchmark: rows as a table, their geometric means, and the JSON file.

A row is what was measured of one layer, mode and layout:

    layer, mode, layout, problem, flop     what was computed
    floor_us                               see layers.floor_us
    failed                                 the message, when it could not be measured; then nothing below is there
    ours_us, torch_us, runs                medians of interleaved runs, and how many of each
    speed                                  torch_us / ours_us
    schedule, origin, plan_ms              what convjit chose, where its kernel came from, and how long the plan took
    torch_first_ms                         PyTorch's first call, with cuDNN's search
    error                                  against float64: {"ours": {"max", "rms", "bound", "rms_limit", "shrink",
                                           "wrong", "of"}, "torch": the same}
    wrong                                  a message when our output is wrong, else ""
    packed_us                              with --packed: our median with weights packed before, if the schedule packs any
    ours_host_us, torch_host_us            with --host: what a call costs the host
    schedules                              with --all-schedules: [{"schedule", "predicted_us", "us", "wrong"}, ...], fastest
                                           first
"""

import csv
import json
import math
import os

from layers import LAYOUTS, MODES

VERSION = 1

LAYOUT_NAMES = {"nchw": "NCHW", "nhwc": "channels_last"}
MODE_NAMES = {"f32": "strict FP32", "tf32": "TF32", "f16": "FP16", "bf16": "BF16"}

_HEAD = (
    f"{'layer':14} {'mode':4} {'layout':6} {'PyTorch us':>11} {'convjit us':>11} {'speed':>6} {'floor us':>9} "
    f"{'x floor':>7} {'PyT x fl':>8} {'rms error':>9} {'PyT rms':>9} {'runs':>4}  schedule"
)


class BadResults(Exception):
    """A results file that cannot be used."""


def geometric_mean(values):
    values = list(values)
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))


def table_head():
    return _HEAD


def table_line(row):
    start = f"{row['layer']:14} {row['mode']:4} {row['layout']:6}"
    if "failed" in row:
        return f"{start} FAILED: {row['failed']}"
    line = (
        f"{start} {row['torch_us']:11.1f} {row['ours_us']:11.1f} {row['speed']:6.2f} {row['floor_us']:9.1f} "
        f"{row['ours_us'] / row['floor_us']:7.2f} {row['torch_us'] / row['floor_us']:8.2f} "
        f"{row['error']['ours']['rms']:9.1e} {row['error']['torch']['rms']:9.1e} {row['runs']:4}  "
        f"{row['schedule'].split(':')[0]}"
    )
    if "packed_us" in row:
        line += f"  packed {row['packed_us']:.1f} us"
    if "ours_host_us" in row:
        line += f"  host {row['ours_host_us']:.1f} us, PyTorch {row['torch_host_us']:.1f} us"
    return line + (f"  WRONG: {row['wrong']}" if row["wrong"] else "")


def measured(rows):
    return [row for row in rows if "failed" not in row]


def groups(rows):
    """(mode, layout, rows that were measured) for each combination that occurs"""
    for mode in MODES:
        for layout in LAYOUTS:
            group = [row for row in measured(rows) if (row["mode"], row["layout"]) == (mode, layout)]
            if group:
                yield mode, layout, group


def summary(rows, recorded=None):
    """Geometric means for each mode and layout, as lines. recorded: {(layer, mode, layout): microseconds} that PyTorch
    took on the machine of h200_pytorch.csv; a last column then tells whether PyTorch is as fast here."""
    lines = [
        f"{'geometric mean':20} {'layers':>6} {'speed':>6} {'behind':>6} {'x floor':>7} {'PyT x fl':>8}"
        + (f" {'PyT here/recorded':>17}" if recorded else "")
    ]
    for mode, layout, group in groups(rows):
        line = (
            f"{mode + ' ' + LAYOUT_NAMES[layout]:20} {len(group):6} {geometric_mean(r['speed'] for r in group):6.2f} "
            f"{sum(r['speed'] < 1 for r in group):6} "
            f"{geometric_mean(r['ours_us'] / r['floor_us'] for r in group):7.2f} "
            f"{geometric_mean(r['torch_us'] / r['floor_us'] for r in group):8.2f}"
        )
        known = (
            [r["torch_us"] / recorded[key] for r in group if (key := (r["layer"], mode, layout)) in recorded]
            if recorded
            else []
        )
        lines.append(line + (f" {geometric_mean(known):17.2f}" if known else ""))
    return lines


def read_recorded(path):
    """{(layer, mode, layout): microseconds} of a file such as h200_pytorch.csv"""
    recorded = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for mode in MODES:
                column = {"f32": "fp32", "f16": "fp16"}.get(mode, mode)
                for layout in LAYOUTS:
                    recorded[row["name"], mode, layout] = float(row[f"{column}_{layout}_us"])
    return recorded


def _finite(value):
    """The value with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_results(path, machine, ceilings, rows):
    """Writes everything as JSON; a reader never sees half a file."""
    results = {"version": VERSION, "machine": machine, "ceilings": ceilings, "rows": rows}
    text = json.dumps(_finite(results), indent=1, allow_nan=False)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    os.replace(temporary, path)


def read_results(path):
    with open(path, encoding="utf-8") as file:
        try:
            results = json.load(file)
        except json.JSONDecodeError as error:
            raise BadResults(f"{path}:{error.lineno}:{error.colno}: {error.msg}") from None
    if not isinstance(results, dict) or not isinstance(results.get("rows"), list):
        raise BadResults(f"{path}: not a results file of this benchmark")
    if results.get("version") != VERSION:
        raise BadResults(f"{path}: version {results.get('version')} of the file format; this program reads {VERSION}")
    return results
