"""Devices beside each other: the same stages and peers on each, absolutely and against the device's own FA2."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from tools.plot import charts, style
from tools.plot.charts import Sheet

WANTED = ((128, False), (64, False), (128, True), (64, True))  # the first that all have is drawn


def names_of(sheets: Sequence[Sheet], labels: Sequence[str]) -> list[str]:
    """What each sheet is called: its label, and its day where two of one device would be called the same."""
    plain = [label or sheet.device for sheet, label in zip(sheets, labels, strict=True)]
    return [
        name if plain.count(name) == 1 else f"{name}, {sheet.environment['date'][:10]}"
        for name, sheet in zip(plain, sheets, strict=True)
    ]


def common(sheets: Sequence[Sheet]) -> tuple[tuple[int, bool], int, list[dict[str, float]]] | None:
    """((head dim, mask), length, TFLOP/s by name for each sheet): the first of WANTED, at the longest length, that all
    sheets have with something in common; None where they have nothing."""
    panels = [charts._newest(charts._main_dtype(sheet.gpu)) for sheet in sheets]
    for wanted in WANTED:
        found = [charts._of(records, *wanted) for records in panels]
        lengths = set.intersection(*({r["seqlen_q"] for r in records} for records in found))
        for length in sorted(lengths, reverse=True):
            speeds = [{r["name"]: r["tflops"] for r in records if r["seqlen_q"] == length} for records in found]
            if set.intersection(*map(set, speeds)):
                return wanted, length, speeds
    return None


def against_fa2(sheet: Sheet, headdim: int, causal: bool) -> dict[str, float]:
    """Percent of the device's own FA2, by name of a stage: as the ladder has it."""
    records = charts._of(charts._main_dtype(sheet.gpu), headdim, causal)
    return {name: percent for name, (percent, _) in charts._percentages(records, charts._stages(records)).items()}


def chart(sheets: Sequence[Sheet], labels: Sequence[str] = ()) -> Figure | None:
    """A row a stage or peer, a mark a device: TFLOP/s on the left, percent of its own FA2 on the right. None for fewer
    than two devices, or where they have no shape in common.

    labels: what a sheet is called, "" for its device.
    """
    sheets = [sheet for sheet in sheets if sheet.gpu]
    called = names_of(sheets, labels or [""] * len(sheets)) if sheets else []
    shared = common(sheets) if len(sheets) > 1 else None
    if shared is None:
        return None
    (headdim, causal), length, speeds = shared
    rows = charts._names([{"name": name} for name in dict.fromkeys(name for made in speeds for name in made)])
    title = f"Devices side by side: head dim {headdim}, {charts._mask(causal)}"
    dtypes = ", ".join(dict.fromkeys(charts._main_dtype(sheet.gpu)[0]["dtype"] for sheet in sheets))
    days = "; ".join(f"{name}: {sheet.environment['date'][:10]}" for name, sheet in zip(called, sheets, strict=True))
    fig = style.figure(
        11.0, 1.9 + 0.3 * len(rows) + 0.2 * len(sheets), title, f"{dtypes}. {days}",
        "Right: the harmonic mean over the lengths from 1k that a device has, against FA2 of that device's own run.",
    )  # fmt: skip
    left, right = fig.subplots(1, 2, sharey=True)
    percents = [against_fa2(sheet, headdim, causal) for sheet in sheets]
    for number, name in enumerate(called):
        mark = {
            "color": style.COLOURS[number % len(style.COLOURS)], "marker": style.MARKERS[number % len(style.MARKERS)],
            "linestyle": "none", "markersize": 6.5, "zorder": 3,
            "markerfacecolor": "white" if number % 2 else style.COLOURS[number % len(style.COLOURS)],
        }  # fmt: skip
        for ax, values in ((left, speeds[number]), (right, percents[number])):
            places = [(values[row], i) for i, row in enumerate(rows) if row in values]
            ax.plot([x for x, _ in places], [y for _, y in places], label=name, **mark)
    for ax, values in ((left, speeds), (right, percents)):
        for i, row in enumerate(rows):  # a thin line from device to device
            there = [made[row] for made in values if row in made]
            if there:
                ax.plot([min(there), max(there)], [i, i], color="#BBBBBB", linewidth=1.2, zorder=2)
        ax.set_xlim(left=0)
        ax.grid(axis="y", color="#F0F0F0")
    left.set_yticks(range(len(rows)), [style.label(row) for row in rows])
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_title(f"TFLOP/s at length {length}", loc="left")
    right.axvline(100, color="black", linewidth=1, linestyle=(0, (6, 2)), zorder=1)
    right.set_title("% of the device's own FA2", loc="left")
    right.legend(loc="lower right")  # peers have no row there
    return fig
