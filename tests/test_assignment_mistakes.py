"""What a mistake costs and what the student is told: partial credit, and the property that failed by its name."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from stages import get
from tests.assignment_mistakes import MISTAKES, SECRET, graded, surprises
from tests.conftest import place_or_skip
from tools.assignment.definition import load, names
from tools.assignment.grading import grade, worker_for
from tools.assignment.kinds import UNGRADED

SECONDS = 3  # a loop without end is stopped after them
LEAST = {"ps1": 20, "ps2": 20, "ps3": 5, "ps4": 16, "ps5": 5}  # mistakes


@pytest.fixture(scope="module")
def workers():
    """workers(name): the assignment, and one process for all submissions, which starts when it is first asked for."""
    with contextlib.ExitStack() as stack:
        started = {}

        def worker(name: str):
            if name not in started:
                assignment = load(name)
                if name == "ps1":
                    short = tuple(dataclasses.replace(test, seconds=SECONDS) for test in assignment.tests)
                    assignment = dataclasses.replace(assignment, tests=short)
                started[name] = assignment, stack.enter_context(worker_for(assignment))
            return started[name]

        yield worker


@pytest.mark.parametrize(
    "name, mistake",
    [pytest.param(name, mistake, id=mistake.mutant.name) for name, made in MISTAKES.items() for mistake in made],
)
def test_mistake(name, mistake, workers, tmp_path):
    place_or_skip(get(mistake.mutant.stage))
    assignment, worker = workers(name)
    few = _ps1(mistake, assignment) if name == "ps1" else _two(mistake, assignment)
    grades = graded(mistake, assignment, worker, tmp_path, lambda t: t.number in few)
    for g in grades.graded:
        if g.outcome.status == UNGRADED:
            pytest.skip(g.outcome.message)
    assert not surprises(mistake, grades)


def _ps1(mistake, assignment) -> set[str]:
    """All. Those that take long, of one mistake only; of a loop without end one is enough."""
    if mistake.mutant.name == "s02_endless":
        return {"2.1", "3.2"}
    return {t.number for t in assignment.tests} - (set() if mistake.mutant.name == "s02_rescale_O" else {"3.1"})


def _two(mistake, assignment) -> set[str]:
    """The first test that it loses and the first that it does not: `python -m tests.assignment_mistakes` runs all."""
    own = [t.number for t in assignment.tests if t.stage.short == mistake.mutant.stage and not t.bonus]
    return {mistake.lost[0], *[n for n in own if n not in mistake.lost][:1]}


def test_no_message_tells_a_hidden_input(workers, tmp_path):
    """Not through an exception's text, and not through what is printed."""
    assignment, worker = workers("ps1")
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
    assert set(MISTAKES) == set(names())
    for name, made in MISTAKES.items():
        assert len({m.mutant.name for m in made}) == len(made) >= LEAST[name]


@pytest.mark.parametrize("name", MISTAKES)
def test_the_tables_name_tests_that_there_are(name):
    assignment = load(name)
    for mistake in MISTAKES[name]:
        own = [t.number for t in assignment.tests if t.stage.short == mistake.mutant.stage and not t.bonus]
        assert mistake.lost and set(mistake.lost) <= set(own), mistake.mutant.name
