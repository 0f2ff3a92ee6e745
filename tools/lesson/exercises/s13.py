"""Exercises of notebooks/s13_triton_tuned, and the self-check of part 1."""
# ruff: noqa: E741  the papers' symbols: l for a row's sum

from __future__ import annotations

import inspect

import numpy as np

from tools.lesson.answers import exercise
from tools.pictures.budget import budget

LOG2_E = 1.4426950408889634


@exercise(
    "s13.budget",
    solution=lambda Br, Bc, d: (4 * Br * Bc * d / 4096, Br * Bc / 16, 4 * Bc * d / 64),
    wrong=(
        lambda Br, Bc, d: (2 * Br * Bc * d / 4096, Br * Bc / 16, 4 * Bc * d / 64),
        lambda Br, Bc, d: (4 * Br * Bc * d / 4096, Br * Bc * d / 16, 4 * Bc * d / 64),
        lambda Br, Bc, d: (4 * Br * Bc * d / 4096, Br * Bc / 16, 2 * Bc * d / 64),
        lambda Br, Bc, d: (4 * Br * Bc * d / 4096, Br * Bc / 16, 4 * (Br + Bc) * d / 64),
    ),
    hints=(
        "Q Kᵀ is Br·Bc sums of d products: 2·Br·Bc·d operations. P V is as many.",
        "One exponential a score. K and V have Bc·d elements each, of 2 bytes; Q is there already.",
    ),
)
def check_budget(answer) -> str:
    for Br, Bc, d in ((64, 64, 128), (64, 64, 64), (128, 32, 256)):
        of = budget("s12", d, Br, Bc)
        want = {"products": of.products, "exponentials": of.exponentials, "copies": of.copies}
        for (name, right), got in zip(want.items(), answer(Br, Bc, d), strict=True):
            if not np.isclose(got, right):
                return f"Br {Br}, Bc {Bc}, d {d}: {name} take {got:g} cycles; it is another number"
    return ""


def softmax2(S, softmax_scale):
    """S [rows, keys], not scaled -> P = exp(scale·S - its maximum), L = log Σ exp(scale·S)."""
    c = softmax_scale * LOG2_E
    m = S.max(axis=1) * c
    P = np.exp2(S * c - m[:, None])
    return P, (m + np.log2(P.sum(axis=1))) / LOG2_E


def _L_in_base_2(S, softmax_scale):
    P, L = softmax2(S, softmax_scale)
    return P, L * LOG2_E


def _no_log2_e(S, softmax_scale):
    m = S.max(axis=1) * softmax_scale
    P = np.exp2(S * softmax_scale - m[:, None])
    return P, m + np.log2(P.sum(axis=1))


def _m_not_scaled(S, softmax_scale):
    c = softmax_scale * LOG2_E
    m = S.max(axis=1)
    P = np.exp2(S * c - m[:, None])
    return P, (m + np.log2(P.sum(axis=1))) / LOG2_E


def _base_e(S, softmax_scale):
    m = S.max(axis=1) * softmax_scale
    P = np.exp(S * softmax_scale - m[:, None])
    return P, m + np.log(P.sum(axis=1))


@exercise(
    "s13.softmax2",
    solution=softmax2,
    wrong=(_L_in_base_2, _no_log2_e, _m_not_scaled, _base_e),
    hints=(
        "exp(x) = exp2(x · log2(e)). So P = exp2(c·S - m) with c = scale · log2(e), and m in the same units.",
        "The maximum of c·S is c times the maximum of S, as c is above 0: a multiplication a row, not one a score.",
        "L in base 2 is m + np.log2(P.sum(axis=1)); divided by log2(e) it is the natural logarithm.",
    ),
)
def check_softmax2(answer) -> str:
    if {"exp", "log", "expm1"} & set(getattr(getattr(inspect.unwrap(answer), "__code__", None), "co_names", ())):
        return "np.exp and np.log are what it is to do without"
    rng = np.random.default_rng(5)
    for size, scale in ((1, 1.0), (8, 0.125), (40, 0.25)):
        S = size * rng.standard_normal((4, 9)) - size
        x = S * scale
        m = x.max(axis=1, keepdims=True)
        want = {"P": np.exp(x - m), "L": m[:, 0] + np.log(np.exp(x - m).sum(axis=1))}
        for (name, right), got in zip(want.items(), answer(S.copy(), scale), strict=True):
            if np.shape(got) != right.shape:
                return f"{name} has the shape {np.shape(got)}, and not {right.shape}"
            if not np.allclose(got, right, rtol=1e-9):
                return f"scores of about {size * scale:g}: {name} is off by {np.abs(got - right).max():.2g}"
    return ""


