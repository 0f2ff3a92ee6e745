"""Who computes an element of S in the CUDA stages: from the grid to a block, a warp, a lane and its register.

    owner(row=137, key=21)        the block, warp, lane and register of that element, as s20 shares the work out
    draw(lane=5)

Tiles of 64 × 64, four warps, mma.m16n8k16, as in s20 to s30.
"""

from __future__ import annotations

from dataclasses import dataclass

from tools.pictures import canvas
from tools.plot import style

BR = BC = 64
WARPS, MMA_M, MMA_N = 4, 16, 8
LANES = 32


@dataclass(frozen=True)
class Owner:
    """block: along the grid's first axis, that of the Q tiles. tile: the K/V tile, in whose turn of the loop it is
    computed. accumulator: which of the warp's eight 16 × 8 pieces of S. register: 0 to 3."""

    block: int
    tile: int
    warp: int
    accumulator: int
    lane: int
    register: int


def owner(row: int, key: int) -> Owner:
    """Of S[row, key] of one head. Raises ValueError for a number below 0."""
    for name, number in (("row", row), ("key", key)):
        if number < 0:
            raise ValueError(f"{name} is {number}; accepted: 0 or more")
    in_warp, column = row % BR % MMA_M, key % MMA_N
    return Owner(
        block=row // BR,
        tile=key // BC,
        warp=row % BR // MMA_M,
        accumulator=key % BC // MMA_N,
        lane=in_warp % 8 * 4 + column // 2,
        register=in_warp // 8 * 2 + column % 2,
    )


PICKED = {"block": (1, 1), "warp": 2, "accumulator": 3}  # what the next panel shows in full


@canvas.in_style
def draw(*, lane: int = 5) -> canvas.Picture:
    """Four panels, each a part of the one before, enlarged: grid, block, warp, one accumulator; `lane` is framed there.

    Raises ValueError for a lane other than 0 to 31.
    """
    if lane not in range(LANES):
        raise ValueError(f"lane is {lane!r}; accepted: 0 to {LANES - 1}")
    own = [(i, j) for i in range(MMA_M) for j in range(MMA_N) if owner(i, j).lane == lane]
    fig = canvas.picture(
        4.3,
        "Who computes an element of S = QKᵀ",
        "Each panel shows the framed part of the one to its left. In the last, a cell is a pair of elements and the "
        f"lane that holds it; lane {lane} is framed.",
        "Four panels. A grid of blocks, one for each Q tile and head; one block's tile of S, 64 by 64, cut into four "
        "bands of 16 rows, one a warp; one warp's band, 16 by 64, cut into eight accumulators of 16 by 8; and one "
        f"accumulator with the lane of each element. Lane {lane} holds "
        + ", ".join(f"row {i} column {j}" for i, j in own)
        + ".",
    )
    axes = fig.subplots(1, 4, width_ratios=[1.25, 1.25, 1.5, 2.6])
    _grid(axes[0])
    _block(axes[1])
    _warp(axes[2])
    _accumulator(axes[3], lane)
    return fig


def _frame(ax, left: float, top: float, width: float, height: float) -> None:
    ax.add_patch(
        canvas.Rectangle((left, top), width, height, facecolor="none", edgecolor="black", linewidth=2, zorder=5)
    )


def _grid(ax) -> None:
    rows, columns = 4, 3
    canvas.cells(ax, rows, columns)
    for i in range(rows):
        for j in range(columns):
            shade = 0.8 if (i, j) == PICKED["block"] else 0.25
            canvas.cell(ax, j, i, f"{i},{j}", colour=canvas.tint(style.COLOURS[0], shade))
    i, j = PICKED["block"]
    _frame(ax, j, i, 1, 1)
    ax.set_title("grid\na block a Q tile\nand head", fontsize=9, loc="left")
    ax.set_yticks([i + 0.5 for i in range(rows)], [str(i) for i in range(rows)])
    ax.set_xticks([j + 0.5 for j in range(columns)], [str(j) for j in range(columns)])
    ax.set_ylabel("Q tile, 64 rows")
    ax.set_xlabel("head")


def _block(ax) -> None:
    canvas.cells(ax, WARPS, 1)
    ax.set_xlim(-0.02, 1.02)
    for warp in range(WARPS):
        shade = 0.8 if warp == PICKED["warp"] else 0.25
        canvas.cell(ax, 0, warp, f"warp {warp}", colour=canvas.tint(style.COLOURS[1], shade), fontsize=9)
    _frame(ax, 0, PICKED["warp"], 1, 1)
    ax.set_title("block\nfour warps,\n16 rows each", fontsize=9, loc="left")
    ax.set_yticks(range(WARPS + 1), [str(MMA_M * i) for i in range(WARPS + 1)])
    ax.set_xticks([0, 1], ["0", str(BC)])
    ax.set_xlabel("key of the tile")


def _warp(ax) -> None:
    count = BC // MMA_N
    canvas.cells(ax, 1, count)
    ax.set_ylim(1.01, -0.01)
    for n in range(count):
        shade = 0.8 if n == PICKED["accumulator"] else 0.25
        canvas.cell(ax, n, 0, str(n), colour=canvas.tint(style.COLOURS[2], shade), fontsize=9)
    _frame(ax, PICKED["accumulator"], 0, 1, 1)
    ax.set_title("warp\neight accumulators,\n16 × 8 each", fontsize=9, loc="left")
    ax.set_yticks([0, 1], ["0", str(MMA_M)])
    ax.set_xticks([0, count], ["0", str(BC)])
    ax.set_xlabel("key of the tile")


def _accumulator(ax, lane: int) -> None:
    canvas.cells(ax, MMA_M, MMA_N)
    for i in range(MMA_M):
        for j in range(0, MMA_N, 2):
            one = owner(i, j)
            own = one.lane == lane
            shade = 0.8 if own else 0.25 if i < 8 else 0.12
            canvas.cell(ax, j, i, str(one.lane), colour=canvas.tint(style.COLOURS[3], shade), size=(2, 1), frame=own)
    ax.set_title("accumulator\n32 lanes, four registers each:\nc0, c1 above and c2, c3 below", fontsize=9, loc="left")
    ax.set_yticks([i + 0.5 for i in range(MMA_M)], [str(i) for i in range(MMA_M)])
    ax.set_xticks([j + 0.5 for j in range(MMA_N)], [str(j) for j in range(MMA_N)])
    ax.set_ylabel("row")
    ax.set_xlabel("column")
