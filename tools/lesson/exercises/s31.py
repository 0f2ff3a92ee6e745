"""Exercises of notebooks/s31_autotune."""

from __future__ import annotations

from stages.common.tiles import Tiles
from tools.lesson.answers import exercise

# ---- the bill -------------------------------------------------------------------------------------------------------


def registers(rows, Bc, d, q_in_registers):
    """A warp's values, 32 lanes share them: O and S of 32 bits, two elements of Q in a register; m and l of two rows
    for each m-tile of 16."""
    columns_of_q = d if q_in_registers else 16
    return rows * d // 32 + rows * Bc // 32 + rows * columns_of_q // 64 + 4 * rows // 16


@exercise(
    "s31.registers",
    solution=registers,
    wrong=(
        lambda rows, Bc, d, q: rows * d // 32 + rows * Bc // 32 + rows * (d if q else 16) // 32 + rows // 4,
        lambda rows, Bc, d, q: rows * d // 32 + rows * Bc // 32 + rows * d // 64 + rows // 4,
        lambda rows, Bc, d, q: rows * d // 32 + rows * Bc // 32 + rows * (d if q else 16) // 64,
        lambda rows, Bc, d, q: rows * d // 64 + rows * Bc // 64 + rows * (d if q else 16) // 64 + rows // 4,
    ),
    hints=(
        "A warp's 32 lanes share its part of each matrix evenly. How many elements of O, [rows, d], does a lane hold?",
        "O and S are float32, a register each. Q's fragments are of 16 bits: two elements a register. Loaded again, "
        "they are those of 16 columns only.",
        "m and l: a lane has two rows of each m-tile of 16, so 4 registers for each of rows / 16 m-tiles.",
    ),
)
def check_registers(answer) -> str:
    for rows, Bc, d, q in ((16, 64, 64, True), (32, 64, 64, True), (32, 80, 64, False), (16, 96, 128, True)):
        want = Tiles(4 * rows, Bc, 4, 2, q, 1).registers(d)
        got = answer(rows, Bc, d, q)
        if got != want:
            return f"{rows} rows a warp, Bc {Bc}, d {d}, Q {'kept' if q else 'loaded again'}: {got} is not right"
    return ""


# ---- a configuration that fits --------------------------------------------------------------------------------------

HEADDIM, ARCH, ROWS, BLOCKS = 128, 86, 32, 2


@exercise(
    "s31.fit",
    solution=Tiles(128, 16, 4, 2, q_in_registers=False, blocks=2),
    wrong=(
        Tiles(128, 64, 4, 2, q_in_registers=False, blocks=2),
        Tiles(128, 16, 4, 2, q_in_registers=True, blocks=1),
        Tiles(64, 16, 4, 2, q_in_registers=False, blocks=2),
        Tiles(128, 16, 4, 1, q_in_registers=False, blocks=2),
    ),
    hints=(
        "Start from Tiles(128, 64, 4, 2, q_in_registers=True, blocks=2): four warps of 32 rows. "
        "Ask it why_not(128, arch=86).",
        "Two blocks share 100 KiB, and each takes 1 KiB for the system. The tile of Q alone is 32 KiB. "
        "What can still shrink?",
        "Two buffers are the fewest. So Bc has to: 16 is the smallest that an mma can take.",
    ),
)
def check_fit(answer) -> str:
    if not isinstance(answer, Tiles):
        return f"it is a {type(answer).__name__}; a Tiles is asked for"
    why = answer.why_not(HEADDIM, ARCH)
    if why:
        return why
    if answer.Br != ROWS * answer.num_warps:
        return f"a warp owns {answer.Br // answer.num_warps} rows, not {ROWS}"
    if answer.blocks != BLOCKS:
        return f"the compiler leaves registers for {answer.blocks} block, not for {BLOCKS}"
    return ""
