"""Exercises of notebooks/s21_swizzle."""

from __future__ import annotations

import numpy as np

from tools.lesson.answers import exercise

ROWS_APART = """
__global__ void rows_apart(const u32* bytes, u32* out) {
  extern __shared__ __align__(128) unsigned char smem[];
  const u32 at = shared_address(smem), lane = threadIdx.x, apart = ld_global(bytes);
  for (u32 i = lane; i < 8 * apart / 16; i += 32) st_shared_chunk(at + 16 * i, Chunk{i, i, i, i});
  __syncwarp();
  u32 r;
  ldmatrix_x1(r, at + lane % 8 * apart);
  st_global(&out[lane], r);
}
"""


def run_pass(apart: int) -> int:
    """Wavefronts of one ldmatrix pass whose eight rows begin `apart` bytes apart, a multiple of 16, in the emulator."""
    from tools.lesson.tiny import tiny

    arrays = {"bytes": np.array([apart], np.uint32), "out": np.zeros(32, np.uint32)}
    ran = tiny(ROWS_APART, shared_bytes=8 * apart, **arrays)
    return ran.report.total("wavefronts", "ldmatrix")


def wavefronts(apart):
    """Of one ldmatrix pass: eight rows of 16 bytes that begin `apart` bytes, a multiple of 16 from 16 up, apart."""
    first_banks = [row * apart // 4 % 32 for row in range(8)]
    return max(first_banks.count(bank) for bank in first_banks)


def _distinct(apart):
    return 8 // len({row * apart % 32 for row in range(8)})


@exercise(
    "s21.wavefronts",
    solution=wavefronts,
    wrong=(
        lambda apart: 8 if apart % 128 == 0 else 1,
        lambda apart: apart // 16,
        lambda apart: max(1, apart // 32),
        lambda apart: len({row * apart // 4 % 32 for row in range(8)}),
        _distinct,
    ),
    hints=(
        "Row i begins at byte i · apart. In which word is that, and in which bank?",
        "The bank of a row's first word is i · apart // 4 % 32. Make the list of all eight.",
        "Rows that begin in the same bank want the same four banks; others do not touch each other's. Which bank "
        "occurs most often in the list?",
    ),
)
def check_wavefronts(answer) -> str:
    for apart in (16, 32, 48, 64, 80, 128, 144, 192, 256, 272, 288, 384, 512):
        want, got = run_pass(apart), answer(apart)
        if got != want:
            return f"rows {apart} bytes apart: you say {got}, and the emulator {want}"
    return ""


def swizzle(row, chunk):
    """In which chunk's place of its row chunk `chunk` of row `row` lies."""
    return chunk ^ row % 8


@exercise(
    "s21.swizzle",
    solution=swizzle,
    wrong=(
        lambda row, chunk: chunk,
        lambda row, chunk: chunk ^ row,
        lambda row, chunk: chunk ^ row % 4,
        lambda row, chunk: chunk ^ row // 8,
        lambda row, chunk: chunk + row % 8,
        lambda row, chunk: (chunk + row) % 8,
        lambda row, chunk: row % 8,
        lambda row, chunk: (chunk * row) % 8,
    ),
    hints=(
        "Two things have to hold. Along a row no two chunks may share a place. Down a column, the same chunk of eight "
        "rows has to be in eight different places.",
        "Turn every row by one place more than the row before: (chunk + row) % 8. Does that still hold at 16 chunks a "
        "row? Keep the chunk in its own line of eight.",
        "Shorter: XOR with a number from 0 to 7 permutes eight chunks, and each of the eight numbers does so "
        "differently. Which number does a row have?",
    ),
)
def check_swizzle(answer) -> str:
    from tools.lesson.live import emulated
    from tools.lesson.swizzles import ONE_TILE, holds, with_swizzle

    for headdim in (64, 128):
        try:
            ways = holds(answer, headdim)
        except ValueError as problem:
            return f"head dim {headdim}: {problem}"
        if ways.max() > 1:
            chunk = int(ways.argmax())
            return f"head dim {headdim}: chunk {chunk} of eight rows takes {ways[chunk]} wavefronts"
    run = emulated(with_swizzle(answer, 128), headdim=128, **ONE_TILE)
    return "" if run.ok and not run.report.total("conflicts") else "the kernel does not take it"


def narrow(row, chunk):
    """As swizzle, for rows of four chunks, 64 bytes."""
    return chunk ^ row // 2 % 4


@exercise(
    "s21.narrow",
    solution=narrow,
    wrong=(
        lambda row, chunk: chunk,
        lambda row, chunk: chunk ^ row % 4,
        lambda row, chunk: chunk ^ row % 8,
        lambda row, chunk: (chunk + row) % 4,
        lambda row, chunk: chunk ^ row // 4 % 4,
        lambda row, chunk: chunk ^ row // 2 % 2,
    ),
    hints=(
        "A row has 64 bytes now: two rows share a line of 128. Draw where rows 0 to 7 begin.",
        "Row 1 lies beside row 0, in the other sixteen banks: those two never meet. Which rows do?",
        "Rows 0, 2, 4, 6 share one half of the banks, rows 1, 3, 5, 7 the other. Four rows, four places: number them "
        "within their half.",
    ),
)
def check_narrow(answer) -> str:
    from tools.lesson.swizzles import holds

    try:
        ways = holds(answer, 32)
    except ValueError as problem:
        return str(problem)
    if ways.max() > 1:
        chunk = int(ways.argmax())
        return f"chunk {chunk} of eight rows takes {ways[chunk]} wavefronts"
    return ""
