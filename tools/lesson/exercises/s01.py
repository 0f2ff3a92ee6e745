"""Exercises of notebooks/s01_naive."""

from __future__ import annotations

import numpy as np

from tools.lesson.answers import exercise


def softmax(S):
    """S [rows, columns] -> P of the same shape, each row positive with sum 1; a row of -inf alone gives zeros."""
    m = S.max(axis=1, keepdims=True)
    P = np.exp(S - np.where(m == -np.inf, 0, m))
    l = P.sum(axis=1, keepdims=True)  # noqa: E741
    return P / np.where(l == 0, 1, l)


def _no_maximum(S):
    P = np.exp(S)
    return P / P.sum(axis=1, keepdims=True)


def _one_maximum(S):
    P = np.exp(S - S.max())
    return P / P.sum(axis=1, keepdims=True)


def _no_empty_row(S):
    P = np.exp(S - S.max(axis=1, keepdims=True))
    return P / P.sum(axis=1, keepdims=True)


def _along_columns(S):
    P = np.exp(S - S.max(axis=0, keepdims=True))
    return P / P.sum(axis=0, keepdims=True)


@exercise(
    "s01.softmax",
    solution=softmax,
    wrong=(_no_maximum, _one_maximum, _no_empty_row, _along_columns),
    hints=(
        "exp(1000) is inf in float32. What can be subtracted from a whole row and leave its softmax as it is?",
        "The row's maximum, S.max(axis=1, keepdims=True): then the largest exponent is 0.",
        "A row of -inf alone has -inf for its maximum, and -inf - -inf is NaN. Subtract 0 there, and divide by 1.",
    ),
)
def check_softmax(answer) -> str:
    rng = np.random.default_rng(0)
    S = rng.standard_normal((4, 7)).astype(np.float32)
    masked = S.copy()
    masked[1, 3:] = -np.inf
    apart = S + np.array([[0], [300], [-300], [1000]], np.float32)
    empty = S.copy()
    empty[2] = -np.inf
    for what, scores in (
        ("a small matrix", S),
        ("masked keys", masked),
        ("rows whose scores lie far apart", apart),
        ("a row that sees no key", empty),
    ):
        with np.errstate(all="ignore"):
            P = np.asarray(answer(scores.copy()))
        want = softmax(scores.astype(np.float64))
        if P.shape != scores.shape:
            return f"the shape is {P.shape} for scores of shape {scores.shape}"
        if not np.isfinite(P).all():
            return f"{what}: P has {'NaN' if np.isnan(P).any() else 'inf'}"
        if np.abs(P - want).max() > 1e-5:
            return f"{what}: P is off by {np.abs(P - want).max():.2g}"
    return ""


@exercise(
    "s01.bytes",
    solution=lambda seqlen, d: 4 * (4 * seqlen * d + 4 * seqlen * seqlen),
    wrong=(
        lambda seqlen, d: 4 * (4 * seqlen * d),
        lambda seqlen, d: 4 * seqlen * seqlen,
        lambda seqlen, d: 4 * seqlen * d + 4 * seqlen * seqlen,
    ),
    hints=(
        "Three steps, S = QKᵀ, P = softmax(S), O = PV. Write down what each reads and what it writes.",
        "S is written once and read once, and so is P. Each float32 has 4 bytes.",
    ),
)
def check_bytes(answer) -> str:
    for seqlen, d in ((64, 64), (1024, 64), (4096, 128)):
        want = 4 * (4 * seqlen * d + 4 * seqlen * seqlen)
        got = answer(seqlen, d)
        if got != want:
            return f"seqlen {seqlen}, d {d}: {got:,} bytes; it is another number"
    return ""
