"""Exercises of notebooks/s24_fragment_pipeline."""

from __future__ import annotations

from tools.lesson.answers import exercise


def schedule(steps):
    """[("load", step, registers) or ("mma", step, registers), ...]: registers is 0 or 1, the set that is used."""
    order = [("load", 0, 0)]
    for i in range(steps):
        if i + 1 < steps:
            order.append(("load", i + 1, (i + 1) % 2))
        order.append(("mma", i, i % 2))
    return order


def _as_in_s23(steps):
    return [one for i in range(steps) for one in (("load", i, 0), ("mma", i, 0))]


def _one_set(steps):
    return [(what, step, 0) for what, step, _ in schedule(steps)]


def _past_the_end(steps):
    order = [("load", 0, 0)]
    for i in range(steps):
        order += [("load", i + 1, (i + 1) % 2), ("mma", i, i % 2)]
    return order


def _all_first(steps):
    return [("load", i, i % 2) for i in range(steps)] + [("mma", i, i % 2) for i in range(steps)]


def _no_first_load(steps):
    return schedule(steps)[1:]


@exercise(
    "s24.schedule",
    solution=schedule,
    wrong=(_as_in_s23, _one_set, _past_the_end, _all_first, _no_first_load),
    hints=(
        "Before the loop: load step 0. In iteration i two things happen; which step does each of them belong to?",
        "In iteration i: load step i + 1, then multiply step i. Step i lives in set i % 2.",
        "The last iteration has nothing left to load.",
    ),
)
def check_schedule(answer) -> str:
    for steps in (1, 2, 3, 8):
        held: dict[int, int | None] = {0: None, 1: None}  # set -> step that it holds
        done: set[int] = set()
        loaded: list[int] = []
        for what, step, place in answer(steps):
            if what not in ("load", "mma") or place not in (0, 1):
                return f"{(what, step, place)}: accepted are 'load' and 'mma', and sets 0 and 1"
            if what == "load":
                if step in loaded or step not in range(steps):
                    return f"{steps} steps: step {step} is loaded {'twice' if step in loaded else 'but is not there'}"
                if held[place] is not None and held[place] not in done:
                    return f"{steps} steps: step {step} is loaded over step {held[place]}, which no mma has read yet"
                held[place] = step
                loaded.append(step)
                continue
            if held[place] != step:
                return f"{steps} steps: the mma of step {step} reads set {place}, which holds {_of(held[place])}"
            if step + 1 < steps and step + 1 not in loaded:
                return f"{steps} steps: step {step + 1} is not under way when step {step} is multiplied"
            done.add(step)
        if done != set(range(steps)):
            return f"{steps} steps: of {steps} mma, {len(done)} are there"
    return ""


def _of(step: int | None) -> str:
    return "nothing" if step is None else f"step {step}"


def hmma(operands):
    """ "R4, R36.reuse, R56, RZ" -> {"D": [4, 5, 6, 7], "A": [36, 37, 38, 39], "B": [56, 57], "C": []}"""
    wide = {"D": 4, "A": 4, "B": 2, "C": 4}
    named = [text.strip().removesuffix(".reuse") for text in operands.split(",")]
    return {
        name: [] if first == "RZ" else [int(first[1:]) + i for i in range(wide[name])]
        for name, first in zip(wide, named)
    }


def _b_is_four(operands):
    made = hmma(operands)
    return made | {"B": [made["B"][0] + i for i in range(4)]}


def _zero_is_a_register(operands):
    made = hmma(operands)
    return made | {"C": made["C"] or made["D"]}


def _first_only(operands):
    return {name: registers[:1] for name, registers in hmma(operands).items()}


def _a_and_b_swapped(operands):
    made = hmma(operands)
    return made | {"A": made["B"], "B": made["A"]}


@exercise(
    "s24.hmma",
    solution=hmma,
    wrong=(_b_is_four, _zero_is_a_register, _first_only, _a_and_b_swapped),
    hints=(
        "Four operands in the order D, A, B, C; each names the first of several registers in a row.",
        "A lane's share in 32-bit registers: of D and C (16×8 floats) 4, of A (16×16 halves) 4, of B (16×8 halves) 2.",
        'RZ is no register: it reads as zero, so it gives []. And strip ".reuse" off.',
    ),
)
def check_hmma(answer) -> str:
    for operands in (
        "R4, R36, R56, R4",
        "R116, R28.reuse, R116, RZ",
        "R120, R32, R110, R120",
        "R60, R8.reuse, R18.reuse, R64",
    ):
        got, want = answer(operands), hmma(operands)
        for name in want:
            if list(got[name]) != want[name]:
                return f"HMMA {operands}: {name} is {got[name]}; it is other registers"
    return ""
