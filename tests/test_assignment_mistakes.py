"""What a mistake costs and what the student is told: partial credit, and the property that failed by its name."""

from __future__ import annotations

import dataclasses

import pytest

from tests.assignment_mistakes import PS1
from tests.test_mutants import mutate
from tools.assignment.definition import load
from tools.assignment.grading import grade, worker_for

SECRET = "mistakes"
SECONDS = 3  # a loop without end is stopped after them


@pytest.fixture(scope="module")
def assignment():
    whole = load("ps1")
    return dataclasses.replace(whole, tests=tuple(dataclasses.replace(t, seconds=SECONDS) for t in whole.tests))


@pytest.fixture(scope="module")
def worker(assignment):
    with worker_for(assignment) as started:
        yield started


@pytest.mark.parametrize("mistake", PS1, ids=lambda mistake: mistake.mutant.name)
def test_mistake(mistake, assignment, worker, tmp_path):
    stage = mistake.mutant.stage
    for own, path in zip(assignment.stages, assignment.submitted):
        if own.short == stage:
            (tmp_path / path).parent.mkdir(parents=True)
            (tmp_path / path).write_text(mutate(own.kernel_file.read_text(encoding="utf-8"), mistake.mutant))
    select = _selected(mistake, assignment)
    grades = grade(assignment, tmp_path, SECRET, worker=worker, select=select)
    lost = [g for g in grades.graded if not g.outcome.ok]
    assert tuple(g.test.number for g in lost) == tuple(n for n in mistake.lost if _ran(n, grades))
    assert mistake.hint in lost[0].outcome.message
    won = sum(g.test.points for g in grades.graded) - sum(g.test.points for g in lost)
    assert grades.score == won


def _selected(mistake, assignment):
    """The stage's tests. Those that take long, of one mistake only; of a loop without end one is enough."""
    name = mistake.mutant.name
    skipped = set() if name == "s02_rescale_O" else {"3.1"}
    few = {"2.1", "3.2"} if name == "s02_endless" else {t.number for t in assignment.tests} - skipped
    return lambda t: t.stage.short == mistake.mutant.stage and t.number in few


def _ran(number: str, grades) -> bool:
    return any(g.test.number == number for g in grades.graded)


def test_no_message_tells_a_hidden_input(assignment, worker, tmp_path):
    """Not through an exception's text, and not through what is printed."""
    path = tmp_path / assignment.submitted[0]
    path.parent.mkdir(parents=True)
    source = assignment.stages[0].kernel_file.read_text(encoding="utf-8")
    told = (
        "    print('hidden', Q)\n    raise ValueError(f'hidden {Q.shape} {Q[0, 0]} {K.shape}')\n    S = softmax_scale"
    )
    path.write_text(source.replace("    S = softmax_scale", told, 1), encoding="utf-8")
    grades = grade(assignment, tmp_path, SECRET, worker=worker, select=lambda t: t.number == "1.1")
    outcome = grades.graded[0].outcome
    assert "ValueError was raised, in line" in outcome.message
    shown = outcome.message.replace("raise ValueError(f'hidden {Q.shape} {Q[0, 0]} {K.shape}')", "")
    assert "hidden " not in shown.replace("hidden inputs", "")
    assert any("hidden" in note for note in outcome.notes)  # the instructor sees it


def test_there_are_enough():
    assert len({m.mutant.name for m in PS1}) == len(PS1) >= 20
