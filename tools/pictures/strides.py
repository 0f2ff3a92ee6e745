"""Where the rows of one head lie in memory, in the layouts in which callers hold Q, K and V: the row strides.

    draw(nheads=4, nheads_k=2, head=1)

Memory is drawn in pieces of one head's row at one position, headdim elements each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tools.pictures import canvas
from tools.plot import style

PIECES = 24  # that are drawn


@dataclass(frozen=True)
class Layout:
    """Q or K in a caller's memory. says: of it; stride: elements from one row of a head to the next; rows: by piece of
    memory, the row of the head that lies there, None: another head's, or another tensor's."""

    says: str
    stride: int
    rows: tuple[int | None, ...]


def layouts(nheads: int, nheads_k: int, headdim: int, head: int) -> list[Layout]:
    """Q as the contract has it; K with fewer heads; heads before positions; Q, K and V packed into one tensor.

    head: of the tensor, whose rows are followed. Raises ValueError for one that there is not.
    """
    if not 0 <= head < nheads_k <= nheads:
        raise ValueError(
            f"head is {head}, nheads_k {nheads_k}, nheads {nheads}; accepted: 0 <= head < nheads_k <= nheads"
        )
    seqlen = PIECES
    memory = {
        f"Q [seqlen, {nheads}, d]": torch.empty(seqlen, nheads, headdim),
        f"K, grouped heads [seqlen, {nheads_k}, d]": torch.empty(seqlen, nheads_k, headdim),
        f"K as [{nheads_k}, seqlen, d]": torch.empty(nheads_k, seqlen, headdim).transpose(0, 1),
        f"Q of Q, K, V packed [seqlen, 3·{nheads}, d]": torch.empty(seqlen, 3 * nheads, headdim)[:, :nheads],
    }
    return [_layout(says, tensor, head) for says, tensor in memory.items()]


def _layout(says: str, tensor: torch.Tensor, head: int) -> Layout:
    headdim, first = tensor.shape[2], tensor[0, head].storage_offset()
    at = {(first + row * tensor.stride(0)) // headdim: row for row in range(tensor.shape[0])}
    start = first // headdim - head if tensor.stride(0) > headdim else first // headdim  # heads apart: its own part
    return Layout(says, tensor.stride(0), tuple(at.get(start + piece) for piece in range(PIECES)))


@canvas.in_style
def draw(nheads: int = 4, nheads_k: int = 2, headdim: int = 64, head: int = 1) -> canvas.Picture:
    """A strip of memory a layout, the rows of one head in colour, with their numbers."""
    made = layouts(nheads, nheads_k, headdim, head)
    alt = f"Where the rows of head {head} lie in memory: " + "; ".join(
        f"{one.says}: {one.stride} elements apart" for one in made
    )
    fig = canvas.picture(
        3.0,
        f"One head's rows in memory: four layouts, head dim {headdim}",
        f"A piece is a head's row at one position, {headdim} elements. Coloured: head {head}, with the row's number.",
        alt + ".",
        "All four are legal arguments. The kernel that is compiled for one row stride reads wrong rows with another.",
    )
    ax = fig.subplots()
    canvas.cells(ax, 8, PIECES)
    ax.set_axis_off()
    for i, (one, colour) in enumerate(zip(made, style.COLOURS, strict=False)):
        ax.text(0, 2 * i + 0.5, f"{one.says}: row stride {one.stride}", va="center", fontsize=9)
        for x, row in enumerate(one.rows):
            fill = canvas.GREY if row is None else canvas.tint(colour, 0.75)
            canvas.cell(ax, x, 2 * i + 0.95, "" if row is None else str(row), colour=fill, size=(1, 0.85))
    return fig
