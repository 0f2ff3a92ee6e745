"""Mistakes that students make, with what each costs and what the student is told. tests/test_assignment_mistakes.py.

Most are the stages' own mutants (tests/mutants.py). Points lost are those of the tests named; the hint is a part of
what the first of them says. The suite runs two tests of most; this runs all and says what came of them:

    python -m tests.assignment_mistakes ps4
    python -m tests.assignment_mistakes ps4 s23_early s23_late

Exit codes: 0 all as the table has it; 1 something is not, or was not graded here; 2 wrong arguments.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.mutants import (
    BUFFER_NEXT,
    BUFFER_THERE,
    EAGER_K_THERE,
    EAGER_NEXT_K,
    EAGER_V_THERE,
    MUTANTS,
    Mutant,
    mutant,
)
from tests.test_mutants import mutate
from tools.assignment.definition import Assignment, Test, load
from tools.assignment.grading import Grades, grade, worker_for
from tools.assignment.kinds import NO_SCORE
from tools.assignment.process import Worker

SECRET = "mistakes"


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
    made("s01_no_max", "1.3 1.6", "no maximum is subtracted"),
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
    own("s02_tile_max", "the maximum is the tile's alone", "2.3 2.4 3.5 3.7", "that of the last tile alone",
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
    own("s02_merge_exp", "exp(L) as it is, with a guard against 0", "4.1", "exp(L) alone overflows, and underflows",
        ("    L = np.logaddexp(L_a, L_b)\n",
         "    a, b = np.exp(L_a), np.exp(L_b)\n"
         "    l = np.where(a + b == 0, 1, a + b)[:, None]\n"
         "    return (a[:, None] * O_a + b[:, None] * O_b) / l, np.log(a + b)\n")),
    own("s02_swapped", "m and l are swapped", "2.1 2.2 2.3 2.4 3.1 3.2 3.3 3.4 3.5 3.6 3.7", "m and l are swapped",
        ("return O, m_new, l", "return O, l, m_new")),
    own("s02_inline", "the step is written out in the loop", "3.1 3.2 3.3 3.4 3.5 3.6 3.7",
        "`online_softmax_step` is never called",
        ("O_i, m_i, l_i = online_softmax_step(O_i, m_i, l_i, S, V_j)",
         "m_new = np.maximum(m_i, S.max(axis=1))\n"
         "            m_safe = np.where(m_new == -np.inf, 0, m_new)\n"
         "            P, alpha = np.exp(S - m_safe[:, None]), np.exp(m_i - m_safe)\n"
         "            O_i, m_i, l_i = alpha[:, None] * O_i + P @ V_j, m_new, alpha * l_i + P.sum(axis=1)")),
    own("s02_merge_max", "L is the larger", "4.1 4.2", "larger of the two",
        ("return w_a * O_a + w_b * O_b, L", "return w_a * O_a + w_b * O_b, np.maximum(L_a, L_b)")),
)  # fmt: skip

TILE_MASK = ("keys[None, :] <= rows[:, None] + shift", "c[None, :] <= rows[:, None] + shift")
ALL_11, SEVERAL_11 = "1.1 1.2 1.3 1.4 1.5", "1.2 1.3 1.4"
ALL_12, SEVERAL_12 = "2.1 2.2 2.3 2.4 2.5 2.6", "2.2 2.3 2.4 2.5"
PS2 = (
    made("s11_top_left", "1.4", "aligned to the top left"),
    own("s11_mask_tile", "the mask counts keys from the start of the tile", "1.4", "from the start of the tile",
        TILE_MASK),
    made("s11_tail", "1.1 1.3", "count as scores of 0"),
    made("s11_rescale_O", SEVERAL_11, "O is not rescaled"),
    made("s11_rescale_l", SEVERAL_11, "l is not rescaled"),
    own("s11_undivided", "O is kept undivided, as in the second paper", ALL_11, "O is not divided by l",
        ("O_i = O_i * (alpha * l_i / l_safe)[:, None]", "O_i = O_i * alpha[:, None]"),
        ('input_precision="ieee") / l_safe[:, None]', 'input_precision="ieee")')),
    own("s11_old_l", "the old O is divided by the new l without its own l coming back",
        SEVERAL_11, "the old division is not undone",
        ("(alpha * l_i / l_safe)[:, None]", "(alpha / l_safe)[:, None]")),
    made("s11_max_lost", ALL_11, "running maximum is not kept"),
    made("s11_nan_row", "1.4", "-inf - -inf is NaN"),
    own("s12_top_left", "causal mask aligned top-left", "2.4 2.5", "aligned to the top left",
        ("keys[None, :] <= rows[:, None] + shift", "keys[None, :] <= rows[:, None]")),
    made("s12_strict", "2.4 2.5", "off by one: query i sees the key"),
    own("s12_mask_tile", "the mask counts keys from the start of the tile", "2.4 2.5", "from the start of the tile",
        TILE_MASK),
    own("s12_unmasked", "the mask is forgotten: last_key is taken to be enough",
        "2.4 2.5", "mask is not applied within a tile",
        ("        if CAUSAL:\n            visible", "        if False:\n            visible")),
    own("s12_tail", "keys past the end count as scores of 0", "2.1 2.3 2.5", "count as scores of 0",
        ("visible = keys[None, :] < seqlen_k", "visible = keys[None, :] >= 0")),
    made("s12_rescale_O", SEVERAL_12, "O is not rescaled"),
    made("s12_rescale_l", SEVERAL_12, "l is not rescaled"),
    own("s12_rescale", "nothing is rescaled", SEVERAL_12, "neither O nor l is rescaled",
        ("alpha * l_i + tl.sum(P, axis=1)", "l_i + tl.sum(P, axis=1)"), ("        O_i = O_i * alpha[:, None]\n", "")),
    own("s12_alpha", "the rescaling factor is upside down", SEVERAL_12, "upside down",
        ("alpha = tl.exp(m_i - m_safe)", 'alpha = tl.where(m_i == float("-inf"), 0.0, tl.exp(m_safe - m_i))')),
    own("s12_m_stale", "m stays -inf", ALL_12, "running maximum is not kept", ("        m_i = m_new\n", "")),
    own("s12_tile_max", "the maximum is the tile's alone", "2.4 2.5", "that of the last tile alone",
        ("tl.maximum(m_i, tl.max(S, axis=1))", "tl.max(S, axis=1)")),
    own("s12_nan_row", "rows that see no key subtract -inf from -inf", "2.4", "-inf - -inf is NaN",
        ('tl.where(m_new == float("-inf"), 0.0, m_new)', "m_new")),
    own("s12_exp2", "exp2 without log2(e)", ALL_12, "not multiplied by log2(e)", ("P = tl.exp(S", "P = tl.exp2(S"),
        ("alpha = tl.exp(m_i", "alpha = tl.exp2(m_i")),
    own("s12_alpha_exp2", "P is to base e, the rescaling factor to base 2", SEVERAL_12, "to different bases",
        ("alpha = tl.exp(m_i", "alpha = tl.exp2(m_i")),
    own("s12_lse_base", "of lse, the maximum stays in base 2", ALL_12, "lse has the maximum in base 2",
        ("* softmax_scale  # [Br, Bc]", "* (softmax_scale * 1.4426950408889634)"), ("P = tl.exp(S", "P = tl.exp2(S"),
        ("alpha = tl.exp(m_i", "alpha = tl.exp2(m_i")),
    own("s12_unscaled", "the scores are not scaled", ALL_12, "not multiplied by softmax_scale",
        (" * softmax_scale  # [Br, Bc]", "")),
    own("s12_divided", "every tile is divided by l, as in the first paper, and once more at the end",
        ALL_12, "once more at the end",
        ("        m_i = m_new\n",
         "        O_i = O_i / tl.where(l_i == 0.0, 1.0, l_i)[:, None]\n        m_i = m_new\n")),
    own("s12_first_tile", "j is left out of the addresses: every tile is the first",
        SEVERAL_12, "every K/V tile is the first", ("keys = j + c", "keys = c")),
    made("s12_v_offset", SEVERAL_12, "every V tile is the first"),
    made("s12_heads", "2.5", "query heads take turns"),
    own("s12_k_batch", "the batch's offset is forgotten", "2.5", "reads the keys of the first",
        ("K += b * k_batch + ", "K += ")),
    own("s12_transpose", "a transpose is forgotten", ALL_12, "AssertionError was raised, in line",
        ("tl.dot(Q_i, tl.trans(K_j)", "tl.dot(Q_i, K_j")),
    own("s12_p_type", "P is not rounded to V's type", ALL_12, "O_i += tl.dot(P, V_j", ("P.to(V_j.dtype)", "P")),
    own("s12_grid", "a program for every 16 rows", "2.6", "one program for every Q tile",
        ("triton.cdiv(call.seqlen_q, rows)", "triton.cdiv(call.seqlen_q, 16)")),
)  # fmt: skip

SWIZZLED = "(chunk ^ row % 8) * 16"
ALL_21 = "1.1 1.2 2.1 3.1 3.2"
PS3 = (
    own("s21_identity", "the static_assert is removed, the offset is as it was", "3.1 3.2", "up to 8 in one bank",
        (SWIZZLED, "chunk * 16")),
    own("s21_four", "XOR with two bits of the row's number", "3.1 3.2", "up to 2 in one bank",
        ("chunk ^ row % 8", "chunk ^ row % 4")),
    own("s21_high_bits", "XOR with bits of the row's number that the eight rows share",
        "3.1 3.2", "up to 8 in one bank", ("chunk ^ row % 8", "chunk ^ row / 8 % 8")),
    own("s21_lines", "XOR with the number of the 128-byte line, which is the row's for one head dim only",
        "3.2", "up to 2 in one bank", ("(chunk ^ row % 8)", "(chunk ^ (row * (d / 64) + chunk / 8) % 8)")),
    made("s21_whole_row", ALL_21, "past the end of its tile of 8192 bytes"),
    made("s21_precedence", "1.2 3.2", "chunk 8 of row 0 and chunk 0 of row 0 have the same place"),
    own("s21_pad", "rows are padded by 16 bytes", ALL_21, "past the end of its tile of 8192 bytes",
        ("row * (d * 2) + " + SWIZZLED, "row * (d * 2 + 16) + chunk * 16")),
    own("s21_bytes", "XOR of bytes with a row's number", ALL_21, "a place begins at a multiple of 16",
        (SWIZZLED, "(chunk * 16 ^ row % 8)")),
    own("s21_rotate", "chunks are rotated, and the eighth comes round to the next row",
        ALL_21, "chunk 0 of row 8 and chunk 1 of row 7 have the same place", (SWIZZLED, "(chunk + row % 8) * 16")),
)  # fmt: skip

ALL_22, ALL_23 = "1.1 1.2 1.3 1.4", "2.1 2.2 2.3 2.4 2.5"
TOO_EARLY = "the copy was asked for before all had read what was there"
NOT_THERE = "a wait is missing, or the copy goes where another tile is still needed"
S22_ASK_V = (
    "    load_tile<d, Bc>(V_smem, V, p.v_row, first_key, p.seqlen_k);  // travels during Q Kᵀ and the softmax\n"
    "    cp_async_commit();\n"
)
S22_ASK_K = EAGER_NEXT_K + "  // travels during P V\n    cp_async_commit();\n"
END_OF_LOOP = "  }\n\n  // O / l, by way"
S23_STEP = "    cp_async_wait<0>();\n" + BUFFER_THERE + BUFFER_NEXT
S23_USUAL = BUFFER_NEXT + "    cp_async_wait<1>();\n" + BUFFER_THERE  # as in many a tutorial: it takes a second barrier
PS4 = (
    own("s22_v_late", "V is waited for where it is asked for", "1.4", "waited for too early",
        (S22_ASK_V, S22_ASK_V + "    cp_async_wait<0>();\n")),
    own("s22_k_late", "the next K is asked for after P V", "1.4", "waited for too early", (S22_ASK_K, ""),
        (END_OF_LOOP, "    __syncthreads();\n" + S22_ASK_K + END_OF_LOOP)),
    own("s22_no_guard", "K is asked for though there may be no key",
        "1.3", "The result is right, but the emulator found: unfinished copy",
        ("if (last_key > 0) load_tile", "load_tile")),
    made("s22_k_early", "1.3", TOO_EARLY),
    made("s22_v_early", "1.3", TOO_EARLY),
    made("s22_v_wait", ALL_22, NOT_THERE),
    made("s22_k_wait", ALL_22, NOT_THERE),
    made("s22_v_commit", ALL_22, NOT_THERE),
    made("s22_same_k", ALL_22, "V meets the K of the tile before"),
    own("s22_v_no_barrier", "a wait for V, but no barrier", ALL_22, "no barrier in between", (EAGER_V_THERE, "")),
    own("s22_k_no_barrier", "a wait for K, but no barrier", ALL_22, "no barrier in between", (EAGER_K_THERE, "")),
    own("s22_beyond", "the next K is asked for though there is none", "1.3", "only if somebody will wait for it",
        ("if (first_key + Bc < last_key) load_tile", "load_tile")),
    made("s23_wait_1", ALL_23, NOT_THERE),
    made("s23_no_barrier", ALL_23, "no barrier in between"),
    made("s23_early", "2.3", "The result is right, but the emulator found: race"),
    own("s23_early_wait_1", "the usual shape, one barrier short: ask, wait for all but one, barrier, work",
        "2.3", TOO_EARLY,
        (S23_STEP, S23_USUAL)),
    own("s23_two_barriers", "the usual shape: ask, wait for all but one, barrier, work, barrier",
        "2.5", "2.2 __syncthreads for each K/V tile",
        (S23_STEP, S23_USUAL),
        (END_OF_LOOP, "    __syncthreads();\n" + END_OF_LOOP)),
    own("s23_last", "that, but the last iteration commits nothing: its own tile is the one it does not wait for",
        ALL_23, NOT_THERE,
        (S23_STEP, "    if (block + 1 < blocks) load_kv(block + 1);\n    cp_async_wait<1>();\n" + BUFFER_THERE),
        (END_OF_LOOP, "    __syncthreads();\n" + END_OF_LOOP)),
    own("s23_at_once", "the next tile is waited for where it is asked for", "2.4", "waited for too early",
        (BUFFER_NEXT, BUFFER_NEXT + "    cp_async_wait<0>();\n")),
    own("s23_late", "the next tile is asked for at the end of the iteration", "2.4", "waited for too early",
        (BUFFER_NEXT, ""), (END_OF_LOOP, "    load_kv(block + 1);\n" + END_OF_LOOP)),
    made("s23_one_buffer", ALL_23, NOT_THERE),
    made("s23_stride", ALL_23, NOT_THERE),
    made("s23_next", ALL_23, NOT_THERE),
    own("s23_beyond", "a tile is asked for though there is none", "2.3", "only if somebody will wait for it",
        ("    if (block < blocks) {\n", "    {\n")),
)  # fmt: skip

ALL_24 = "1.1 1.2 1.3 2.1 2.2"
PS5 = (
    made("s24_one_set", ALL_24, "more than rounding explains"),
    made("s24_late", ALL_24, "more than rounding explains"),
    own("s24_plain", "the swizzle is lost", "2.2", "bank conflicts, the first in line", (SWIZZLED, "chunk * 16")),
    own("s24_no_max", "no maximum is subtracted", "1.2 1.3", "an lse of -inf",
        ("m_new == -INFINITY ? 0.f : m_new;", "0.f;"), ("alpha = ex2((m[r] - m_safe) * LOG2_E)", "alpha = 1.f"),
        ("m[r] + logf(l[r])", "logf(l[r])")),
    own("s24_nan_row", "the test for rows that have seen no key is saved", "1.2", "-inf - -inf is NaN",
        ("m_new == -INFINITY ? 0.f : m_new;", "m_new;")),
    own("s24_last_masked", "only the last tile is masked, and the diagonal crosses two",
        "1.2", "only the last K/V tile is masked",
        ("const bool visible = key", "const bool visible = block < blocks - 1 || key")),
    own("s24_no_barrier", "the barrier is saved", ALL_24, "no barrier in between", (BUFFER_THERE, "")),
    own("s24_early", "the next tile is asked for before the barrier", "2.1", TOO_EARLY,
        (BUFFER_THERE + BUFFER_NEXT, BUFFER_NEXT + BUFFER_THERE)),
    own("s24_spill", "four blocks a multiprocessor, with 128 registers a thread", "2.3", "registers are spilled",
        ("__launch_bounds__(THREADS, 2)", "__launch_bounds__(THREADS, 4)")),
)  # fmt: skip


MISTAKES = {"ps1": PS1, "ps2": PS2, "ps3": PS3, "ps4": PS4, "ps5": PS5}


def graded(
    mistake: Mistake,
    assignment: Assignment,
    worker: Worker,
    folder: Path,
    select: Callable[[Test], bool] = lambda test: not test.bonus,
) -> Grades:
    """Grade the stage's solution with the mistake in it. select: of the stage's tests, those to run."""
    for own_stage, path in zip(assignment.stages, assignment.submitted):
        if own_stage.short == mistake.mutant.stage:
            (folder / path).parent.mkdir(parents=True)
            source = own_stage.kernel_file.read_text(encoding="utf-8")
            (folder / path).write_text(mutate(source, mistake.mutant), encoding="utf-8")
    own_test = mistake.mutant.stage.__eq__
    return grade(assignment, folder, SECRET, worker=worker, select=lambda t: own_test(t.stage.short) and select(t))


def surprises(mistake: Mistake, grades: Grades) -> list[str]:
    """In what the grades are not as the table has them."""
    ran = [g.test.number for g in grades.graded]
    lost = [g for g in grades.graded if not g.outcome.ok]
    found = [f"{g.test.number} was not graded: {g.outcome.message}" for g in lost if g.outcome.status in NO_SCORE]
    numbers, wanted = [g.test.number for g in lost], [n for n in mistake.lost if n in ran]
    if numbers != wanted:
        found.append(f"lost are {' '.join(numbers) or 'none'}, not {' '.join(wanted) or 'none'}")
    elif not lost:
        found.append("none of the tests that it loses was run")
    elif mistake.hint not in lost[0].outcome.message:
        found.append(f"{lost[0].test.number} does not say {mistake.hint!r}")
    kept = sum(g.test.points for g in grades.graded if g.test.number not in mistake.lost)
    if grades.score != kept:
        found.append(f"the score is {grades.score:g}, not {kept:g}")
    return found


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in MISTAKES:
        print(__doc__)
        return 0 if argv in (["-h"], ["--help"]) else 2
    assignment, chosen = load(argv[0]), [m for m in MISTAKES[argv[0]] if m.mutant.name in argv[1:] or not argv[1:]]
    unknown = set(argv[1:]) - {m.mutant.name for m in chosen}
    if unknown:
        print(f"{argv[0]} has no mistake {', '.join(sorted(unknown))}")
        return 2
    wrong = 0
    with worker_for(assignment) as worker:
        for mistake in chosen:
            with tempfile.TemporaryDirectory() as folder:
                grades = graded(mistake, assignment, worker, Path(folder))
            cost = sum(g.test.points for g in grades.graded) - grades.score
            print(f"\n{mistake.mutant.name}: {mistake.mutant.what}. It costs {cost:g} points.", flush=True)
            said: dict[str, list[str]] = {}
            for g in grades.graded:
                if not g.outcome.ok:
                    said.setdefault(g.outcome.message, []).append(g.test.number)
            for message, numbers in said.items():
                print(f"  {' '.join(numbers)}: " + message.replace("\n", "\n    "))
            surprising = surprises(mistake, grades)
            wrong += bool(surprising)
            print("".join(f"  NOT AS IN THE TABLE: {surprise}\n" for surprise in surprising), end="", flush=True)
    print(f"\n{len(chosen) - wrong} of {len(chosen)} are as the table has them.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