def bounds(i, Br, Bc, seqlen_q, seqlen_k):
    """full, last_key: the full K/V tiles of the Q tile at row i end at key `full`; at `last_key` no row sees more."""
    shift = seqlen_k - seqlen_q
    return max(min(seqlen_k, i + 1 + shift), 0) // Bc * Bc, min(seqlen_k, i + Br + shift)


@exercise(
    "s13.bounds",
    solution=bounds,
    wrong=(
        lambda i, Br, Bc, q, k: (max(min(k, i + k - q), 0) // Bc * Bc, min(k, i + Br + k - q)),
        lambda i, Br, Bc, q, k: (max(min(k, i + Br + k - q), 0) // Bc * Bc, min(k, i + Br + k - q)),
        lambda i, Br, Bc, q, k: (-(-max(min(k, i + 1 + k - q), 0) // Bc) * Bc, min(k, i + Br + k - q)),
        lambda i, Br, Bc, q, k: (max(min(k, i + 1), 0) // Bc * Bc, min(k, i + Br)),
    ),
    hints=(
        "A tile is full if the row that sees the fewest keys sees all of it. Which row of a Q tile is that?",
        "The first, i: it sees the keys below i + 1 + seqlen_k - seqlen_q, if there are so many; round down to tiles.",
        "last_key is that of s12: what the last row sees, i + Br + seqlen_k - seqlen_q, and no more than seqlen_k.",
    ),
)
def check_bounds(answer) -> str:
    for Br, Bc, seqlen_q, seqlen_k in (
        (64, 64, 256, 256), (64, 64, 256, 448), (64, 64, 448, 256), (64, 64, 128, 191), (32, 16, 100, 130),
        (32, 16, 130, 100), (64, 32, 64, 63),
    ):  # fmt: skip
        visible = np.arange(seqlen_k)[None, :] <= np.arange(seqlen_q)[:, None] + seqlen_k - seqlen_q
        for i in range(0, seqlen_q, Br):
            rows = visible[i : i + Br]
            full = next((j for j in range(0, seqlen_k, Bc) if not rows[:, j : j + Bc].all()), seqlen_k) // Bc * Bc
            seen = np.flatnonzero(rows.any(axis=0))
            last = int(seen[-1]) + 1 if len(seen) else 0
            got = answer(i, Br, Bc, seqlen_q, seqlen_k)
            for name, mine, right in (("full", got[0], full), ("last_key", max(0, got[1]), last)):
                if mine != right:
                    return (
                        f"i {i}, Br {Br}, Bc {Bc}, {seqlen_q} queries, {seqlen_k} keys: {name} is {mine}, not {right}"
                    )
    return ""


def _number(name: str, right, wrong, hints) -> None:
    """An exercise whose answer is a number."""

    @exercise(name, solution=right, wrong=wrong, hints=hints)
    def check(answer) -> str:
        return "" if answer == right else f"it is not {answer!r}"


_number(
    "s13.programs",
    right=256,
    wrong=(250, 240, 16, 16000),
    hints=("batch × heads × Q tiles; the last Q tile may be short, but it is one.",),
)
_number(
    "s13.registers",
    right=64,
    wrong=(32, 128, 256, 8192),
    hints=("O has 64 · 128 elements, and a register holds one float32.",),
)
_number(
    "s13.masked",
    right=16,
    wrong=(136, 256, 32, 120),
    hints=("1024 / 64 tiles each way. The diagonal passes through how many?",),
)
