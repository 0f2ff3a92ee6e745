"""What a Triton program sees of a tensor: the offsets of its block, and which of them its mask lets through.

A tensor [seqlen, d] lies in memory row by row. Program p owns the rows p·B to p·B + B - 1; block sizes are powers of
two, lengths are not, so the last program's block reaches past the end.
"""

from __future__ import annotations

import numpy as np

from tools.pictures import canvas
from tools.plot import style


def offsets(program: int, B: int, row_stride: int, d: int) -> np.ndarray:
    """[B, d]: where the elements of the program's block lie, counted in elements from the tensor's first."""
    rows = program * B + np.arange(B)
    return rows[:, None] * row_stride + np.arange(d)[None, :]


def programs(seqlen: int, B: int) -> int:
    """How many programs it takes: the length over the block, rounded up. Raises ValueError for sizes below 1."""
    for name, size in (("seqlen", seqlen), ("B", B)):
        if size < 1:
            raise ValueError(f"{name} is {size}; accepted: 1 or more")
    return -(-seqlen // B)


def mask(program: int, B: int, seqlen: int) -> np.ndarray:
    """[B]: which rows of the program's block there are."""
    return program * B + np.arange(B) < seqlen


MOST = 16  # rows or columns: more numbers cannot be read


@canvas.in_style
def draw(seqlen: int = 10, d: int = 4, B: int = 4) -> canvas.Picture:
    """The rows of a tensor with each element's offset, coloured by program; grey: masked, past the end.

    Raises ValueError for more than MOST rows or columns.
    """
    count = programs(seqlen, B)
    if max(count * B, d) > MOST:
        raise ValueError(f"the blocks have {count * B} rows of {d}; accepted: at most {MOST} either way")
    past = int(sum((~mask(p, B, seqlen)).sum() for p in range(count)))
    fig = canvas.picture(
        1.2 + 0.27 * count * B,
        f"A tensor of {seqlen} rows of {d}, cut into blocks of {B} rows",
        "Number: the element's offset from the first. Colour: the program. Grey: past the end, where the mask is 0.",
        f"A tensor of {seqlen} rows and {d} columns with the offset of each element, coloured by {count} programs of "
        f"{B} rows each. {past} rows of the last program lie past the end and are masked.",
    )
    ax = fig.subplots()
    canvas.cells(ax, count * B, d + 2.6)
    for program in range(count):
        colour = canvas.tint(style.COLOURS[program % len(style.COLOURS)], 0.45)
        block, there = offsets(program, B, d, d), mask(program, B, seqlen)
        for r in range(B):
            y = program * B + r
            for x in range(d):
                canvas.cell(
                    ax, x, y, str(block[r, x]), colour=colour if there[r] else canvas.PALE, fontsize=9,
                    color="black" if there[r] else "#777777",
                )  # fmt: skip
        said = f"program {program}: rows {program * B} to {program * B + B - 1}"
        ax.text(d + 0.15, program * B + 0.5, said, va="center", fontsize=9, fontweight="bold")
        ax.text(d + 0.15, program * B + 1.4, f"mask {' '.join('01'[int(x)] for x in there)}", va="center", fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([y + 0.5 for y in range(count * B)], [f"row {y}" for y in range(count * B)])
    return fig
