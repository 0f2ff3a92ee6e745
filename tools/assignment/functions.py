"""Tests of single functions of a stage: what goes in, what has to come out, and what a wrong answer looks like.

Each is `name(rng, options) -> [Question]`; expected values are computed here, in float64, and stay here.
"""

# ruff: noqa: E741  (the papers' symbols)
from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

RELATIVE = 1e-9  # everything is float64
SHIFT = 1000  # of scores whose exp overflows, or underflows, also in float64
MISTAKES_OF_STEP = {
    "O": "O is not rescaled when the running maximum grows",
    "l": "l is not rescaled when the running maximum grows",
    "O l": "neither O nor l is rescaled when the running maximum grows",
    "m": "the running maximum forgets the tiles before",
    "tile": "the running maximum is that of the last tile alone; it is the larger of that and the old one",
    "alpha": "the factor is upside down: the old sums have to shrink by exp(m - m_new)",
}


@dataclass(frozen=True)
class Question:
    """One call. function: of the kernel file; arguments, expected: float64 arrays; names: of the results;
    mistakes: (what it is, results that it would give); rows: (what it is, rows [n] bool, the only ones that it spoils).
    """

    function: str
    arguments: tuple[np.ndarray, ...]
    expected: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    mistakes: tuple[tuple[str, tuple[np.ndarray, ...]], ...] = field(default=())
    rows: tuple[tuple[str, np.ndarray], ...] = field(default=())


def answer_problem(question: Question, got: tuple[np.ndarray, ...]) -> str:
    """What is wrong with the results, or ""."""
    if len(got) != len(question.expected):
        values = f"{len(got)} value{'' if len(got) == 1 else 's'}"
        return f"{question.function} returned {values}; expected {', '.join(question.names)}"
    if all(a.shape == b.shape and _same(a, b) for a, b in zip(got, question.expected)):
        return ""
    swapped = swapped_problem(question, got)
    if swapped:
        return swapped
    for name, value, right in zip(question.names, got, question.expected):
        if value.shape != right.shape:
            return f"{question.function}: {name} has {value.ndim} dimensions or the wrong sizes"
    for what, wrong in question.mistakes:
        if all(_same(value, w) for value, w in zip(got, wrong)):
            return what
    for what, spoilt in question.rows:
        if all(_same(value[~spoilt], right[~spoilt]) for value, right in zip(got, question.expected)):
            return what
    for name, value, right in zip(question.names, got, question.expected):
        if not _same(value, right):
            fact = "has NaN" if np.isnan(value).any() else "is wrong"
            return f"{question.function}: {name} {fact}"
    raise AssertionError("unreachable")


def swapped_problem(question: Question, got: tuple[np.ndarray, ...]) -> str:
    """Which of the results have changed places, if they are right but for that, or ""."""
    for i, j in itertools.combinations(range(len(got)), 2):
        back = list(got)
        back[i], back[j] = back[j], back[i]
        if all(a.shape == b.shape and _same(a, b) for a, b in zip(back, question.expected)):
            a, b = question.names[i], question.names[j]
            return f"{a} and {b} are swapped"
    return ""


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if not np.array_equal(np.isfinite(a), np.isfinite(b)) or np.isnan(a).any():
        return False
    finite = np.isfinite(b)
    if not np.array_equal(np.sign(a[~finite]), np.sign(b[~finite])):
        return False
    size = np.abs(b[finite]).max() if finite.any() else 0
    return bool((np.abs(a[finite] - b[finite]) <= RELATIVE * max(size, 1e-30) * 100).all())


def _step(O, m, l, S, V, keep="O l", maximum=np.maximum, upside=False):
    """s02's recurrence; keep: which of O and l are rescaled; maximum(m, the tile's) and upside: mistakes in m and in
    the factor."""
    m_new = maximum(m, S.max(axis=1))
    safe = np.where(m_new == -np.inf, 0, m_new)
    with np.errstate(invalid="ignore", over="ignore"):
        alpha = np.where(m == -np.inf, 0, np.exp(safe - m)) if upside else np.exp(m - safe)
        P = np.exp(S - safe[:, None])
        a_O, a_l = (alpha if x in keep else np.ones_like(alpha) for x in ("O", "l"))
        return a_O[:, None] * O + P @ V, m_new, a_l * l + P.sum(axis=1)


