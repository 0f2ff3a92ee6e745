"""Where the elements of matrix fragments lie: mma.m16n8k16's A, B and C, placed as in C = A·B, and ldmatrix."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tools.emulator.fragments import AXES, Fragment
from tools.plot import style

TINTS = ("#CFE3F3", "#FBDCC4", "#C9EBDD", "#F2DDE9")  # of the registers, light enough for black text


def chart(fragments: dict[str, Fragment], loads: tuple[Fragment, Fragment], lane: int) -> Figure:
    """fragments: A, B and C; loads: of ldmatrix without and with .trans; lane: the one whose elements are framed."""
    fig = style.figure(
        11.6,
        9.6,
        "Which lane holds which element: mma.m16n8k16 and ldmatrix",
        "As the emulator's instructions put them. Each cell: lane, register; a cell of two is one register.",
        f"Framed: what lane {lane} holds. Two C side by side, packed to 16 bits, lie as an A does.",
    )
    whole = fig.add_gridspec(2, 2, width_ratios=[16.5, 8])
    top = whole[0, 0].subgridspec(1, 2)
    for i, load in enumerate(loads):
        ax = fig.add_subplot(top[0, i])
        _matrix(ax, load, lane, height=8)
        ax.set_title(f"{load.name}: one of four 8 × 8 matrices", loc="left")
        ax.set_ylabel("row, at the address that this lane gives" if i == 0 else "")
        ax.set_xlabel("element of the row")
        ax.set_aspect(0.82)
    for name, place in (("A", whole[1, 0]), ("B", whole[0, 1]), ("C", whole[1, 1])):
        rows, columns = AXES[name]
        ax = fig.add_subplot(place)
        _matrix(ax, fragments[name], lane)
        ax.set_title(f"{name}: {rows} down, {columns} across", loc="left")
    return fig


def _matrix(ax, fragment: Fragment, lane: int, height: int | None = None) -> None:
    rows, columns = height or fragment.shape[0], fragment.shape[1]
    cells: dict[tuple[int, int], list[tuple[int, int]]] = {}  # by lane and register
    for place in np.ndindex(rows, columns):
        cells.setdefault((int(fragment.lane[place]), int(fragment.register[place])), []).append(place)
    for (holder, register), elements in cells.items():
        top, left = min(r for r, _ in elements), min(c for _, c in elements)
        size = max(c for _, c in elements) - left + 1, max(r for r, _ in elements) - top + 1
        mine = holder == lane
        ax.add_patch(
            Rectangle(
                (left, top), *size, facecolor=TINTS[register % len(TINTS)], edgecolor="black" if mine else "white",
                linewidth=2 if mine else 0.8, zorder=3 if mine else 2,
            )
        )  # fmt: skip
        text = f"{holder}" if height else f"{holder} {fragment.letter}{register}"
        ax.text(
            left + size[0] / 2, top + size[1] / 2, text, ha="center", va="center", fontsize=9, zorder=4,
            fontweight="bold" if mine else "normal",
        )  # fmt: skip
    ax.set_xlim(-0.05, columns + 0.05)
    ax.set_ylim(rows + 0.05, -0.05)
    ax.set_xticks([c + 0.5 for c in range(columns)], [str(c) for c in range(columns)])
    ax.set_yticks([r + 0.5 for r in range(rows)], [str(r) for r in range(rows)])
    ax.tick_params(length=0)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)
