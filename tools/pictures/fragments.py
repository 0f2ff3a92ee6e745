"""Which lane and register holds which element: one matrix at a time, with one lane's elements framed.

No table is behind it: the emulator's instructions are run on operands that name their own place, as
tools/emulator/fragments.py says.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from tools.emulator import missing
from tools.emulator.fragments import AXES, LANES, Fragment, loaded, multiplied
from tools.pictures import canvas
from tools.plot import style

MATRICES = ("ldmatrix", "ldmatrix.trans", "A", "B", "C")
SAYS = {
    "ldmatrix": "ldmatrix: one of its four 8 × 8 matrices",
    "ldmatrix.trans": "ldmatrix.trans: one of its four 8 × 8 matrices",
    "A": "A of mma.m16n8k16: Q, and later P",
    "B": "B of mma.m16n8k16: Kᵀ, and later V",
    "C": "C of mma.m16n8k16: S, and later O",
}
NOTES = {
    "ldmatrix": "Lane 8m + i gives the address of row i of matrix m, and register m of every lane receives its part. "
    "Shown: "
    "m = 0. Side by side in a row: one register.",
    "ldmatrix.trans": "Lane 8m + i gives the address of row i of matrix m, as without .trans; but a register "
    "receives two "
    "elements of one column. Shown: m = 0.",
    "A": "A cell of two is one register of two 16-bit elements, neighbours in k, the even one in the lower half.",
    "B": "A cell of two is one register of two 16-bit elements, neighbours in k, the even one in the lower half.",
    "C": "Registers are float32. Two C side by side, packed to 16 bits, lie as an A does: so P needs no move.",
}


@dataclass(frozen=True)
class Held:
    """One element that a lane holds. half: 1 for the upper 16 bits of the register, else 0."""

    register: int
    half: int
    row: int
    column: int


@functools.cache
def matrix(name: str) -> Fragment:
    """The layout of one of MATRICES; of the two ldmatrix, 32 rows: four matrices one below the other.

    Raises ValueError for another name, RuntimeError without a C++ compiler.
    """
    if name not in MATRICES:
        raise ValueError(f"name is {name!r}; accepted: {', '.join(MATRICES)}")
    if missing():
        raise RuntimeError(f"{name} cannot be asked of the emulator: {missing()}")
    return _products()[name] if name in AXES else loaded(transposed=name.endswith(".trans"))


@functools.cache
def _products() -> dict[str, Fragment]:
    return multiplied()


def held(name: str, lane: int) -> list[Held]:
    """What a lane holds of a matrix, register by register, the lower half first. Raises as `matrix`, and for lanes
    other than 0 to 31."""
    _accepted(lane)
    f = matrix(name)
    places = [tuple(place) for place in np.argwhere(f.lane == lane).tolist()]
    found = [Held(int(f.register[place]), int(f.half[place]), *place) for place in places]
    return sorted(found, key=lambda one: (one.register, one.half))


def _accepted(lane: int) -> None:
    if lane not in range(LANES):
        raise ValueError(f"lane is {lane!r}; accepted: 0 to {LANES - 1}")


@canvas.in_style
def draw(name: str = "A", *, lane: int = 5) -> canvas.Picture:
    """One matrix: each cell with the lane that holds it and the register, coloured by register; `lane`'s are framed."""
    _accepted(lane)
    f = matrix(name)
    rows, columns = (8, 8) if name not in AXES else f.shape
    own = [one for one in held(name, lane) if one.row < rows]
    down, across = AXES.get(name, ("address", "element"))
    width = 7.5 if columns > 8 else 5.6
    fig = canvas.picture(
        1.75 + 0.27 * rows,
        SAYS[name],
        f"Each cell: lane, register. Colour: the register. Framed: what lane {lane} holds.",
        f"A grid of {rows} by {columns} elements with the lane and register of each. Lane {lane} holds "
        + "; ".join(f"{f.letter}{one.register}: row {one.row}, column {one.column}" for one in own)
        + ".",
        NOTES[name],
        width=width,
    )
    ax = fig.subplots()
    canvas.cells(ax, rows, columns)
    cells: dict[tuple[int, int], list[tuple[int, int]]] = {}  # by lane and register
    for place in np.ndindex(rows, columns):
        cells.setdefault((int(f.lane[place]), int(f.register[place])), []).append(place)
    for (holder, register), places in cells.items():
        top, left = min(r for r, _ in places), min(c for _, c in places)
        size = (max(c for _, c in places) - left + 1, max(r for r, _ in places) - top + 1)
        canvas.cell(
            ax, left, top, f"{holder} {f.letter}{register}", colour=canvas.tint(style.COLOURS[register], 0.28),
            size=size, frame=holder == lane, fontweight="bold" if holder == lane else "normal", fontsize=9,
        )  # fmt: skip
    ax.set_xticks([c + 0.5 for c in range(columns)], [str(c) for c in range(columns)])
    ax.set_yticks([r + 0.5 for r in range(rows)], [str(r) for r in range(rows)])
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel({"k": "k: along d, or along the keys for P V", "j": "j: a column of the product"}.get(across, across))
    ax.set_ylabel({"i": "i: a row of the product", "k": "k", "address": "row, by its lane's address"}.get(down, down))
    return fig