def online_softmax_step(rng, options) -> list[Question]:
    """state: "new" (no key seen yet), "growing" (the tile raises the maximum in every row), "mixed" (in some), "masked"
    (some rows have no key in the tile, some have seen none at all)."""
    state = options.get("state", "mixed")
    questions = []
    for _ in range(int(options.get("count", 3))):
        r = np.random.default_rng(rng.getrandbits(64))
        Br, Bc, d = (rng.randint(*bounds) for bounds in ((3, 40), (3, 40), (2, 24)))
        S, V = 3 * r.standard_normal((Br, Bc)), r.standard_normal((Bc, d))
        O, m, l = np.zeros((Br, d)), np.full(Br, -np.inf), np.zeros(Br)
        if state != "new":
            O, m, l = r.standard_normal((Br, d)), r.standard_normal(Br), r.uniform(1, 5, Br)
        if state == "growing":
            S += 4 + m[:, None] - S.max(axis=1, keepdims=True)
        if state == "mixed":  # every other row's maximum stays what it was
            S[::2] += (m - S.max(axis=1) - 1)[::2, None]
        if state == "masked":
            S[::2] = -np.inf
            O[::4], m[::4], l[::4] = 0, -np.inf, 0
        right = _step(O, m, l, S, V)
        mistakes = []
        if state != "new":
            for keep, lost in (("l", "O"), ("O", "l"), ("", "O l")):
                mistakes.append((MISTAKES_OF_STEP[lost], _step(O, m, l, S, V, keep)))
            tile = _step(np.zeros_like(O), np.full_like(m, -np.inf), np.zeros_like(l), S, V)
            mistakes.append((MISTAKES_OF_STEP["m"], tile))
            mistakes.append((MISTAKES_OF_STEP["tile"], _step(O, m, l, S, V, maximum=lambda m, tile: tile)))
            mistakes.append((MISTAKES_OF_STEP["alpha"], _step(O, m, l, S, V, upside=True)))
        questions.append(Question("online_softmax_step", (O, m, l, S, V), right, ("O", "m", "l"), tuple(mistakes)))
    return questions


# What is wrong in rows of some shift only, and which those are.
MISTAKES_OF_MERGE = (
    ("exp(L) alone overflows: subtract the larger first", lambda shift: shift > 0),
    ("exp(L) alone underflows: subtract the larger first", lambda shift: shift < 0),
    ("exp(L) alone overflows, and underflows: subtract the larger first", lambda shift: shift != 0),
)


def merge(rng, options) -> list[Question]:
    """Attention over two disjoint sets of keys, some with scores so large or so far below 0 that exp of them is of no
    use; "empty" among the options: none of these, but rows for which a side has no key."""
    questions = []
    for _ in range(int(options.get("count", 3))):
        r = np.random.default_rng(rng.getrandbits(64))
        n, d = rng.randint(4, 40), rng.randint(2, 24)
        O_a, O_b = r.standard_normal((2, n, d))
        L_a, L_b = 3 * r.standard_normal((2, n))
        shift = np.resize([0, SHIFT, -SHIFT], n)
        if not options.get("empty"):
            L_a, L_b = L_a + shift, L_b + shift
        else:
            L_a[::4] = -np.inf
            L_b[1::4] = -np.inf
            L_a[2], L_b[2] = -np.inf, -np.inf
            O_a[np.isneginf(L_a)], O_b[np.isneginf(L_b)] = 0, 0
        L = np.logaddexp(L_a, L_b)
        with np.errstate(invalid="ignore"):
            w_a, w_b = (np.where(np.isneginf(L), 0, np.exp(x - L))[:, None] for x in (L_a, L_b))
        right = (w_a * O_a + w_b * O_b, L)
        mistakes = (
            ("the two sides are averaged; each counts by exp(L - L_new)", ((O_a + O_b) / 2, L)),
            ("O is a sum of both sides; each counts by exp(L - L_new)", (O_a + O_b, L)),
            ("the weights are swapped: a side counts by its own L", (w_b * O_a + w_a * O_b, L)),
            ("L is the larger of the two; it is log(exp L_a + exp L_b)", (right[0], np.maximum(L_a, L_b))),
        )
        rows = () if options.get("empty") else tuple((what, spoilt(shift)) for what, spoilt in MISTAKES_OF_MERGE)
        questions.append(Question("merge", (O_a, L_a, O_b, L_b), right, ("O", "L"), mistakes, rows))
    return questions


FUNCTIONS: dict[str, Callable] = {"online_softmax_step": online_softmax_step, "merge": merge}
