"""Exercises of notebooks/s02_online_softmax."""
# ruff: noqa: E741  the papers' symbols: l for a row's sum, O for the output

from __future__ import annotations

import numpy as np

from tools.lesson.answers import exercise


def take(m, l, scores):
    """m, l of the scores so far, and some more scores, -inf where masked -> m, l of all. Before the first: -inf, 0."""
    m_new = max(m, scores.max())
    if m_new == -np.inf:
        return m, l
    return m_new, np.exp(m - m_new) * l + np.exp(scores - m_new).sum()


def _take_without_rescaling(m, l, scores):
    m_new = max(m, scores.max())
    return (m, l) if m_new == -np.inf else (m_new, l + np.exp(scores - m_new).sum())


def _take_upside_down(m, l, scores):
    m_new = max(m, scores.max())
    if m_new == -np.inf:
        return m, l
    alpha = np.exp(m_new - m) if m > -np.inf else 0.0
    return m_new, alpha * l + np.exp(scores - m_new).sum()


def _take_last_maximum(m, l, scores):
    m_new = scores.max()
    return (m, l) if m_new == -np.inf else (m_new, np.exp(m - m_new) * l + np.exp(scores - m_new).sum())


def _take_with_nan(m, l, scores):
    m_new = max(m, scores.max())
    return m_new, np.exp(m - m_new) * l + np.exp(scores - m_new).sum()


@exercise(
    "s02.take",
    solution=take,
    wrong=(_take_without_rescaling, _take_upside_down, _take_last_maximum, _take_with_nan),
    hints=(
        "Two things can happen: the new scores hold a larger one than m, or they do not. One formula serves both.",
        "m_new = max(m, scores.max()). The old l was counted under m; under m_new it is exp(m - m_new) times as large.",
        "While no score but -inf was seen, m_new is -inf and -inf - -inf is NaN: return m, l as they are.",
    ),
)
def check_take(answer) -> str:
    rng = np.random.default_rng(2)
    rows = {
        "scores that grow": [np.array([1.0, 2, 3]), np.array([5.0, 4, 0]), np.array([9.0, 9, 9])],
        "scores that fall": [np.array([9.0, 8]), np.array([3.0, 1]), np.array([-4.0, 0])],
        "random scores": [10 * rng.standard_normal(5) for _ in range(6)],
        "a masked tile between others": [np.array([1.0, 2]), np.full(2, -np.inf), np.array([3.0, -np.inf])],
        "masked tiles first": [np.full(3, -np.inf), np.full(3, -np.inf), np.array([2.0, 1, 0])],
        "masked tiles alone": [np.full(3, -np.inf), np.full(3, -np.inf)],
        "scores of a thousand": [np.array([1000.0, 999]), np.array([1001.0, 1])],
    }
    for what, tiles in rows.items():
        m, l, seen = -np.inf, 0.0, []
        for number, tile in enumerate(tiles):
            with np.errstate(all="ignore"):
                m, l = answer(m, l, tile.copy())
            seen = np.concatenate([seen, tile])
            top = seen.max()
            total = 0.0 if top == -np.inf else np.exp(seen - top).sum()
            for name, got, want in (("m", m, top), ("l", l, total)):
                if not (got == want or np.isclose(got, want, rtol=1e-9)):
                    return f"{what}, tile {number}: {name} is {got:.6g}, and not {want:.6g}"
    return ""


def merge(a, b):
    """a, b: (m [rows], l [rows], O [rows, d], not divided by l) over two sets of keys -> the same over both.

    m is the larger of the two maxima."""
    (m_a, l_a, O_a), (m_b, l_b, O_b) = a, b
    m = np.maximum(m_a, m_b)
    m_safe = np.where(m == -np.inf, 0, m)
    w_a, w_b = np.exp(m_a - m_safe), np.exp(m_b - m_safe)
    return m, w_a * l_a + w_b * l_b, w_a[:, None] * O_a + w_b[:, None] * O_b


def _merge_by_adding(a, b):
    return np.maximum(a[0], b[0]), a[1] + b[1], a[2] + b[2]


