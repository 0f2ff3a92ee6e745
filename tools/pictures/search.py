"""What tools.autotune did with every configuration of a stage, and how fast the measured ones were; from its table.

draw("s31", table("NVIDIA H200"))
"""

from __future__ import annotations

from collections import Counter

from stages import get
from stages.common.tiles import Tiles, table_file
from tools.autotune import space
from tools.autotune.table import Table, load
from tools.pictures import canvas
from tools.plot import style

SEQLEN = "1024"  # at which all are timed
FATES = {  # what becomes of a configuration, and how its reasons are called in the table
    "does not fit": ("warps", "mma", "copies", "buffers", "shared memory", "registers"),
    "spills": ("spill", "compiler"),
    "same code": ("same",),
    "lost": ("lost the GPU",),
}


def table(device: str) -> Table:
    """What was recorded for a device, by its name. Raises ResultsError if nothing was."""
    return load(table_file(device))


def parts(stage: str) -> list[space.Part]:
    return space.parts([get(stage)], None, (False, True))


def fates(part: space.Part, of: Table) -> dict[str, int]:
    """How many configurations ended how; "measured": that were timed."""
    (dropped,) = of.of(part, "dropped")
    known = Counter()
    for fate, reasons in FATES.items():
        known[fate] = sum(dropped["by"].get(reason, 0) for reason in reasons)
    unknown = set(dropped["by"]) - {reason for reasons in FATES.values() for reason in reasons}
    if unknown:
        raise ValueError(f"{part}: dropped by {', '.join(sorted(unknown))}; accepted: the reasons of FATES")
    return {**known, "measured": len(of.of(part, "candidates"))}


def speeds(part: space.Part, of: Table, seqlen: str = SEQLEN) -> dict[Tiles, float]:
    """TFLOP/s of each configuration that was timed at that length."""
    timed = ((Tiles(**one["tiles"]), one["tflops"].get(seqlen)) for one in of.of(part, "candidates"))
    return {tiles: tflops for tiles, tflops in timed if tflops is not None}


def choice(part: space.Part, of: Table) -> Tiles:
    (chosen,) = of.of(part, "chosen")
    return Tiles(**chosen["tiles"])


@canvas.in_style
def draw(stage: str, of: Table) -> canvas.Picture:
    """Left, the fates of all configurations; right, TFLOP/s at SEQLEN of those that were timed."""
    there = parts(stage)
    counts = [fates(part, of) for part in there]
    names = [f"d{part.headdim}{', causal' if part.causal else ''}" for part in there]
    alt = f"What became of the configurations of {stage}. " + " ".join(
        f"{name}: " + ", ".join(f"{number} {fate}" for fate, number in count.items() if number) + "."
        for name, count in zip(names, counts, strict=True)
    )
    where = f"{of.environment['device']}, bf16, {of.environment['date'][:10]}"
    fig = canvas.picture(
        3.6,
        f"{stage}: what became of the configurations",
        f"{where}. Right: a dot is a configuration, timed at length {SEQLEN}; the ring is the default, the large dot "
        "what was chosen, for this and longer lengths together.",
        alt,
    )
    left, right = fig.subplots(1, 2, width_ratios=(1.15, 1), sharey=True)
    _bars(left, counts)
    _dots(right, there, of)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
    return fig


def _bars(ax, counts: list[dict[str, int]]) -> None:
    colours = (canvas.GREY, style.COLOURS[1], style.COLOURS[4], "black", style.COLOURS[0])
    for i, (fate, colour) in enumerate(zip(counts[0], colours, strict=True)):
        starts = [sum(list(count.values())[:i]) for count in counts]
        numbers = [count[fate] for count in counts]
        if not any(numbers):
            continue
        ax.barh(range(len(counts)), numbers, left=starts, color=colour, edgecolor="white", height=0.62, label=fate)
    ax.set_xlabel("configurations")
    ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8.5)


def _dots(ax, there: list[space.Part], of: Table) -> None:
    for y, part in enumerate(there):
        timed = speeds(part, of)
        spread = [y + 0.12 * (i % 5 - 2) for i in range(len(timed))]  # so that fewer dots cover each other
        ax.plot(list(timed.values()), spread, "o", markersize=3, color=canvas.tint(style.COLOURS[0], 0.6), zorder=2)
        default, chosen = timed.get(part.default), timed.get(choice(part, of))
        if default is not None:
            ax.plot([default], [y], "o", markersize=9, markerfacecolor="none", markeredgecolor="black", zorder=3)
        if chosen is not None:
            ax.plot([chosen], [y], "o", markersize=6, color=style.COLOURS[1], zorder=4)
    ax.set_xlim(left=0)
    ax.set_xlabel("TFLOP/s")
