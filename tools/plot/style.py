"""Colours, markers and labels, the same in every figure.

Colours are those of Okabe and Ito, which the colour-blind tell apart. Every line has a marker and a dash
pattern of its own besides, for greyscale print: stages are solid with filled markers, peers dashed and grey
with hollow ones.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tools.results import write_bytes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#5E3C99")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
PEER_LABELS = {
    "torch_fa2": "FA2 (PyTorch)",
    "torch_cudnn": "cuDNN (PyTorch)",
    "torch_efficient": "mem.-efficient (PyTorch)",
    "torch_math": "math (PyTorch)",
    "flex": "FlexAttention",
}
PEER_STYLES = {
    "torch_fa2": ("#000000", (0, (6, 2)), "o"),
    "torch_cudnn": ("#555555", (0, (4, 1.5, 1, 1.5)), "s"),
    "torch_efficient": ("#888888", (0, (1, 1.2)), "^"),
    "torch_math": ("#888888", (0, (3, 3)), "X"),
    "flex": ("#555555", (0, (8, 2, 1, 2, 1, 2)), "D"),
}
SETTINGS = {
    "svg.hashsalt": "plots",  # the same ids every time: a plot that did not change does not change its file
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.8,
}


def label(name: str) -> str:
    """What a reader sees for a record's name: "s13 triton tuned", "FA2 (PyTorch)"."""
    return PEER_LABELS.get(name, name.replace("_", " "))


def short(name: str) -> str:
    """As `label`, as short as it gets: "s13", "FA2"."""
    return PEER_LABELS[name].partition(" (")[0] if name in PEER_LABELS else name.partition("_")[0]


def line_style(name: str, stages: list[str]) -> dict:
    """Arguments of `plot` for one name; `stages`: all stages of the figure, in order, so that none share a
    style."""
    if name in PEER_STYLES:
        colour, dashes, marker = PEER_STYLES[name]
        own = {
            "color": colour,
            "linestyle": dashes,
            "marker": marker,
            "markerfacecolor": "white",
            "linewidth": 1.2,
        }
        return own | {"zorder": 2, "markersize": 4.5}
    i = stages.index(name)
    colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
    return {
        "color": colour,
        "linestyle": "-",
        "marker": marker,
        "linewidth": 1.8,
        "zorder": 3,
        "markersize": 5.5,
    }


def figure(width: float, height: float, title: str, subtitle: str, footer: str = "") -> Figure:
    """A figure of so many inches, with its title, a subtitle (where and when it was measured) and a
    footer."""
    fig = Figure(figsize=(width, height), facecolor="white")
    fig.text(0.12 / width, 1 - 0.1 / height, title, fontsize=13, fontweight="bold", va="top")
    fig.text(0.12 / width, 1 - 0.36 / height, subtitle, fontsize=10, color="#444444", va="top")
    fig.text(0.12 / width, 0.08 / height, footer, fontsize=9, color="#444444", va="bottom")
    top, bottom = 1 - 0.62 / height, 0.3 / height if footer else 0
    fig.set_layout_engine("constrained", rect=(0, bottom, 1, top - bottom))
    return fig


def length_axis(ax, lengths: list[int], room: float = 1.0) -> None:
    """A logarithmic axis of sequence lengths with those lengths as its ticks.

    room: how many times the last length the axis goes on, for labels at the lines' ends.
    """
    ax.set_xscale("log", base=2)
    ax.set_xlim(lengths[0] / 1.12, lengths[-1] * max(room, 1.12))
    ax.xaxis.set_major_locator(FixedLocator(lengths))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n / 1024:g}k" if n >= 1024 else f"{n:g}"))
    ax.set_xlabel("sequence length")


def label_ends(fig: Figure, panels: Sequence[tuple], merge: bool = False) -> None:
    """Write each line's name behind its last point, moved apart where they would overlap.

    panels: (axes, ends), an end being (x, y, text, colour). The axis limits have to be final.
    merge: the names of points that coincide are written together, in black.
    """
    fig.draw_without_rendering()  # settles the layout, and with it where a point lies
    for ax, ends in panels:
        _label(ax, ends, merge)


def _label(ax, ends: Sequence[tuple[float, float, str, str]], merge: bool) -> None:
    points = 72 / ax.figure.dpi
    groups: list[list] = []  # of (px, py, x, y, text, colour); px, py in points
    for x, y, text, colour in sorted(ends, key=lambda end: end[1]):
        px, py = ax.transData.transform((x, y)) * points
        if merge and groups and py - groups[-1][-1][1] < 2.5:
            groups[-1].append((px, py, x, y, text, colour))
        else:
            groups.append([(px, py, x, y, text, colour)])
    if not groups:
        return
    texts = [textwrap.fill(", ".join(point[4] for point in group), 24) for group in groups]
    sizes = [12.0 * (1 + text.count("\n")) for text in texts]
    low, high = (edge * points for edge in ax.bbox.intervaly)
    heights = apart([group[0][1] for group in groups], sizes, low, high)
    right = max(group[0][0] for group in groups)
    for group, text, height in zip(groups, texts, heights, strict=True):
        px, py, x, y, _, colour = group[0]
        moved = abs(height - py) > 3 or right - px > 1
        colour = colour if len(group) == 1 else "black"
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
        ax.annotate(
            text, (x, y), xytext=(right - px + 12, height - py), textcoords="offset points", va="center",
            fontsize=9, color=colour, annotation_clip=False, arrowprops=line if moved else None,
        ).set_in_layout(False)  # fmt: skip


def apart(centres: list[float], sizes: list[float], low: float, high: float) -> list[float]:
    """Ascending centres of labels of these sizes, moved as little as makes none overlap; between low and
    high if they fit."""
    offsets = [0.0]
    for size, following in zip(sizes, sizes[1:], strict=False):
        offsets.append(offsets[-1] + (size + following) / 2)
    # Without the offsets they only have to ascend: the nearest such sequence, by pooling neighbours that do
    # not.
    pools: list[list[float]] = []
    for centre, offset in zip(centres, offsets, strict=True):
        pools.append([centre - offset])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    bottom, top = low + sizes[0] / 2, high - sizes[-1] / 2 - offsets[-1]
    placed = [max(bottom, min(_mean(pool), max(top, bottom))) for pool in pools for _ in pool]
    return [position + offset for position, offset in zip(placed, offsets, strict=True)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


FORMATS = (
    ("png", {"metadata": {"Software": None}, "dpi": 150}),
    ("svg", {"metadata": {"Date": None, "Creator": None}}),
)


def save(fig: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name`.png and `name`.svg, each whole or not at all; the same figure gives the same bytes."""
    written = []
    for suffix, options in FORMATS:
        drawn = io.BytesIO()
        with matplotlib.rc_context(SETTINGS):
            fig.savefig(drawn, format=suffix, **options)
        path = folder / f"{name}.{suffix}"
        write_bytes(path, drawn.getvalue())
        written.append(path)
    return written
