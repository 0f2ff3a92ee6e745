"""The grader is not easily fooled: every trick of tests/assignment_tricks.py scores 0 on what it fakes."""

from __future__ import annotations

import contextlib

import pytest

from stages import get
from stages.common.where import installed, where
from tests.assignment_tricks import HONEST, TRICKS
from tools.assignment.definition import load
from tools.assignment.grading import file_of, grade, worker_for

SECRET = "tricks"


@pytest.fixture(scope="module")
def workers():
    """One process an assignment, for all submissions: it starts when it is first asked for."""
    with contextlib.ExitStack() as stack:
        started = {}

        def worker(name: str):
            if name not in started:
                started[name] = stack.enter_context(worker_for(load(name)))
            return started[name]

        yield worker


def place_or_skip(stage):
    place = where(get(stage))
    if not place:
        pytest.skip(f"{stage}: {place.reason}")


def submission(trick, folder):
    """The solution with the trick in it."""
    assignment = load(trick.assignment)
    for stage, path in zip(assignment.stages, assignment.submitted):
        text = stage.kernel_file.read_text(encoding="utf-8")
        if stage.short == trick.stage:
            for old, new in trick.replace:
                assert text.count(old) == 1, f"{trick.name} is out of date: {old!r} is there {text.count(old)} times"
                text = text.replace(old, new)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    for path, text in trick.extra.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return assignment


def faked(assignment, trick) -> set[str]:
    return set(trick.fakes) or {t.number for t in assignment.tests if t.stage.short == trick.stage}


@pytest.mark.parametrize("trick", [t for t in TRICKS if t.refused], ids=lambda trick: trick.name)
def test_the_file_is_refused(trick, tmp_path, workers):
    """By what it says: nothing of it is run, the message names a line, and the submission's other file counts."""
    assignment = submission(trick, tmp_path)
    grades = grade(assignment, tmp_path, SECRET, worker=workers(trick.assignment), select=_cheap(assignment, trick))
    mine = [g for g in grades.graded if g.test.stage.short == trick.stage]
    assert mine and all(g.score == 0 or g.score is None for g in mine)
    refused = [g for g in mine if g.outcome.status == "refused"]
    assert refused and all("line " in g.outcome.message for g in refused)
    others = [g for g in grades.graded if g.test.stage.short != trick.stage]
    assert all(g.outcome.ok for g in others), [g.outcome for g in others]


def _cheap(assignment, trick):
    """All tests of the trick's stage, and the first of every other file's."""
    first = {file_of(assignment, test): test.number for test in reversed(assignment.tests)}
    return lambda test: (
        test.stage.short == trick.stage
        or (trick.assignment == "ps1" and test.number == first[file_of(assignment, test)])
    )


@pytest.mark.parametrize("trick", [t for t in TRICKS if t.caught_when_run], ids=lambda trick: trick.name)
def test_it_gains_nothing_when_it_is_run(trick, tmp_path, workers):
    """Without the check of what files say, too: the other layers hold by themselves."""
    place_or_skip(trick.stage)
    assignment = submission(trick, tmp_path)
    wanted = faked(assignment, trick)
    grades = grade(
        assignment,
        tmp_path,
        SECRET,
        worker=workers(trick.assignment),
        static=False,
        select=lambda t: t.number in wanted,
    )
    gained = {g.test.number: g.outcome for g in grades.graded if g.outcome.ok}
    assert not gained
    assert {g.test.number for g in grades.graded} == wanted


@pytest.mark.parametrize("name", ("ps1", "ps2"))
def test_an_honest_solution_is_unaffected(name, tmp_path, workers):
    assignment = load(name)
    place_or_skip(assignment.stages[0].short)
    if name == "ps2" and not installed("triton"):
        pytest.skip("Triton is not installed")
    honest = submission(TRICKS[0].__class__("honest", name, "none", ()), tmp_path)
    wanted = {t.number for t in honest.tests} if name == "ps1" else {"1.1", "2.1", "2.6"}
    grades = grade(honest, tmp_path, SECRET, worker=workers(name), select=lambda t: t.number in wanted)
    assert all(g.outcome.ok for g in grades.graded), [g.outcome for g in grades.graded if not g.outcome.ok]


@pytest.mark.parametrize("variant", HONEST, ids=lambda variant: variant.name)
def test_another_way_to_write_it_has_full_marks(variant, tmp_path, workers):
    place_or_skip(variant.stage)
    assignment = submission(variant, tmp_path)
    wanted = faked(assignment, variant)
    worker = workers(variant.assignment)
    grades = grade(assignment, tmp_path, SECRET, worker=worker, select=lambda t: t.number in wanted)
    assert all(g.outcome.ok for g in grades.graded), [g.outcome for g in grades.graded if not g.outcome.ok]
    assert {g.test.number for g in grades.graded} == wanted


def test_there_are_enough_tricks():
    assert len({trick.name for trick in TRICKS}) == len(TRICKS) >= 12
