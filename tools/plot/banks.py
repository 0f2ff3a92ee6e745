"""Bank conflicts as a picture: the lanes of one instruction against the 32 banks of shared memory."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tools.emulator.banks import BANKS, Picture
from tools.plot import style

GAP = 0.8  # rows between two passes


def chart(made: Sequence[Picture]) -> Figure:
    """A column a kernel: above, the banks of every lane's words; below, how many words each bank is asked for."""
    rows = max(sum(len(one.lanes) for one in p.trace.passes) + GAP * (len(p.trace.passes) - 1) for p in made)
    most = max(n for p in made for one in p.trace.passes for n in p.wanted(one))
    first = made[0]
    fig = style.figure(
        max(7.0, 5.9 * len(made)),
        3.1 + 0.17 * rows,
        f"Bank conflicts of one {first.trace.op}",
        f"As the emulator ran it, head dim {first.headdim}. Each lane wants {first.trace.bytes_per_lane} bytes; a pass "
        "serves lanes that together want at most 128.",
        "A bank hands out one word of 4 bytes at a time: a pass takes as many wavefronts as words of one bank.",
    )
    axes = fig.subplots(2, len(made), squeeze=False, height_ratios=[0.17 * rows, 1.1])
    for p, (lanes, words) in zip(made, axes.T, strict=True):
        _lanes(lanes, p, rows)
        _words(words, p, most)
    return fig


def _lanes(ax, made: Picture, rows: float) -> None:
    y = 0.0
    ticks = []
    for i, one in enumerate(made.trace.passes):
        colour = style.COLOURS[i % len(style.COLOURS)]
        cells = made.cells(one)
        ax.add_patch(Rectangle((0, y), BANKS, len(cells), facecolor="#F4F4F4", edgecolor="none", zorder=0))
        for row, (lane, banks) in enumerate(cells):
            for bank in banks:
                ax.add_patch(Rectangle((bank, y + row), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.5))
            ticks.append((y + row + 0.5, lane))
        said = f"{one.wavefronts} wavefront" + ("s" if one.wavefronts > 1 else "")
        ax.text(
            BANKS + 0.7, y + len(cells) / 2, f"pass {i}:\n{said}", va="center", fontsize=10,
            fontweight="bold" if one.wavefronts > 1 else "normal",
        )  # fmt: skip
        y += len(cells) + GAP
    ax.set_title(f"{made.label}: {made.title}\n{made.wavefronts} wavefronts in all", loc="left", fontweight="bold")
    ax.set_xlim(0, BANKS)
    ax.set_ylim(rows, 0)
    ax.set_xticks([bank + 0.5 for bank in range(0, BANKS, 4)], [])
    step = 1 if len(ticks) <= 16 else 2
    ax.set_yticks([place for place, _ in ticks][::step], [str(lane) for _, lane in ticks][::step])
    ax.tick_params(length=0)
    ax.set_ylabel("lane")
    ax.grid(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def _words(ax, made: Picture, most: int) -> None:
    """The words of the first pass; the others' look alike."""
    ax.bar([bank + 0.5 for bank in range(BANKS)], made.wanted(made.trace.passes[0]), width=0.86, color=style.COLOURS[0])
    ax.set_xlim(0, BANKS)
    ax.set_ylim(0, most * 1.1)
    ax.set_xticks([bank + 0.5 for bank in range(0, BANKS, 4)], [str(bank) for bank in range(0, BANKS, 4)])
    ax.set_yticks(sorted({1, most}))
    ax.set_xlabel("bank")
    ax.set_ylabel("words\nin pass 0")
    ax.grid(axis="x", visible=False)
