"""Exercises of notebooks/s26_peel_first_block."""
# ruff: noqa: E741  the papers' symbols: l for a row's sum, O for the output

from __future__ import annotations

import numpy as np

from tools.lesson.answers import exercise


def peeled(scores, values, rows, d):
    """scores: S tiles [rows, Bc] in the order of the walk, -inf where masked; values: V tiles [Bc, d] -> (O, L)."""
    if not scores:  # a Q tile that sees no key needs its zeros after all
        return np.zeros((rows, d)), np.full(rows, -np.inf)
    m = scores[0].max(axis=1)
    P = np.exp(scores[0] - _safe(m)[:, None])
    l, O = P.sum(axis=1), P @ values[0]
    for S, V in zip(scores[1:], values[1:]):
        m_new = np.maximum(m, S.max(axis=1))
        alpha = np.exp(m - _safe(m_new))
        P = np.exp(S - _safe(m_new)[:, None])
        l, O, m = alpha * l + P.sum(axis=1), alpha[:, None] * O + P @ V, m_new
    l = np.where(l == 0, 1, l)
    return O / l[:, None], m + np.log(l)


def _safe(m):
    return np.where(m == -np.inf, 0, m)


def _no_tile_at_all(scores, values, rows, d):
    return peeled(scores[:1] + scores[1:], values, rows, d) if scores else (scores[0], values[0])


def _no_guard(scores, values, rows, d):
    if not scores:
        return np.zeros((rows, d)), np.full(rows, -np.inf)
    m = scores[0].max(axis=1)
    P = np.exp(scores[0] - m[:, None])
    l, O = P.sum(axis=1), P @ values[0]
    for S, V in zip(scores[1:], values[1:]):
        m_new = np.maximum(m, S.max(axis=1))
        alpha = np.exp(m - m_new)
        P = np.exp(S - m_new[:, None])
        l, O, m = alpha * l + P.sum(axis=1), alpha[:, None] * O + P @ V, m_new
    return O / l[:, None], m + np.log(l)


def _first_tile_twice(scores, values, rows, d):
    return peeled(scores[:1] + scores, values[:1] + values, rows, d)


def _never_rescales(scores, values, rows, d):
    if not scores:
        return np.zeros((rows, d)), np.full(rows, -np.inf)
    m = np.maximum.reduce([S.max(axis=1) for S in scores[:1]])
    P = [np.exp(S - _safe(m)[:, None]) for S in scores]
    l, O = sum(p.sum(axis=1) for p in P), sum(p @ V for p, V in zip(P, values))
    l = np.where(l == 0, 1, l)
    return O / l[:, None], m + np.log(l)


def _only_the_first(scores, values, rows, d):
    return peeled(scores[:1], values[:1], rows, d)


@exercise(
    "s26.peeled",
    solution=peeled,
    wrong=(_no_tile_at_all, _no_guard, _first_tile_twice, _never_rescales, _only_the_first),
    hints=(
        "The first tile gives m, l and O outright: m = S.max, P = exp(S - m), l = P.sum, O = P @ V. "
        "Then s02's step for the others.",
        "A row that has seen no key yet has m = -inf, and -inf - -inf is NaN: subtract 0 there, "
        "in the first tile as in the others.",
        "Without any tile: O = 0 and L = -inf. And a row with l = 0 is divided by 1.",
    ),
)
def check_peeled(answer) -> str:
    random = np.random.default_rng(0)
    rows, d, Bc = 6, 5, 4
    for what, tiles, hidden in (
        ("one tile", 1, ()),
        ("four tiles", 4, ()),
        ("a first tile in which some rows see no key", 4, [(0, slice(2, 5))]),
        ("a row that sees no key in any tile", 3, [(j, slice(1, 2)) for j in range(3)]),
        ("no tile at all", 0, ()),
    ):
        scores = [random.normal(0, 3, (rows, Bc)) + 5 * j for j in range(tiles)]
        values = [random.normal(size=(Bc, d)) for _ in range(tiles)]
        for j, some in hidden:
            scores[j][some] = -np.inf
        with np.errstate(all="ignore"):
            O, L = answer([S.copy() for S in scores], [V.copy() for V in values], rows, d)
        S = np.concatenate(scores, axis=1) if tiles else np.full((rows, 1), -np.inf)
        V = np.concatenate(values) if tiles else np.zeros((1, d))
        m = _safe(S.max(axis=1))
        P = np.exp(S - m[:, None])
        with np.errstate(divide="ignore"):
            want_L = m + np.log(P.sum(axis=1))
        want_O = P @ V / np.where(P.sum(axis=1) == 0, 1, P.sum(axis=1))[:, None]
        for name, got, want in (("O", np.asarray(O), want_O), ("L", np.asarray(L), want_L)):
            if got.shape != want.shape:
                return f"{what}: {name} has the shape {got.shape}, not {want.shape}"
            if np.isnan(got).any():
                return f"{what}: {name} has NaN"
            if not np.allclose(got, want, rtol=0, atol=1e-9):
                return f"{what}: {name} is not what softmax over all keys at once gives"
    return ""


def prize(tiles, clearing, rescaling, loop):
    """Share of a walk's instructions, between 0 and 1, that go when the first of `tiles` tiles is peeled."""
    return (clearing + rescaling) / (clearing + tiles * loop)


@exercise(
    "s26.prize",
    solution=prize,
    wrong=(
        lambda tiles, clearing, rescaling, loop: tiles * (clearing + rescaling) / (clearing + tiles * loop),
        lambda tiles, clearing, rescaling, loop: rescaling / (clearing + tiles * loop),
        lambda tiles, clearing, rescaling, loop: (clearing + rescaling) / (clearing + loop),
    ),
    hints=(
        "Before: clear once, then the loop's body for every tile. Which of these instructions go, "
        "and how often is each executed?",
        "What goes: the clearing, once, and the rescaling of one tile. Out of clearing + tiles × loop.",
    ),
)
def check_prize(answer) -> str:
    for tiles, clearing, rescaling, loop in ((8, 34, 68, 996), (64, 34, 68, 996), (1, 10, 20, 100)):
        got, want = float(answer(tiles, clearing, rescaling, loop)), prize(tiles, clearing, rescaling, loop)
        if abs(got - want) > 1e-12:
            return f"{tiles} tiles, {clearing} + {rescaling} instructions, a loop of {loop}: {got:.4f} is another share"
    return ""
