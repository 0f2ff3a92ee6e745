"""Mistakes that students make, with what each costs and what the student is told. tests/test_assignment_mistakes.py.

Most are the stages' own mutants (tests/mutants.py). Points lost are those of the tests named; the hint is a part of
what the first of them says.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.mutants import MUTANTS, Mutant, mutant


@dataclass(frozen=True)
class Mistake:
    """lost: the numbers of the tests that fail, no others of the stage; hint: in the message of the first of them."""

    mutant: Mutant
    lost: tuple[str, ...]
    hint: str


def made(name: str, lost: str, hint: str) -> Mistake:
    (found,) = [m for m in MUTANTS if m.name == name]
    return Mistake(found, tuple(lost.split()), hint)


def own(name: str, what: str, lost: str, hint: str, *replace: tuple[str, str]) -> Mistake:
    return Mistake(mutant(name, name.partition("_")[0], what, *replace), tuple(lost.split()), hint)


STEP = "2.2 2.3 2.4 3.1 3.2 3.3 3.4 3.5 3.6 3.7"
PS1 = (
    made("s01_top_left", "1.5 1.6", "aligned to the top left"),
    made("s01_strict", "1.4 1.5 1.6", "off by one: query i sees the key"),
    made("s01_no_max", "1.3 1.6", "ubtract the row's maximum"),
    made("s01_nan_row", "1.6", "-inf - -inf is NaN"),
    made("s01_zero_row", "1.6", "an lse of -inf"),
    made("s01_scale", "1.2", "softmax_scale is not used"),
    made("s01_undivided", "1.1 1.2 1.3 1.4 1.5 1.6", "not divided by l"),
    made("s01_heads", "1.1", "query heads take turns"),
    own("s01_unscaled", "the scores are not scaled", "1.1 1.2 1.3 1.4 1.5 1.6", "not multiplied by softmax_scale",
        ("S = softmax_scale * (Q @ K.T)", "S = Q @ K.T")),
    own("s01_unmasked", "the mask is forgotten", "1.4 1.5 1.6", "mask is not applied",
        ("    if causal:\n", "    if False:\n")),
    own("s01_lse", "L is l", "1.1 1.2 1.3 1.4 1.5 1.6", "not its logarithm", ("(m + np.log(l))[:, 0]", "l[:, 0]")),
    own("s01_shape", "a transpose is forgotten", "1.1 1.2 1.3 1.4 1.5 1.6", "ValueError was raised, in line",
        ("Q @ K.T", "Q @ K")),
    made("s02_rescale_O", STEP, "O is not rescaled"),
    made("s02_rescale_l", STEP, "l is not rescaled"),
    made("s02_alpha", STEP, "upside down"),
    own("s02_no_safe", "m may be -inf", "2.4 3.5", "has NaN",
        ("m_safe = np.where(m_new == -np.inf, 0, m_new)", "m_safe = m_new")),
    own("s02_tile_max", "the maximum is the tile's alone", "2.3 2.4 3.5 3.7", "O is wrong",
        ("m_new = np.maximum(m, S.max(axis=1))", "m_new = S.max(axis=1)")),
    made("s02_max_zero", "3.3 3.5 3.6", "starts at 0"),
    made("s02_tail", "3.3 3.4 3.5 3.6 3.7", "last K/V tile is left out"),
    made("s02_break_early", "3.5", "stops where the Q tile's first row does"),
    made("s02_break_first", "3.5 3.7", "stops where the Q tile's first row does"),
    made("s02_mask_tile", "3.4 3.5 3.6 3.7", "hidden cases are wrong"),
    made("s02_batch", "3.7", "reads the keys of the first"),
    made("s02_log2", "3.1 3.2 3.3 3.4 3.5 3.6 3.7", "in base 2"),
    own("s02_endless", "j does not advance", "3.1 3.2 3.3 3.4 3.5 3.6 3.7", "a loop that does not end",
        ("        for j in range(0, seqlen_k, Bc):\n", "        j = 0\n        while j < seqlen_k:\n")),
    own("s02_merge_mean", "both sides count the same", "4.1 4.2", "averaged",
        ("return w_a * O_a + w_b * O_b, L", "return (O_a + O_b) / 2, L")),
    own("s02_merge_swapped", "the weights are swapped", "4.1 4.2", "swapped",
        ("return w_a * O_a + w_b * O_b, L", "return w_b * O_a + w_a * O_b, L")),
    own("s02_merge_nan", "neither side saw a key", "4.2", "has NaN", ("np.where(np.isneginf(L), 0, np.exp(part - L))",
                                                                     "np.exp(part - L)")),
    own("s02_merge_max", "L is the larger", "4.1 4.2", "larger of the two",
        ("return w_a * O_a + w_b * O_b, L", "return w_a * O_a + w_b * O_b, np.maximum(L_a, L_b)")),
)  # fmt: skip
