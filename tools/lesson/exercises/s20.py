"""Exercises of notebooks/s20_mma."""

from __future__ import annotations

import numpy as np

from tools.lesson.answers import exercise


def accumulator(lane, register):
    """Which element (row, column) of the 16 × 8 accumulator C lane `lane` holds in register `register`, 0 to 3."""
    return lane // 4 + register // 2 * 8, lane % 4 * 2 + register % 2


@exercise(
    "s20.accumulator",
    solution=accumulator,
    wrong=(
        lambda lane, register: (lane // 4 + register // 2, lane % 4 * 2 + register % 2),
        lambda lane, register: (lane // 4 + register % 2 * 8, lane % 4 * 2 + register // 2),
        lambda lane, register: (lane // 4 + register // 2 * 8, lane % 4 + register % 2),
        lambda lane, register: (lane % 8, lane // 8 * 2 + register % 2),
        lambda lane, register: (lane // 4, register),
    ),
    hints=(
        "In the picture, go down the first column: which lanes, and which of their registers? Then along the first "
        "row.",
        "Eight rows of four lanes are all 32 lanes: the lane's row is lane // 4, its pair of columns begins at "
        "2 · (lane % 4).",
        "c0 and c1 are neighbours in a row. c2 and c3 are the same columns, eight rows further down.",
    ),
)
def check_accumulator(answer) -> str:
    from tools.emulator.fragments import multiplied

    C = multiplied()["C"]
    for lane in range(32):
        for register in range(4):
            want, got = C.element(lane, register), tuple(answer(lane, register))
            if got != want:
                return f"lane {lane}, register c{register}: you say {got}, and the instruction {want}"
    return ""


QUAD_SUM = """
__global__ void quad_sum(const float* x, float* y) {
  const int lane = threadIdx.x;
  float v = ld_global(x + lane);
  v += shfl_xor(v, 1);
  v += shfl_xor(v, 2);
  st_global(y + lane, v);
}
"""


def _lines(*lines: str) -> str:
    return QUAD_SUM.replace("  v += shfl_xor(v, 1);\n  v += shfl_xor(v, 2);\n", "".join(f"  {x}\n" for x in lines))


@exercise(
    "s20.quad_sum",
    solution=QUAD_SUM,
    wrong=(
        _lines(),
        _lines("v += shfl_xor(v, 1);"),
        _lines("v += shfl_xor(v, 1);", "v += shfl_xor(v, 3);", "v += shfl_xor(v, 2);"),
        _lines("v += shfl_xor(v, 1);", "v += shfl_xor(v, 2);", "v += shfl_xor(v, 4);"),
        _lines("v += shfl_down(v, 1);", "v += shfl_down(v, 2);"),
        _lines("if (lane % 2 == 0) v += shfl_xor(v, 1);", "v += shfl_xor(v, 2);"),
        _lines("v += shuffle(v, 1);"),
    ),
    hints=(
        "After `v += shfl_xor(v, 1)` lanes 0 and 1 both have the sum of the two. Who has to meet next?",
        "Lane 0 has the sum of lanes 0 and 1, lane 2 that of lanes 2 and 3. 0 XOR 2 is 2.",
        "A second line, with 2 in place of 1. All lanes execute both: a shuffle is an instruction of the whole warp.",
    ),
)
def check_quad_sum(answer) -> str:
    from tools.lesson.answers import no_answer_if
    from tools.lesson.tiny import tiny

    no_answer_if("..." in answer)
    x = np.random.default_rng(0).integers(-99, 100, 32).astype(np.float32)
    y = np.full(32, np.nan, np.float32)
    ran = tiny(answer, x=x, y=y)
    if not ran.clean:
        return ran.text
    want = x.reshape(8, 4).sum(axis=1).repeat(4)
    for lane in np.flatnonzero(~(y == want)):
        quad = lane // 4 * 4
        held = x[quad : quad + 4].astype(int)
        return f"lane {lane} has {y[lane]:g}; lanes {quad} to {quad + 3} hold {held}, {want[lane]:g} in all"
    return ""


def per_tile(d):
    """(ldmatrix, mma) that a warp issues for one K/V tile of 64 keys."""
    QK, PV = (d // 16) * (64 // 16), (64 // 16) * (d // 16)  # rounds of the loops over k and n
    return QK + PV, 2 * (QK + PV)


@exercise(
    "s20.per_tile",
    solution=per_tile,
    wrong=(
        lambda d: (d // 16 * 4, 2 * d // 16 * 4),
        lambda d: (d // 2, d // 2),
        lambda d: (4 * d // 2, 4 * d),
        lambda d: (64, 128),
    ),
    hints=(
        "The loops of S = Q Kᵀ: k takes d / 16 values and n takes 64 / 16. What stands inside?",
        "One ldmatrix_x4 and two mma. Now the loops of O += P V: which bound has d in it there?",
        "k takes 64 / 16 values and n takes d / 16; inside are again one ldmatrix_x4 and two mma. Add the two up.",
    ),
)
def check_per_tile(answer) -> str:
    from stages import get
    from tools.lesson.live import emulated

    for d in (64, 128):
        counts = []
        for seqlen_k in (64, 128):  # what a second K/V tile adds is what a tile takes
            fields = {"headdim": d, "seqlen_q": 64, "seqlen_k": seqlen_k, "causal": False, "nheads": 1, "nheads_k": 1}
            report = emulated("s20", **fields).report
            counts.append([report.total("instructions", ops) for ops in (("ldmatrix", "ldmatrix.trans"), "mma")])
        warps = get("s20").tiles["num_warps"]
        want = tuple((b - a) // warps for a, b in zip(*counts))
        got = tuple(answer(d))
        if got != want:
            return f"head dim {d}: you say {got}; the emulator counts other numbers"
    return ""
