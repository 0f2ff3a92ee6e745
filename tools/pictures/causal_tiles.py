"""Which tiles a causal mask skips, leaves whole and cuts (s25), and in which order the work that is left is done (s32).

The mask is aligned bottom-right: key j is visible to query i iff j <= i + seqlen_k - seqlen_q.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tools.pictures import canvas
from tools.plot import style

SKIPPED, FULL, MASKED = 0, 1, 2
NAMES = {SKIPPED: "skipped", FULL: "full", MASKED: "masked"}
ORDERS = {"s31": "tile by tile of a head, then the next head", "s32": "the last tile of all heads first"}


def classes(seqlen_q: int, seqlen_k: int, Br: int, Bc: int, causal: bool = True) -> np.ndarray:
    """[Q tiles, K/V tiles] of SKIPPED, FULL and MASKED, by the two bounds that s25 computes for a Q tile.

    Raises ValueError for sizes below 1.
    """
    for name, size in {"seqlen_q": seqlen_q, "seqlen_k": seqlen_k, "Br": Br, "Bc": Bc}.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; accepted: 1 or more")
    shift = seqlen_k - seqlen_q
    made = np.full((-(-seqlen_q // Br), -(-seqlen_k // Bc)), SKIPPED)
    for i, first_row in enumerate(range(0, seqlen_q, Br)):
        last_key = min(seqlen_k, first_row + Br + shift) if causal else seqlen_k  # one past what the last row sees
        every_row_sees = min(seqlen_k, first_row + 1 + shift) if causal else seqlen_k  # as many keys as the first row
        made[i, : -(-max(last_key, 0) // Bc)] = MASKED
        made[i, : max(every_row_sees, 0) // Bc] = FULL
    return made


def counts(made: np.ndarray) -> dict[int, int]:
    """How many tiles of each class."""
    return {kind: int((made == kind).sum()) for kind in NAMES}


def work(made: np.ndarray) -> np.ndarray:
    """[Q tiles]: how many K/V tiles each has to walk."""
    return (made != SKIPPED).sum(axis=1)


@dataclass(frozen=True)
class Job:
    """A block: Q tile `tile` of head `head`, on slot `slot` from `start` to `end`, in K/V tiles."""

    head: int
    tile: int
    slot: int
    start: float
    end: float


def launched(order: str, tiles: int, heads: int) -> list[tuple[int, int]]:
    """(head, Q tile) in the order in which blocks start. Raises ValueError for an order other than ORDERS."""
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; accepted: {', '.join(ORDERS)}")
    if order == "s31":
        return [(head, tile) for head in range(heads) for tile in range(tiles)]
    return [(head, tile) for tile in reversed(range(tiles)) for head in range(heads)]


def schedule(order: str, of_tile: Sequence[float], heads: int, slots: int, fixed: float = 0.0) -> list[Job]:
    """List scheduling: each block goes, in the order of the launch, to the slot that is free first.

    of_tile: K/V tiles that each Q tile walks; heads: of all batches; slots: how many blocks the chip holds at once;
    fixed: what a block takes besides, in K/V tiles. Raises ValueError for no heads or slots, and negative times.
    """
    for name, size in {"heads": heads, "slots": slots}.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; accepted: 1 or more")
    if fixed < 0 or min(of_tile) < 0:
        raise ValueError(f"fixed is {fixed}, the least of of_tile {min(of_tile)}; accepted: 0 or more")
    free = [(0.0, slot) for slot in range(slots)]
    jobs = []
    for head, tile in launched(order, len(of_tile), heads):
        start, slot = heapq.heappop(free)
        jobs.append(Job(head, tile, slot, start, start + float(of_tile[tile]) + fixed))
        heapq.heappush(free, (jobs[-1].end, slot))
    return jobs


def ends(jobs: Sequence[Job]) -> float:
    """When the last one ends."""
    return max(job.end for job in jobs)


LOOKS = {SKIPPED: (canvas.PALE, ""), FULL: (style.COLOURS[0], ""), MASKED: (style.COLOURS[4], "////")}
MOST_TILES = 40  # either way: smaller cells cannot be seen


@canvas.in_style
def draw(
    seqlen_q: int = 512, seqlen_k: int = 640, *, Br: int = 64, Bc: int = 64, causal: bool = True
) -> canvas.Picture:  # fmt: skip
    """The tiles with their classes over the mask's edge, and beside them how many tiles each Q tile walks.

    Raises ValueError as `classes`, and for more than MOST_TILES either way.
    """
    made = classes(seqlen_q, seqlen_k, Br, Bc, causal)
    rows, columns = made.shape
    if max(rows, columns) > MOST_TILES:
        raise ValueError(f"there are {rows} × {columns} tiles; accepted: at most {MOST_TILES} either way")
    number, todo = counts(made), work(made)
    rule = ", causal: key j is visible to query i iff j ≤ i + seqlen_k − seqlen_q" if causal else ""
    fig = canvas.picture(
        1.75 + max(2.2, min(4.6, 5.1 * seqlen_q / seqlen_k)),
        "Tiles under a causal mask" if causal else "Tiles without a causal mask",
        f"{seqlen_q} queries, {seqlen_k} keys{rule}. Tiles of {Br} × {Bc}; black: the last key that a query sees.",
        f"A grid of {rows} Q tiles and {columns} K/V tiles: {number[SKIPPED]} are skipped, {number[FULL]} full and "
        f"{number[MASKED]} masked. Bars beside it: the Q tiles walk {', '.join(map(str, todo))} K/V tiles.",
        "Skipped: no row sees a key of it. Full: every row sees every key. Masked: the rest, at the edge and at a "
        "ragged end. "
        f"{number[FULL] + number[MASKED]} of {made.size} tiles are worked on.",
    )
    ax, bars = fig.subplots(1, 2, width_ratios=[4, 1.15], sharey=True)
    canvas.bare(ax)
    for (i, j), kind in np.ndenumerate(made):
        colour, hatch = LOOKS[int(kind)]
        size = min(Bc, seqlen_k - j * Bc), min(Br, seqlen_q - i * Br)
        ax.add_patch(
            canvas.Rectangle(
                (j * Bc, i * Br), *size, facecolor=canvas.tint(colour, 0.55) if hatch or kind == FULL else colour,
                hatch=hatch, edgecolor="#555555", linewidth=0.5, zorder=2,
            )
        )  # fmt: skip
    if causal:
        first, shift = (
            max(0, seqlen_q - seqlen_k),
            seqlen_k - seqlen_q,
        )  # first: row that sees a key
        i = np.arange(first, seqlen_q)
        edge = np.stack([i + shift + 1, i + shift + 1], 1).ravel(), np.stack([i, i + 1], 1).ravel()
        if seqlen_q > 64:  # the steps are too small to be seen
            edge = (first + shift + 0.5, seqlen_k), (first, seqlen_q)
        ax.plot(*edge, color="black", linewidth=1.6, zorder=3)
    ax.set_xlim(-0.005 * seqlen_k, 1.005 * seqlen_k)
    ax.set_ylim(1.005 * seqlen_q, -0.005 * seqlen_q)
    every = max(1, -(-columns // 10)), max(1, -(-rows // 10))
    ax.set_xticks([j * Bc for j in range(0, columns, every[0])])
    ax.set_yticks([i * Br for i in range(0, rows, every[1])])
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("key")
    ax.set_ylabel("query")
    handles = [
        canvas.Rectangle((0, 0), 1, 1, facecolor=canvas.tint(c, 0.55) if k else c, hatch=h, edgecolor="#555555")
        for k, (c, h) in LOOKS.items()
    ]
    ax.legend(
        handles, [f"{number[k]} {name}" for k, name in NAMES.items()], loc="upper left", bbox_to_anchor=(-0.01, 0.0),
        ncols=3, frameon=False, handlelength=1.4,
    )  # fmt: skip
    _work(bars, made, Br, seqlen_q)
    return fig


def _work(ax, made: np.ndarray, Br: int, seqlen_q: int) -> None:
    heights = [min(Br, seqlen_q - i * Br) for i in range(len(made))]
    centres = [i * Br + height / 2 for i, height in enumerate(heights)]
    left = np.zeros(len(made))
    for kind in (FULL, MASKED):
        colour, hatch = LOOKS[kind]
        n = (made == kind).sum(axis=1)
        ax.barh(
            centres, n, left=left, height=[0.8 * height for height in heights], facecolor=canvas.tint(colour, 0.55),
            hatch=hatch, edgecolor="#555555", linewidth=0.5, zorder=2,
        )  # fmt: skip
        left += n
    if len(made) <= 16:
        for centre, n in zip(centres, left):
            ax.text(n + 0.02 * max(left.max(), 1), centre, f"{n:.0f}", va="center", fontsize=8.5)
    ax.set_xlim(0, 1.2 * max(left.max(), 1))
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("K/V tiles to walk")
    ax.grid(axis="y", visible=False)
    ax.spines["bottom"].set_visible(False)


@canvas.in_style
def draw_schedule(
    seqlen: int = 1024, *, Br: int = 128, Bc: int = 64, heads: int = 6, slots: int = 8, fixed: float = 0.0
) -> canvas.Picture:  # fmt: skip
    """Which slot works on which Q tile when, in the order of s31 and in that of s32, as list scheduling has it.

    Raises ValueError as `classes` and `schedule`.
    """
    of_tile = work(classes(seqlen, seqlen, Br, Bc))
    plans = {order: schedule(order, of_tile, heads, slots, fixed) for order in ORDERS}
    ideal = (float(of_tile.sum()) + fixed * len(of_tile)) * heads / slots
    besides = f", and {fixed:g} more a block" if fixed else ""
    fig = canvas.picture(
        1.55 + 2 * (0.62 + 0.17 * slots),
        "Who works on which Q tile when",
        f"{heads} heads of {seqlen}, causal, tiles of {Br} × {Bc}, {slots} slots for blocks. A model: a block takes "
        "as long "
        f"as the K/V tiles that it walks{besides}, and the next goes where a slot is free first. Number and shade: "
        "the Q tile.",
        "Two schedules of blocks on slots: "
        + "; ".join(f"in the order of {order} the last block ends at {ends(jobs):g}" for order, jobs in plans.items())
        + f"; without idle slots it would be {ideal:g}.",
        f"Dashed: all the work shared evenly, {ideal:.4g} K/V tiles a slot.",
    )
    last = max(map(ends, plans.values()))
    axes = fig.subplots(2, 1, sharex=True)
    for ax, (order, jobs) in zip(axes, plans.items(), strict=True):
        for job in jobs:
            share = 0.12 + 0.8 * job.tile / max(1, len(of_tile) - 1)
            colour = canvas.tint(style.COLOURS[0], share)
            ax.add_patch(
                canvas.Rectangle(
                    (job.start, job.slot + 0.06), job.end - job.start, 0.88, facecolor=colour, edgecolor="white",
                    linewidth=0.6, zorder=2,
                )
            )  # fmt: skip
            if job.end - job.start >= 0.022 * last:
                ax.text(
                    (job.start + job.end) / 2, job.slot + 0.52, str(job.tile), ha="center", va="center", fontsize=8,
                    color=canvas.ink(colour), zorder=3,
                )  # fmt: skip
        ax.axvline(ideal, color="black", linewidth=1.2, linestyle=(0, (4, 2)), zorder=4)
        ax.set_xlim(0, 1.02 * last)
        ax.set_ylim(slots + 0.05, 0)
        ax.set_yticks([])
        ax.set_ylabel("slots")
        ax.set_facecolor("#F7F7F7")
        ax.grid(axis="y", visible=False)
        idle = 1 - ideal / ends(jobs) if ends(jobs) else 0.0
        ax.set_title(
            f"{order}: {ORDERS[order]}. Ends at {ends(jobs):.4g}, {idle:.0%} idle", loc="left", fontsize=9.5
        )  # fmt: skip
    axes[-1].set_xlabel("time, in K/V tiles")
    return fig
