"""Exercises of notebooks/s28_fewer_moves."""

from __future__ import annotations

from tools.lesson.answers import exercise
from tools.pictures.b_operand import as_q, neighbours
from tools.sass.occupancy import occupancy


def lane_names(lane):
    """(key, chunk) within a 16 × 16 block of K whose 16 bytes lane `lane` of an ldmatrix.x4 gives the address of."""
    return lane // 16 * 8 + lane % 8, lane // 8 % 2


@exercise(
    "s28.lanes",
    solution=lane_names,
    wrong=(
        as_q,
        lambda lane: (lane // 16 * 8 + lane % 8, lane // 16),
        lambda lane: (lane % 8, lane // 8 % 2),
        lambda lane: (lane // 16 * 8 + lane % 8, 1 - lane // 8 % 2),
        lambda lane: (lane // 2, lane % 2),
    ),
    hints=(
        "Lane i names row i % 8 of matrix i / 8, and matrix r lands in register r. Which keys and which chunk should "
        "matrix 1 be, so that registers 0 and 1 are one operand?",
        "Matrix 0: keys 0 to 7, left chunk. 1: the same keys, right chunk. 2 and 3: keys 8 to 15, left and right.",
        "The chunk is the lowest bit of lane / 8, the half of the keys the next one: lane // 8 % 2 and lane // 16.",
    ),
)
def check_lanes(answer) -> str:
    for lane in range(32):
        key, chunk = (int(x) for x in answer(lane))
        matrix = lane // 8
        if key % 8 != lane % 8:
            return f"lane {lane} names row {lane % 8} of matrix {matrix}; you give it key {key}, row {key % 8} of eight"
        if (key, chunk) != neighbours(lane):
            half = "the wrong half of" if key // 8 == matrix // 2 else "no part of"
            return (
                f"lane {lane} belongs to matrix {matrix}, which lands in register {matrix}; with key {key}, chunk "
                f"{chunk} the register is {half} the operand of keys {8 * (matrix // 2)} to {8 * (matrix // 2) + 7}"
            )
    return ""


def most_registers(blocks, threads=128):
    """The most registers a thread may have, so that a multiprocessor with 65,536 holds `blocks` blocks of `threads`."""
    return min(255, 65536 // (blocks * threads) // 8 * 8)


@exercise(
    "s28.registers",
    solution=most_registers,
    wrong=(
        lambda blocks, threads=128: min(255, 65536 // (blocks * threads)),
        lambda blocks, threads=128: 65536 // (blocks * threads) // 8 * 8,
        lambda blocks, threads=128: 65536 // blocks,
        lambda blocks, threads=128: min(255, -(-65536 // (blocks * threads) // 8) * 8),
    ),
    hints=(
        "65,536 registers over blocks × threads; and what is handed out to a thread is a multiple of 8.",
        "Round down to a multiple of 8. And an instruction can name no more than 255.",
    ),
)
def check_registers(answer) -> str:
    for threads in (128, 256):
        for blocks in range(1, 9):
            got = answer(blocks, threads)
            want = max(r for r in range(1, 256) if _blocks(r, threads) >= blocks)
            if got != want:
                return f"{blocks} blocks of {threads} threads: {got} is {'too many' if got > want else 'not the most'}"
    return ""


def _blocks(registers: int, threads: int) -> int:
    return occupancy("90a", registers=registers, shared=0, threads=threads).blocks