def _merge_one_side(a, b):
    """As if a's maximum were never the smaller one."""
    w = np.exp(b[0] - np.where(a[0] == -np.inf, 0, a[0]))
    return np.maximum(a[0], b[0]), a[1] + w * b[1], a[2] + w[:, None] * b[2]


def _merge_crosswise(a, b):
    m = np.maximum(a[0], b[0])
    m = np.where(m == -np.inf, 0, m)
    w_a, w_b = np.exp(b[0] - m), np.exp(a[0] - m)
    return np.maximum(a[0], b[0]), w_a * a[1] + w_b * b[1], w_a[:, None] * a[2] + w_b[:, None] * b[2]


def _merge_with_nan(a, b):
    m = np.maximum(a[0], b[0])
    w_a, w_b = np.exp(a[0] - m), np.exp(b[0] - m)
    return m, w_a * a[1] + w_b * b[1], w_a[:, None] * a[2] + w_b[:, None] * b[2]


def partial(S, V):
    """(m, l, O) over the keys of S [rows, keys]; V [keys, d]; for no keys, or masked ones only: (-inf, 0, 0)."""
    m = S.max(axis=1, initial=-np.inf)
    P = np.exp(S - np.where(m == -np.inf, 0, m)[:, None])
    return m, P.sum(axis=1), P @ V


@exercise(
    "s02.merge",
    solution=merge,
    wrong=(_merge_by_adding, _merge_one_side, _merge_crosswise, _merge_with_nan),
    hints=(
        "Both sides have to stand under the same maximum before their sums may be added. Which one?",
        "m = np.maximum(m_a, m_b); a's l and O are multiplied by exp(m_a - m), b's by exp(m_b - m).",
        "Where neither side saw a key, m is -inf: subtract 0 there, and both weights are exp(-inf) = 0.",
    ),
)
def check_merge(answer) -> str:
    rng = np.random.default_rng(3)
    S, V = 3 * rng.standard_normal((5, 12)), rng.standard_normal((12, 4))
    S[1, 4:] += 40  # b's maximum is far above a's,
    S[2, :4] += 40  # and far below
    S[3, :4] = -np.inf  # a saw no key,
    S[4] = -np.inf  # neither did
    for split in (4, 12, 0):
        with np.errstate(all="ignore"):
            got = answer(partial(S[:, :split], V[:split]), partial(S[:, split:], V[split:]))
        for name, x, want in zip(("m", "l", "O"), got, partial(S, V), strict=True):
            x = np.asarray(x)
            if x.shape != want.shape:
                return f"{name} has the shape {x.shape}, and not {want.shape}"
            if np.isnan(x).any():
                return f"{name} has NaN, in row {int(np.argwhere(np.isnan(x))[0][0])} of {split} + {12 - split} keys"
            if not np.allclose(x, want, rtol=1e-9):
                return f"{name} is off, for {split} + {12 - split} keys"
    return ""


def _number(name: str, right, wrong, hints) -> None:
    """An exercise whose answer is a number, or a pair of them."""

    @exercise(name, solution=right, wrong=wrong, hints=hints)
    def check(answer) -> str:
        if np.ndim(answer) != np.ndim(right) or np.size(answer) != np.size(right):
            wanted = f"{np.size(right)} numbers" if np.ndim(right) else "a number"
            return f"it is {wanted}, and you gave {answer!r}"
        return "" if np.array_equal(answer, right) else f"it is not {answer!r}"


_number(
    "s02.unseen",
    right=3,
    wrong=(0, 2, 5),
    hints=("Key j is visible to query i if j <= i + seqlen_k - seqlen_q. For which i is not even j = 0?",),
)
_number(
    "s02.neutral",
    right=(-np.inf, 0),
    wrong=((0, 0), (-np.inf, 1), (0, 1), [0, 0], np.zeros(2), -np.inf, "nothing"),
    hints=("What a walk starts with, before the first key: no score was seen, and nothing was summed.",),
)
_number(
    "s02.share",
    right=4096,
    wrong=(64, 128, 16384, 1 / 4096),
    hints=("S has 4096 · 4096 scores. A tile of it has Br · Bc.",),
)
