"""Exercises of notebooks/s29_address_math."""

from __future__ import annotations

from tools.lesson.answers import exercise
from tools.pictures.address import KEYS, tile_offset, tile_step

# ---- the step -------------------------------------------------------------------------------------------------------


def step(place, rows, chunks, d):
    """The place `rows` rows and `chunks` chunks on from `place`."""
    return (place ^ chunks * 16) + rows * d * 2


def _no_rows(place, rows, chunks, d):
    return place ^ chunks * 16


@exercise(
    "s29.step",
    solution=step,
    wrong=(
        lambda place, rows, chunks, d: place + chunks * 16 + rows * d * 2,
        lambda place, rows, chunks, d: place ^ (chunks * 16 + rows * d * 2),
        lambda place, rows, chunks, d: (place ^ chunks) + rows * d * 2,
        lambda place, rows, chunks, d: (place ^ chunks * 16) + rows * d,
        _no_rows,
    ),
    hints=(
        "A chunk is 16 bytes, a row d elements of 2 bytes. Neither row nor chunk of `place` is needed.",
        "The swizzle sits in the bits that the step along the row changes: those have to be XORed. "
        "The bits of the rows may carry into each other: those are added.",
        "place ^ chunks * 16 is the step along the row. Add the rows' bytes to that.",
    ),
)
def check_step(answer) -> str:
    """Every step that the kernel takes, from every lane's place in an ldmatrix of K and of V."""
    for d in (64, 128):
        for lane in range(32):
            for row, chunk in ((lane // 16 * 8 + lane % 8, lane // 8 % 2), (lane % 16, lane // 16)):
                place = tile_offset(d, row, chunk)
                for rows in range(0, KEYS - 8, 8):
                    for chunks in range(0, d // 8, 2):
                        want = tile_offset(d, row + rows, chunk + chunks)
                        got = answer(place, rows, chunks, d)
                        if got != want:
                            return (
                                f"d {d}: from row {row}, chunk {chunk} (place {place}), {rows} rows and {chunks} "
                                f"chunks on is {want}, not {got}"
                            )
    return ""


# ---- how many results -----------------------------------------------------------------------------------------------


def xors(d, Bc):
    """For V: the chunk steps by two over the row, and rows are an immediate."""
    return d // 16


@exercise(
    "s29.xors",
    solution=xors,
    wrong=(
        lambda d, Bc: d // 16 * (Bc // 16),
        lambda d, Bc: Bc // 16,
        lambda d, Bc: d // 8,
        lambda d, Bc: 1,
    ),
    hints=(
        "An ldmatrix takes 16 keys by 16 of d, so a tile takes Bc/16 · d/16. Which of the two indices is XORed?",
        "Steps down the rows are added, and a constant that is added fits into the instruction itself.",
    ),
)
def check_xors(answer) -> str:
    for d, Bc in ((64, 64), (128, 64), (128, 96)):
        place = tile_offset(d, 0, 0)
        want = len({tile_step(d, place, 0, 2 * n) for n in range(d // 16)})
        got = answer(d, Bc)
        if got != want:
            return f"d {d}, Bc {Bc}: {got}; it is another number"
    return ""
