"""The benchmark's chart: how fast convjit is beside PyTorch, layer by layer; a panel for each math mode."""

import math

from layers import MODES
from report import LAYOUT_NAMES, MODE_NAMES, geometric_mean, groups

_COLOURS = {"nchw": "#0072b2", "nhwc": "#e69f00"}  # told apart by the colour-blind, and in print


class NothingToDraw(Exception):
    """No row was measured."""


def _ticks(lowest, highest):
    """powers of two around the values"""
    return [2.0**e for e in range(math.floor(math.log2(lowest)), math.ceil(math.log2(highest)) + 1)]


def _label(tick):
    return f"{tick:g}x" if tick >= 1 else f"1/{1 / tick:g}"


def draw(results, path):
    """Writes the chart of a results file's content (report.read_results) as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = list(groups(results["rows"]))
    if not found:
        raise NothingToDraw("no row was measured: nothing to draw")
    names = list(dict.fromkeys(row["layer"] for row in results["rows"]))
    modes = [mode for mode in MODES if any(mode == m for m, _, _ in found)]
    speeds = [row["speed"] for _, _, group in found for row in group]
    ticks = _ticks(min(speeds + [0.5]), max([2 * speed for speed in speeds] + [8.0]))  # far floors may be out of view

    figure, axes = plt.subplots(
        len(modes), 1, sharex=True, squeeze=False, figsize=(max(5.0, 1.6 + 0.36 * len(names)), 1.4 + 2.5 * len(modes))
    )
    for axis, mode in zip(axes[:, 0], modes):
        panel = [(layout, group) for m, layout, group in found if m == mode]
        _panel(axis, names, panel)
        means = ", ".join(
            f"{LAYOUT_NAMES[layout]} {geometric_mean(row['speed'] for row in group):.2f}x" for layout, group in panel
        )
        axis.set_title(f"{MODE_NAMES[mode]}: geometric mean {means}", fontsize=10, loc="left")
        axis.set_yscale("log", base=2)
        axis.set_ylim(ticks[0], ticks[-1])
        axis.set_yticks(ticks, [_label(tick) for tick in ticks], fontsize=8)
        axis.minorticks_off()
    last = axes[-1, 0]
    last.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    machine = results.get("machine", {})
    about = ", ".join(str(machine[key]) for key in ("gpu", "torch", "cudnn") if machine.get(key))
    figure.suptitle(
        "Speed of convjit relative to PyTorch (higher is better)" + (f"\n{about}" if about else ""), fontsize=11
    )
    figure.tight_layout()
    figure.legend(*_legend(axes[:, 0]), fontsize=8, loc="upper right", frameon=False)
    figure.savefig(path, dpi=130, format="png")
    plt.close(figure)


def _legend(axes):
    """handles and labels, each label once"""
    entries = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    return list(entries.values()), list(entries)


def _panel(axis, names, panel):
    """Bars of each layout from the line at 1 (as fast as PyTorch), and a mark at the floor."""
    width = 0.8 / len(panel)
    for i, (layout, group) in enumerate(panel):
        places = [names.index(row["layer"]) + (i - (len(panel) - 1) / 2) * width for row in group]
        speeds = [row["speed"] for row in group]
        axis.bar(
            places,
            [speed - 1 for speed in speeds],
            width,
            bottom=1,
            color=_COLOURS[layout],
            label=LAYOUT_NAMES[layout],
            zorder=2,
        )
        floors = [row["torch_us"] / row["floor_us"] for row in group]
        axis.scatter(
            places, floors, marker="_", s=30, color="0.35", linewidths=1, zorder=3, label="floor of the hardware"
        )
    axis.axhline(1, color="black", linewidth=0.8, zorder=4)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.grid(axis="y", color="0.9", zorder=0)
    axis.set_ylabel("x PyTorch", fontsize=8)
