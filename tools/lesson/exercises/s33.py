"""Exercises of notebooks/s33_lazy_rescale."""
# ruff: noqa: E741  the papers' symbols: l for a row's sum, O for the output

from __future__ import annotations

import numpy as np

from tools.lesson.answers import exercise
from tools.pictures import lazy

# ---- the step -------------------------------------------------------------------------------------------------------

BOUND = 8.0


def step(O, m, l, S, V):
    """The reference m moves, and O and l with it, only where a maximum has grown past it by more than BOUND."""
    m_new = np.maximum(m, S.max(axis=1))
    if (m_new - m > BOUND).any():  # one vote for all rows; inf > BOUND: the first keys that a row sees
        alpha = np.where(m_new == -np.inf, 1.0, np.exp2(m - m_new))
        O, l, m = O * alpha[:, None], l * alpha, m_new
    P = np.exp2(S - np.where(m == -np.inf, 0.0, m)[:, None])
    return O + P @ V, m, l + P.sum(axis=1)


def _eager(O, m, l, S, V):
    m_new = np.maximum(m, S.max(axis=1))
    alpha = np.where(m_new == -np.inf, 1.0, np.exp2(m - m_new))
    P = np.exp2(S - np.where(m_new == -np.inf, 0.0, m_new)[:, None])
    return O * alpha[:, None] + P @ V, m_new, l * alpha + P.sum(axis=1)


def _never(O, m, l, S, V):
    m = np.where(m == -np.inf, S.max(axis=1), m)
    P = np.exp2(S - np.where(m == -np.inf, 0.0, m)[:, None])
    return O + P @ V, m, l + P.sum(axis=1)


def _new_maximum(O, m, l, S, V):
    """P under the new maximum, O and l under the old reference."""
    m_new = np.maximum(m, S.max(axis=1))
    if (m_new - m > BOUND).any():
        alpha = np.where(m_new == -np.inf, 1.0, np.exp2(m - m_new))
        O, l, m = O * alpha[:, None], l * alpha, m_new
    P = np.exp2(S - np.where(m_new == -np.inf, 0.0, m_new)[:, None])
    return O + P @ V, m, l + P.sum(axis=1)


def _forgets_l(O, m, l, S, V):
    m_new = np.maximum(m, S.max(axis=1))
    if (m_new - m > BOUND).any():
        O, m = O * np.where(m_new == -np.inf, 1.0, np.exp2(m - m_new))[:, None], m_new
    P = np.exp2(S - np.where(m == -np.inf, 0.0, m)[:, None])
    return O + P @ V, m, l + P.sum(axis=1)


def _not_a_number(O, m, l, S, V):
    m_new = np.maximum(m, S.max(axis=1))
    if (m_new - m > BOUND).any():
        alpha = np.exp2(m - m_new)
        O, l, m = O * alpha[:, None], l * alpha, m_new
    P = np.exp2(S - m[:, None])
    return O + P @ V, m, l + P.sum(axis=1)


def _walk(step, tiles, V):
    """O, m and l after each tile of scores."""
    rows = tiles[0].shape[0]
    O, m, l = np.zeros((rows, V.shape[1])), np.full(rows, -np.inf), np.zeros(rows)
    states = []
    for S in tiles:
        O, m, l = (np.array(x, np.float64) for x in step(O.copy(), m.copy(), l.copy(), S.copy(), V))
        states.append((O, m, l))
    return states


@exercise(
    "s33.step",
    solution=step,
    wrong=(_eager, _never, _new_maximum, _forgets_l, _not_a_number),
    hints=(
        "Start from the online softmax of s02. m_new = np.maximum(m, S.max(axis=1)) is as before. Only what depends on "
        "it now stands under an if.",
        "if (m_new - m > 8).any(): rescale O and l by exp2(m - m_new) and set m = m_new. P uses m, whatever it is.",
        "A row that has seen no key has m = -inf, and -inf - -inf is NaN: its factor is 1, and it subtracts 0 for P.",
    ),
)
def check_step(answer) -> str:
    rng = np.random.default_rng(0)
    V = rng.standard_normal((8, 4))

    def tiles(growth):
        return [rng.standard_normal((6, 8)) + growth * j for j in range(4)]

    empty = tiles(0.0)
    for S in empty[:2]:
        S[3:] = -np.inf
    for what, walk in (
        ("scores that stay as they are", tiles(0.0)),
        ("maxima that grow by 3 from tile to tile", tiles(3.0)),
        ("maxima that grow by 30", tiles(30.0)),
        ("rows that see no key in the first two tiles", empty),
    ):
        with np.errstate(all="ignore"):
            mine, right = _walk(answer, walk, V), _walk(step, walk, V)
        for number, ((O, m, l), (_, right_m, _)) in enumerate(zip(mine, right, strict=True), 1):
            if not all(np.isfinite(x[~np.isneginf(x)]).all() for x in (O, m, l)):
                return f"{what}: NaN or inf after tile {number}"
            S = np.concatenate(walk[:number], axis=1)
            P = np.exp2(S - np.where(np.isneginf(right_m), 0, right_m)[:, None])
            want = P @ np.tile(V, (number, 1)), P.sum(axis=1)
            if not np.array_equal(m, right_m):
                return f"{what}: after tile {number} m is {m.round(1)}, and should be {right_m.round(1)}"
            if np.abs(l - want[1]).max() > 1e-9 * max(1, np.abs(want[1]).max()):
                return f"{what}: after tile {number} l is not the sum of exp2(S - m) over all keys so far"
            if np.abs(O - want[0]).max() > 1e-9 * max(1, np.abs(want[0]).max()):
                return f"{what}: after tile {number} O is not exp2(S - m) V over all keys so far"
    return ""


# ---- the worst case -------------------------------------------------------------------------------------------------

ROWS, Bc = 64, 64


def worst(seqlen):
    """Scores that grow towards the first keys, by 6 from tile to tile: more than 8 powers of two."""
    tile = np.arange(seqlen) // Bc
    return np.broadcast_to(6.0 * (tile.max() - tile), (ROWS, seqlen))


@exercise(
    "s33.worst",
    solution=worst,
    wrong=(
        lambda seqlen: np.broadcast_to(6.0 * (np.arange(seqlen) // Bc), (ROWS, seqlen)),
        lambda seqlen: np.broadcast_to(5.0 * ((seqlen - 1 - np.arange(seqlen)) // Bc), (ROWS, seqlen)),
        lambda seqlen: np.zeros((ROWS, seqlen)),
        lambda seqlen: np.random.default_rng(0).standard_normal((ROWS, seqlen)),
    ),
    hints=(
        "The kernel walks from the last K/V tile to the first. In which direction do the scores have to grow?",
        "The bound is 8 powers of two, and S is in units of e: a growth of 8 · ln 2 = 5.55 from tile to tile is "
        "not yet enough.",
    ),
)
def check_worst(answer) -> str:
    for seqlen in (256, 512):
        S = np.asarray(answer(seqlen), np.float64)
        if S.shape != (ROWS, seqlen):
            return f"the shape is {S.shape}, not {(ROWS, seqlen)}"
        if not np.isfinite(S).all() or np.abs(S).max() > 1000:
            return "scores have to be finite, and no larger than 1000"
        share = lazy.votes(S, Br=ROWS, Bc=Bc).share
        if share < 1:
            return f"length {seqlen}: the warps rescale in {share:.0%} of the tiles after the first"
    return ""
