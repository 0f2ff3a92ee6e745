"""Shared memory as it is: lines of 128 bytes over the 32 banks, and where the chunks that one ldmatrix pass reads lie.

    draw({"s20": identity, "s21": xor}, chunk=2)
    draw({"plain": identity, "padded": (identity, 9), "rotated": rotate, "XOR": xor})

A chunk is 16 bytes, four banks wide; a layout is a swizzle f(row, chunk) -> place in the row, or such a function and by
how many chunks one row lies behind the other.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tools.pictures import canvas
from tools.pictures.bank_conflicts import GROUPS, Swizzle, swizzle_table
from tools.plot import style

ROWS = 8  # of the tile: what one pass reads a chunk of
Layout = Swizzle | tuple[Swizzle, int]


def rotate(row: int, chunk: int) -> int:
    """Another way without conflicts: every row is turned by one chunk more, within its 128 bytes."""
    return chunk // GROUPS * GROUPS + (chunk + row) % GROUPS


def lines(layout: Layout, headdim: int = 64, rows: int = ROWS) -> np.ndarray:
    """[lines, 8, 2]: (row, chunk) of what lies in each four banks of each 128 bytes; -1, -1 where nothing does.

    Raises as bank_conflicts.swizzle_table where the layout loses a chunk.
    """
    f, stride = layout if isinstance(layout, tuple) else (layout, headdim // 8)
    places = swizzle_table(f, headdim, rows, stride)
    held = np.full((-(-rows * stride // GROUPS) * GROUPS, 2), -1)
    for (row, chunk), place in np.ndenumerate(places):
        held[row * stride + place] = row, chunk
    return held.reshape(-1, GROUPS, 2)


def wanted(held: np.ndarray, chunk: int) -> np.ndarray:
    """[8]: of each four banks, how many of the eight rows' chunk `chunk` lie there; the most are the pass's
    wavefronts."""
    return (held[..., 1] == chunk).sum(axis=0)


@canvas.in_style
def draw(layouts: Mapping[str, Layout], *, chunk: int = 2, headdim: int = 64) -> canvas.Picture:
    """A panel a layout, one to four: a line is 128 bytes, a cell a chunk, labelled row,chunk, or row where there is no
    room for more. Coloured: chunk `chunk` of eight rows. Below: how many of them each four banks have to hand out.

    Raises ValueError for other numbers of panels, a chunk that there is not, and as `lines`.
    """
    if not 1 <= len(layouts) <= 4:
        raise ValueError(f"layouts are {len(layouts)}; accepted: one to four")
    if chunk not in range(headdim // 8):
        raise ValueError(f"chunk is {chunk!r}; accepted: 0 to {headdim // 8 - 1}")
    held = {name: lines(layout, headdim) for name, layout in layouts.items()}
    tallest = max(len(one) for one in held.values())
    turns = {name: int(wanted(one, chunk).max()) for name, one in held.items()}
    fig = canvas.picture(
        1.95 + 0.235 * (tallest + 1.5),
        f"Head dim {headdim}: where an ldmatrix pass finds chunk {chunk} of rows 0 to {ROWS - 1}",
        "Shared memory as it is: a line is 128 bytes, all 32 banks once; a cell is a chunk of 16 bytes, four banks. "
        + ("Label: row,chunk. " if len(layouts) < 3 else "Label: the row. ")
        + "Below: chunks that the pass wants of these banks.",
        f"Lines of shared memory with chunk {chunk} of eight rows marked. "
        + "; ".join(f"{name}: {n} wavefront{'s' if n > 1 else ''}" for name, n in turns.items())
        + ".",
    )
    for ax, (name, one) in zip(fig.subplots(1, len(layouts), squeeze=False)[0], held.items(), strict=True):
        _panel(ax, one, chunk, tallest, labels=len(layouts) < 3)
        ax.set_title(f"{name}: {turns[name]} wavefront{'s' if turns[name] > 1 else ''}", loc="left", fontsize=10)
    return fig


def _panel(ax, held: np.ndarray, chunk: int, tallest: int, labels: bool) -> None:
    canvas.cells(ax, tallest + 1.4, GROUPS)
    for line, cells in enumerate(held):
        for group, (row, has) in enumerate(cells):
            own = has == chunk
            colour = style.COLOURS[4] if own else canvas.PALE if row >= 0 else "white"
            text = (f"{row},{has}" if labels else str(row) if own else "") if row >= 0 else ""
            bold = {"fontweight": "bold"} if own else {"color": "#6A6A6A"}
            canvas.cell(ax, group, line, text, colour=colour, frame=bool(own), **bold)
    for group, n in enumerate(wanted(held, chunk)):
        colour = canvas.DARK if n > 1 else canvas.tint(style.COLOURS[4], 0.4) if n else "white"
        canvas.cell(ax, group, tallest + 0.4, str(n), colour=colour, fontweight="bold" if n else "normal")
    step = 1 if labels else 2
    ax.set_xticks(
        [g + 0.5 for g in range(0, GROUPS, step)],
        [f"{4 * g}–{4 * g + 3}" if labels else str(4 * g) for g in range(0, GROUPS, step)],
        fontsize=8,
    )
    ax.set_xlabel("banks" if labels else "first bank of four")
    ax.set_yticks([line + 0.5 for line in range(len(held))], [str(128 * line) for line in range(len(held))], fontsize=8)
    ax.set_ylabel("byte")
