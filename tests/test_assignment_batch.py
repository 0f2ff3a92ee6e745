"""A folder of submissions: whatever comes in, everybody gets a result; interrupted, it goes on where it stopped."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil

import pytest

from tests.assignment_hostile import HOSTILE, S02, put, solution, source
from tools.assignment import gradescope
from tools.assignment.batch import Batch, submissions
from tools.assignment.definition import load
from tools.assignment.grading import grade, worker_for

SECRET = "batch"


@pytest.fixture(scope="module")
def worker():
    with worker_for(load("ps1")) as started:
        yield started


SLOW = ("endless", "memory", "prints", "recursion")  # stopped by their limits, which take time: one test of each


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_submission_is_graded(name, tmp_path, worker):
    """It gets its result, 0 for what is no good, and the next submission is graded as ever."""
    whole = load("ps1")
    assignment = dataclasses.replace(whole, tests=tuple(dataclasses.replace(t, seconds=2) for t in whole.tests))
    work = tmp_path / "work"
    work.mkdir()
    HOSTILE[name](work)
    ((own,), _) = submissions(tmp_path)
    (path,) = own.paths
    numbers = {"1.1"} if name in SLOW else {"1.1", "1.2", "2.1"}
    for static in (True, False) if name in ("crash",) else (True,):
        grades = grade(assignment, path, SECRET, worker=worker, static=static, select=lambda t: t.number in numbers)
        assert len(grades.graded) == len(numbers)
        first = grades.graded[0]
        assert not first.outcome.ok and first.outcome.message
        assert "submission-" not in first.outcome.message and str(tmp_path) not in first.outcome.message
        assert gradescope.problems(gradescope.results(grades)) == []
    if name not in SLOW and S02 in _files(path):
        assert grades.graded[-1].outcome.ok
    solution(tmp_path / "next")
    after = grade(assignment, tmp_path / "next", SECRET, worker=worker, select=lambda t: t.number == "1.1")
    assert after.graded[0].outcome.ok


def _files(path) -> set[str]:
    return {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()} if path.is_dir() else set()


@pytest.fixture
def folder(tmp_path):
    work = tmp_path / "work"
    for who in ("ada", "=grace", "alan.turing"):
        solution(work / who)
    put(work / "alan.turing", S02, source(S02).replace("O = alpha[:, None] * O +", "O = O +"))
    HOSTILE["zip_bomb"](_made(work / "eve"))
    HOSTILE["kills"](_made(work / "mallory"))
    return work


def _made(path):
    path.mkdir()
    return path


def test_a_batch_that_is_interrupted(folder, tmp_path):
    out = tmp_path / "out"
    states = []

    def interrupt(entry, done, of):
        states.append(entry.state)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Batch(load("ps1"), SECRET, out, jobs=1).run(folder, interrupt)
    assert states == ["graded", "graded"]
    kept = {path: path.read_bytes() for path in (out / "results").glob("*.json")}
    assert 2 <= len(kept) < 5

    entries = Batch(load("ps1"), SECRET, out, jobs=2).run(folder, lambda *_: None)
    assert {path: path.read_bytes() for path in kept} == kept  # nothing is done twice
    assert sum(entry.state == "kept" for entry in entries) == len(kept)
    scores = {entry.who: entry.data["score"] for entry in entries}
    assert scores == {"ada": 100, "=grace": 100, "alan.turing": 47, "eve": 0, "mallory": 70}
    assert len(list((out / "feedback").glob("*.html"))) == 5
    for path in (out / "results").glob("*.json"):
        assert gradescope.problems(json.loads(path.read_text(encoding="utf-8"))) == []
    with (out / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["submission"]: row for row in csv.DictReader(file)}
    assert rows["'=grace"]["score"] == "100" and rows["alan.turing"]["2.2"] == "0" and rows["ada"]["state"] == "graded"

    put(folder / "ada", S02, "import os\n")  # a new version is graded anew, and only that
    entries = Batch(load("ps1"), SECRET, out, jobs=1).run(folder, lambda *_: None)
    assert {entry.who: entry.state for entry in entries if entry.state != "kept"} == {"ada": "graded"}


def test_a_grader_that_breaks_down_costs_one_submission(folder, tmp_path, monkeypatch):
    """Its result says that it was not graded; the next one has a grader again."""
    batch = Batch(load("ps1"), SECRET, tmp_path / "out", jobs=1)
    grader = batch.all[0]
    real, calls = grader._start, []

    def start():
        calls.append(None)
        real()
        if len(calls) == 1:
            grader.process.kill()

    monkeypatch.setattr(grader, "_start", start)
    for name in ("=grace", "alan.turing", "mallory"):
        shutil.rmtree(folder / name)
    entries = {entry.who: entry for entry in batch.run(folder, lambda *_: None)}
    assert entries["ada"].state == "failed" and entries["ada"].data["score"] == 0
    assert "grader" in entries["ada"].data["extra_data"]["problem"]
    assert entries["eve"].state == "graded" and len(calls) == 2
