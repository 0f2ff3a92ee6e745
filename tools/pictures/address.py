"""The bits of an address in a swizzled tile: which of them rows, chunks and the swizzle touch, and what a step changes.

    draw(d=128, lane=13, k=3, n=2)

A lane's place in an ldmatrix of K is that of key lane // 16 * 8 + lane % 8 and chunk lane // 8 % 2, as in s29; a step
goes n * 16 keys down and 2 * k chunks to the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.pictures import canvas
from tools.plot import style

CHUNK = 16  # bytes: eight elements of 16 bits
KEYS = 64  # rows of a K/V tile


@dataclass(frozen=True)
class Line:
    """One line of the sum. bits: the highest first; touched: whether the line is about that bit."""

    says: str
    value: int
    bits: tuple[int, ...]
    touched: tuple[bool, ...]


def tile_offset(d: int, row: int, chunk: int) -> int:
    """Where a chunk of a row lies, in bytes: s21's swizzle."""
    return row * d * 2 + (chunk ^ row % 8) * CHUNK


def tile_step(d: int, place: int, rows: int, chunks: int) -> int:
    """The place so many rows and chunks on from `place`: s29's."""
    return (place ^ chunks * CHUNK) + rows * d * 2


def width(d: int) -> int:
    """Bits of an address in a tile of KEYS rows."""
    return (KEYS * d * 2 - 1).bit_length()


def fields(d: int) -> tuple[tuple[str, int], ...]:
    """(name, bits) from the highest: rows' numbers, chunks' numbers, bytes of a chunk."""
    low = (CHUNK - 1).bit_length()
    chunks = (d * 2 - 1).bit_length() - low
    return ("row", width(d) - chunks - low), ("chunk", chunks), ("byte", low)


def lane_place(d: int, lane: int) -> tuple[int, int, int]:
    """(key, chunk, offset) that a lane names in the first ldmatrix of a K tile."""
    _check(d, lane)
    key, chunk = lane // 16 * 8 + lane % 8, lane // 8 % 2
    return key, chunk, tile_offset(d, key, chunk)


def lines(d: int, lane: int, k: int, n: int) -> list[Line]:
    """Place, XOR constant, what is added, and the sum, which is the swizzle computed anew at that key and chunk.

    Raises ValueError for a head dim other than 64 and 128, a lane that there is not, a step out of the tile.
    """
    _check(d, lane)
    if not (0 <= k < d // 16 and 0 <= n < KEYS // 16):
        raise ValueError(f"k is {k}, n is {n}; accepted: 0 to {d // 16 - 1} and 0 to {KEYS // 16 - 1}")
    key, chunk, place = lane_place(d, lane)
    total = tile_step(d, place, n * 16, 2 * k)
    high, mid, low = (bits for _, bits in fields(d))
    swizzled = mid - 3  # of the chunk's bits, those above the swizzle's three
    no = (False,) * width(d)
    own = (False,) * high + (False,) * swizzled + (True,) * 3 + (False,) * low
    xor = (False,) * high + (True,) * (mid - 1) + (False,) * (1 + low)
    add = (True,) * (high - 4) + (False,) * (4 + mid + low)
    return [
        Line(f"lane {lane}: key {key}, chunk {chunk}, swizzled", place, _bits(place, d), own),
        Line(f"XOR 2·{k} chunks", 2 * k * CHUNK, _bits(2 * k * CHUNK, d), xor),
        Line(f"+ {n}·16 rows", n * 16 * d * 2, _bits(n * 16 * d * 2, d), add),
        Line(f"key {key + n * 16}, chunk {chunk + 2 * k}, swizzled", total, _bits(total, d), no),
    ]


def addresses(d: int) -> tuple[int, int]:
    """(different addresses that a lane needs for the ldmatrix of a K tile, different results of XOR among them): the
    rest is constants in the instructions."""
    _, _, place = lane_place(d, 0)
    steps = [(k, n) for k in range(d // 16) for n in range(KEYS // 16)]
    return len({tile_step(d, place, n * 16, 2 * k) for k, n in steps}), len({place ^ 2 * k * CHUNK for k, _ in steps})


def _check(d: int, lane: int) -> None:
    if d not in (64, 128):
        raise ValueError(f"d is {d}; accepted: 64, 128")
    if not 0 <= lane < 32:
        raise ValueError(f"lane is {lane}; accepted: 0 to 31")


def _bits(value: int, d: int) -> tuple[int, ...]:
    return tuple(value >> i & 1 for i in reversed(range(width(d))))


@canvas.in_style
def draw(d: int = 128, lane: int = 13, k: int = 3, n: int = 2) -> canvas.Picture:
    """The four lines of `lines`, a cell a bit; coloured are the bits that a line is about."""
    made = lines(d, lane, k, n)
    whole = made[-1]
    alt = (
        f"The address of lane {lane} in a tile of head dim {d}, bit by bit. {made[0].says}: {_text(made[0], d)}. "
        f"{made[1].says} touches the chunk's bits, {_text(made[1], d)}; {made[2].says} the row's, {_text(made[2], d)}. "
        f"The result is {whole.says}: {_text(whole, d)}."
    )
    fig = canvas.picture(
        3.1,
        "One swizzled place, and two constants",
        f"Bits of a shared-memory offset, head dim {d}. Coloured: what the line is about.",
        alt,
        "The XOR leaves the row's bits alone; the sum leaves the last four row bits alone, three of which the swizzle "
        "is made of. So neither can disturb what the other has done.",
    )
    ax = fig.subplots()
    left, bits = 9.4, width(d)
    canvas.cells(ax, 5.3, left + bits + 1.8)
    ax.set_axis_off()
    _heading(ax, d, left)
    colours = (style.COLOURS[4], style.COLOURS[0], style.COLOURS[1], "")
    for y, (line, colour) in enumerate(zip(made, colours, strict=True)):
        last = line is whole
        ax.text(left - 0.3, y + 1.75, line.says, ha="right", va="center", fontsize=9, weight="bold" if last else None)
        for x, (bit, touched) in enumerate(zip(line.bits, line.touched, strict=True)):
            fill = canvas.tint(colour, 0.75) if touched else canvas.PALE
            if last:
                fill = canvas.GREY
            canvas.cell(ax, left + x, y + 1.25, str(bit), colour=fill, fontsize=9)
        ax.text(left + bits + 0.3, y + 1.75, str(line.value), ha="left", va="center", fontsize=9)
    ax.plot([left, left + bits], [4.25, 4.25], color="black", linewidth=1, zorder=5)
    return fig


def _text(line: Line, d: int) -> str:
    return f"{line.value:0{width(d)}b}"


def _heading(ax, d: int, left: float) -> None:
    """The fields' names over their bits."""
    at = left
    names: Sequence[tuple[str, int]] = fields(d)
    for name, bits in names:
        ax.text(at + bits / 2, 0.45, name, ha="center", va="center", fontsize=9)
        ax.plot([at + 0.08, at + bits - 0.08], [0.95, 0.95], color=canvas.DARK, linewidth=1.2)
        at += bits
