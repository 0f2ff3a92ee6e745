"""Exercises of notebooks/s27_fp32_throughput."""

from __future__ import annotations

import numpy as np

from tools.lesson.answers import exercise

LOG2_E = np.log2(np.e)


def constants(scale, m):
    """(c, m_c) with exp2(s·c - m_c) = exp(scale·s - scale·m); m: a row's maximum, not scaled, or -inf."""
    c = scale * LOG2_E
    return c, 0.0 if m == -np.inf else m * c


@exercise(
    "s27.constants",
    solution=constants,
    wrong=(
        lambda scale, m: (scale, m * scale),
        lambda scale, m: (scale * LOG2_E, m),
        lambda scale, m: (scale * LOG2_E, m * scale),
        lambda scale, m: (scale / LOG2_E, m * scale / LOG2_E),
        lambda scale, m: (scale * LOG2_E, m * scale * LOG2_E),
    ),
    hints=(
        "exp(x) = exp2(x·log2(e)). Put both scores under it: exp2(log2(e)·(scale·s - scale·m)).",
        "Multiply out: c = scale·log2(e) stands in front of s and in front of m.",
        "A row that has seen no key has m = -inf: every s is -inf as well. m_c has to be a finite number: 0.",
    ),
)
def check_constants(answer) -> str:
    for scale in (128**-0.5, 0.125, 1.0, 3.0):
        for scores in ([1.0, 2.0, 3.0], [-50.0, 7.5, -np.inf], [900.0, 899.0, 0.0], [-np.inf, -np.inf]):
            s = np.array(scores)
            c, m_c = answer(scale, s.max())
            with np.errstate(all="ignore"):
                got = np.exp2(s * c - m_c)
            m = 0.0 if s.max() == -np.inf else s.max()
            want = np.exp(scale * s - scale * m)
            if not np.allclose(got, want, rtol=1e-9, atol=1e-300):
                return f"scale {scale:.4g}, scores {scores}: the weights are {got.round(4)}, not {want.round(4)}"
    return ""


def counts(d, Bc):
    """{"FMUL", "FFMA", "FADD", "MUFU"}: instructions of a thread for a K/V tile of Bc keys in s27's loop, 16 rows a
    warp."""
    scores, rows, elements = 16 * Bc // 32, 2, 16 * d // 32
    return {
        "FMUL": elements + 2 * rows,  # O × alpha; alpha's exponent; m·c
        "FFMA": scores + rows,  # s·c - m·c; l × alpha + the first exponential
        "FADD": scores - rows + rows,  # the other exponentials into l; m - m_new
        "MUFU": scores + rows,  # of the scores; alpha
    }


@exercise(
    "s27.counts",
    solution=counts,
    wrong=(
        lambda d, Bc: counts(d, Bc) | {"FMUL": counts(d, Bc)["FMUL"] + 2 * 16 * Bc // 32},
        lambda d, Bc: counts(d, Bc) | {"FFMA": 16 * Bc // 32},
        lambda d, Bc: counts(d, Bc) | {"MUFU": 2 * 16 * Bc // 32},
        lambda d, Bc: counts(64, Bc),
        lambda d, Bc: {name: 32 * n for name, n in counts(d, Bc).items()},
    ),
    hints=(
        "A warp has 16 rows of Bc scores and 16 rows of d elements of O; a thread has a 32nd of each, in two rows.",
        "FMUL: every element of O times alpha; and for each row, alpha's exponent and m·c. FFMA and MUFU: one a score "
        "and one a row. Which is the FFMA of a row? l × alpha + the first exponential.",
        "FADD: l takes in all exponentials of a row but the first, and each row has its m - m_new.",
    ),
)
def check_counts(answer) -> str:
    from tools.lesson.recorded import instructions

    for d in (64, 128):
        recorded = instructions("s27", "FMUL", "FFMA", "FADD", "MUFU", headdim=d)
        got = answer(d, 64)
        for name, number in recorded.items():
            if got[name] != number:
                return f"d = {d}, Bc = 64: you say {got[name]} {name}; the machine code has another number"
    return ""
