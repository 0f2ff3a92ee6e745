"""The main loop of a kernel as the compiler ordered it: a cell an instruction, coloured by what it does.

    draw("s23", "s24")

The loops are those of tools.lesson.listings; `ahead` says how early the fragments of K and V are loaded.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from matplotlib.patches import Patch

from tools.pictures import canvas
from tools.plot import style
from tools.sass import mix

KINDS = {  # kind -> (families, colour, what the legend says)
    "load": (("LDSM",), style.COLOURS[0], "LDSM: ldmatrix"),
    "product": (("HMMA",), style.COLOURS[4], "HMMA: mma"),
    "copy": (("LDGSTS",), style.COLOURS[5], "LDGSTS: cp.async"),
    "exponential": (("MUFU",), style.COLOURS[1], "MUFU: exp2"),
    "arithmetic": (("FFMA", "FMUL", "FADD", "FMNMX", "F2FP"), style.COLOURS[3], "softmax: fp32 arithmetic"),
    "move": (("MOV",), "#444444", "MOV: moves"),
    "mask": (("FSEL",), style.COLOURS[2], "FSEL: masks"),
    "other": ((), "#DADADA", "all else: addresses, comparisons, branches"),
}
_KIND_OF = {opcode: kind for kind, (names, *_) in KINDS.items() for name in names for opcode in mix.FAMILIES[name]}
A_ROW = 120


def kind(code: mix.Instruction) -> str:
    """One of KINDS."""
    return _KIND_OF.get(mix.opcode(code), "other")


def registers(code: mix.Instruction) -> list[int]:
    """The numbers of the general registers it names, in order: the first is where its result goes."""
    return [int(number) for number in re.findall(r"\bR(\d+)", code.operands)]


OPERANDS = {
    "A": (1, 4),
    "B": (2, 2),
}  # of an HMMA: its place among the registers that are named, and how many there are


def ahead(code: Sequence[mix.Instruction], operand: str = "B") -> list[int]:
    """For each fragment of the loop that an mma reads as this operand, in the order of the loads: how many other mma
    stand between the load and the first that reads it. A move of one of its registers is followed.

    operand: "B", fragments of K and V; "A", of Q, where they are loaded in the loop.
    """
    place, width = OPERANDS[operand]
    holds: dict[int, list] = {}  # register -> the fragment in it, [products when loaded, when first read or None]
    fragments, products = [], 0
    for one in code:
        names = registers(one)
        opcode = mix.opcode(one)
        if opcode == "LDSM":
            fragment = [products, None]
            fragments.append(fragment)
            holds |= dict.fromkeys(range(names[0], names[0] + 4), fragment)
        elif opcode == "HMMA":
            for register in range(names[place], names[place] + width):
                if register in holds and holds[register][1] is None:
                    holds[register][1] = products
            for register in range(names[0], names[0] + 4):
                holds.pop(register, None)
            products += 1
        elif opcode in ("MOV", "IMAD.MOV") and len(names) == 2:
            if names[1] in holds:
                holds[names[0]] = holds[names[1]]
            else:
                holds.pop(names[0], None)
        elif names:
            holds.pop(names[0], None)
    return [used - loaded for loaded, used in fragments if used is not None]


def carried(code: Sequence[mix.Instruction]) -> dict[str, list[int]]:
    """{"K": ..., "V": ...}: for each fragment that the loop loads, in order, how many moves take one of its registers
    elsewhere. V's are those that are transposed on the way."""
    holds: dict[int, list] = {}  # register -> [matrix, moves] of the fragment in it
    fragments = []
    for one in code:
        names = registers(one)
        opcode = mix.opcode(one)
        if opcode == "LDSM":
            fragment = ["V" if ".MT88" in one.name else "K", 0]
            fragments.append(fragment)
            holds |= dict.fromkeys(range(names[0], names[0] + 4), fragment)
        elif opcode in ("MOV", "IMAD.MOV") and len(names) == 2 and names[1] in holds:
            holds[names[1]][1] += 1
            holds[names[0]] = holds[names[1]]
        elif opcode == "HMMA":
            for register in range(names[0], names[0] + 4):
                holds.pop(register, None)
        elif names:
            holds.pop(names[0], None)
    return {matrix: [moves for name, moves in fragments if name == matrix] for matrix in ("K", "V")}


@canvas.in_style
def draw(*names: str) -> canvas.Picture:
    """The loops of these listings one below the other, each read like a page: from left to right, then the next line.

    Raises ValueError for none, LessonError for a listing that there is not.
    """
    from tools.lesson import listings

    if not names:
        raise ValueError("names is empty; accepted: one or more of the listings")
    loops = {name: listings.loop(name) for name in names}
    rows = {name: -(-len(code) // A_ROW) for name, code in loops.items()}
    fig = canvas.picture(
        1.6 + sum(0.135 * n + 0.42 for n in rows.values()),
        "The loop over K/V tiles, as the compiler ordered it",
        f"Machine code for sm_90a, head dim 128. A cell is an instruction; read it like a page, {A_ROW} to a line.",
        alt(loops),
    )
    axes = fig.subplots(len(names), 1, squeeze=False, height_ratios=list(rows.values()))[:, 0]
    there = {kind(one) for code in loops.values() for one in code}
    for ax, (name, code) in zip(axes, loops.items(), strict=True):
        canvas.bare(ax)
        ax.set_xlim(0, A_ROW)
        ax.set_ylim(rows[name], 0)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(f"{name.replace('_', ' ')}: {len(code):,} instructions", loc="left", fontsize=10)
        for i, one in enumerate(code):
            canvas.cell(ax, i % A_ROW, i // A_ROW, colour=KINDS[kind(one)][1])
    handles = [Patch(color=colour, label=says) for name, (_, colour, says) in KINDS.items() if name in there]
    fig.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=8, handlelength=1.0)
    return fig


def alt(loops: dict[str, Sequence[mix.Instruction]]) -> str:
    said = []
    for name, code in loops.items():
        distances = ahead(code)
        said.append(
            f"{name}: {len(code)} instructions, {sum(kind(one) == 'load' for one in code)} loads of fragments among "
            f"{sum(kind(one) == 'product' for one in code)} products, half of the fragments loaded "
            f"{statistics.median(distances):g} or more products before their first use"
        )
    return f"Rows of coloured cells, one for each instruction of the main loop. {'; '.join(said)}."
