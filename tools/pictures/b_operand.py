"""In which registers an ldmatrix of K leaves the two halves of a B operand: with Q's lane pattern (up to s27), and with
s28's.

An ldmatrix.x4 brings four 8 × 8 matrices; lane i names row i % 8 of matrix i / 8, and matrix r lands in register r of
every lane. A B operand of mma.m16n8k16 is 8 keys by 16 columns: two of these matrices, in two registers side by side,
the first of them even.
"""

from __future__ import annotations

from collections.abc import Callable

from tools.pictures import canvas
from tools.plot import style

Pattern = Callable[[int], tuple[int, int]]


def as_q(lane: int) -> tuple[int, int]:
    """(key, chunk) whose address the lane gives, up to s27: 16 rows of the left chunk, then of the right."""
    return lane % 16, lane // 16


def neighbours(lane: int) -> tuple[int, int]:
    """s28: 8 rows of the left chunk, the same 8 of the right, then the other 8 rows."""
    return lane // 16 * 8 + lane % 8, lane // 8 % 2


PATTERNS: dict[str, Pattern] = {"s27": as_q, "s28": neighbours}


def matrices(pattern: Pattern) -> dict[tuple[int, int], int]:
    """{(half of the keys, chunk): the register it lands in}.

    Raises ValueError where a matrix's eight lanes do not name eight rows of one such block in order.
    """
    found = {}
    for register in range(4):
        named = [pattern(lane) for lane in range(8 * register, 8 * register + 8)]
        (key, chunk), half = named[0], named[0][0] // 8
        if key % 8 or named != [(key + i, chunk) for i in range(8)] or half not in (0, 1) or chunk not in (0, 1):
            raise ValueError(f"lanes {8 * register} to {8 * register + 7} name {named}; accepted: 8 rows in order")
        found[half, chunk] = register
    if len(found) < 4:
        raise ValueError("two matrices are the same block; accepted: each of the four once")
    return found


def operands(pattern: Pattern) -> list[tuple[int, int]]:
    """Of keys 0 to 7 and of keys 8 to 15: the registers of the left and the right half of the B operand."""
    found = matrices(pattern)
    return [(found[half, 0], found[half, 1]) for half in (0, 1)]


def needs_no_move(pattern: Pattern) -> bool:
    """Whether both operands lie in neighbouring registers, the first of them even."""
    return all(left % 2 == 0 and right == left + 1 for left, right in operands(pattern))


COLOURS = (style.COLOURS[0], style.COLOURS[4])


@canvas.in_style
def draw(first: str = "s27", second: str = "s28") -> canvas.Picture:
    """The block of K, by the register that each quarter lands in, and the registers as they lie. Two of PATTERNS.

    Raises ValueError for another.
    """
    for name in (first, second):
        if name not in PATTERNS:
            raise ValueError(f"stage is {name!r}; accepted: {', '.join(PATTERNS)}")
    said = {name: operands(PATTERNS[name]) for name in (first, second)}
    fig = canvas.picture(
        4.3,
        "Where an ldmatrix of K leaves a B operand",
        "16 keys × 16 columns of K, in four 8 × 8 matrices. Colour: the B operand that a matrix is half of. "
        "An mma takes two registers side by side, the first of them even.",
        "For each stage a block of K in four quarters and the four registers below. "
        + "; ".join(
            f"{name}: keys 0 to 7 in registers {low[0]} and {low[1]}, keys 8 to 15 in {high[0]} and {high[1]}"
            for name, (low, high) in said.items()
        )
        + ".",
    )
    for ax, name in zip(fig.subplots(1, 2), (first, second), strict=True):
        _stage(ax, name)
    return fig


def _stage(ax, name: str) -> None:
    pattern = PATTERNS[name]
    canvas.bare(ax)
    ax.set_xlim(-0.55, 4.1)
    ax.set_ylim(4.5, -0.1)
    ax.set_xticks([1, 3], ["columns 0–7", "columns 8–15"], fontsize=8.5)
    ax.xaxis.tick_top()
    ax.set_yticks([0.6, 1.8], ["keys\n0–7", "keys\n8–15"], fontsize=8.5)
    ax.set_title(f"{name}: " + ("no moves" if needs_no_move(pattern) else "moves"), loc="left", fontsize=10)
    found = matrices(pattern)
    for (half, chunk), register in found.items():
        text = f"register {register}\nlanes {8 * register}–{8 * register + 7}"
        colour = canvas.tint(COLOURS[half], 0.55)
        canvas.cell(ax, 2 * chunk, 1.2 * half, text, colour=colour, size=(1.96, 1.14), fontsize=8.5)
    for (half, _chunk), register in found.items():
        canvas.cell(
            ax, register, 2.9, str(register), colour=canvas.tint(COLOURS[half], 0.55), size=(0.97, 0.6), fontsize=9
        )
    ax.text(0, 2.8, "registers, as they lie", fontsize=8.5, color=canvas.DARK)
    for half, (left, right) in enumerate(operands(pattern)):
        y = 3.68 + 0.36 * half
        ax.plot(
            [left + 0.48, left + 0.48, right + 0.48, right + 0.48], [3.52, y, y, 3.52], color=COLOURS[half], linewidth=2
        )
        ax.text(
            (left + right) / 2 + 0.48, y + 0.06, f"keys {8 * half}–{8 * half + 7}", ha="center", va="top", fontsize=8,
            zorder=6, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip
