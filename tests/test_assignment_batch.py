"""A folder of submissions: whatever comes in, everybody gets a result; interrupted, it goes on where it stopped."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import signal
import zipfile

import pytest

from tests.assignment_hostile import HOSTILE, S01, S02, put, solution, source
from tools.assignment import batch, gradescope, submission
from tools.assignment.__main__ import _interrupted as interrupted
from tools.assignment.__main__ import main
from tools.assignment.batch import Batch, Entry, gathered, noticed, submissions, to_look_at, ungraded_of_all
from tools.assignment.definition import DefinitionError, load
from tools.assignment.grading import Graded, Grades, grade, worker_for
from tools.assignment.kinds import MISSING, PASSED, REFUSED, UNGRADED, UNMEASURED, Outcome

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
    assert rows["ada"]["look at"] == "" and rows["ada"]["build"] == gradescope.build("ps1") and rows["ada"]["graded at"]
    assert rows["mallory"]["refused"].startswith("s01: it is refused (line ") and "score 0" in rows["eve"]["look at"]
    for log in (out / "logs").glob("*.txt"):
        assert "Traceback" not in log.read_text(encoding="utf-8")

    put(folder / "ada", S02, "import os\n")  # a new version is graded anew, and only that
    entries = Batch(load("ps1"), SECRET, out, jobs=1).run(folder, lambda *_: None)
    assert {entry.who: entry.state for entry in entries if entry.state != "kept"} == {"ada": "graded"}


def test_a_grader_that_breaks_down_costs_one_submission(folder, tmp_path, monkeypatch):
    """Its result says that it was not graded; the next one has a grader again."""
    all_of_it = Batch(load("ps1"), SECRET, tmp_path / "out", jobs=1)
    grader = all_of_it.all[0]
    real, calls = grader._start, []

    def start():
        calls.append(None)
        real()
        if len(calls) == 1:
            grader.process.kill()

    monkeypatch.setattr(grader, "_start", start)
    for name in ("=grace", "alan.turing", "mallory"):
        shutil.rmtree(folder / name)
    entries = {entry.who: entry for entry in all_of_it.run(folder, lambda *_: None)}
    assert entries["ada"].state == "failed" and entries["ada"].data["score"] == 0
    assert "grader" in entries["ada"].data["extra_data"]["problem"]
    assert entries["eve"].state == "graded" and len(calls) == 2


# ---- what the folder holds ------------------------------------------------------------------------------------------


def zipped(path, prefix=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as packed:
        for name in (S01, S02):
            packed.writestr(prefix + name, source(name))
    return path


def test_the_usual_exports(tmp_path):
    """A folder each with a zip in it, zips, flat files that name student and stage; what is nobody's is named."""
    zipped(tmp_path / "anna" / "submission.zip")
    zipped(tmp_path / "submission_7" / "work.zip", "hw1/")
    zipped(tmp_path / "carl_12_345.zip")
    put(tmp_path, "dora_11_501_s01.py", source(S01))
    put(tmp_path, "dora_11_502_s02-1.py", source(S02))
    for name in ("submission_metadata.yml", "grades.csv", "Thumbs.db", "__MACOSX/x"):
        put(tmp_path, name, "x")
    found, skipped = submissions(tmp_path)
    assert [own.who for own in found] == ["anna", "carl_12_345", "dora_11", "submission_7"]
    assert not any(own.warning for own in found)
    assert skipped == ["Thumbs.db", "__MACOSX", "grades.csv", "submission_metadata.yml"]
    for own in found:
        read = submission.read(load("ps1"), gathered(own, tmp_path / "gathered"))
        assert read.files == {S01: source(S01), S02: source(S02)}, own.who


def test_one_name_twice_is_warned_of(tmp_path):
    solution(tmp_path / "bob")
    zipped(tmp_path / "bob.zip")
    put(tmp_path, "dora_1_s01.py", "a")
    put(tmp_path, "dora_1_s01-1.py", "b")
    found, _ = submissions(tmp_path)
    assert [own.who for own in found] == ["bob", "bob.zip", "dora_1"]
    assert all("bob and bob.zip are both there" in own.warning for own in found[:2])
    assert "several files of one stage" in found[2].warning
    read = submission.read(load("ps1"), gathered(found[2], tmp_path / "gathered"))
    assert not read.files and "2 files are called s01.py" in read.problems[S01]


# ---- what the table says, and what is kept --------------------------------------------------------------------------


def outcomes(**of):
    """The grades of ps1 with these outcomes, by number without its dot; the rest passed."""
    assignment = load("ps1")
    graded = [Graded(t, of.get(f"t{t.number.replace('.', '')}", Outcome(PASSED)), 1) for t in assignment.tests]
    return Grades(assignment, tuple(graded), 1)


REFUSED_FILE = Outcome(REFUSED, "It says:\n  line 8: import os is not accepted", whole="it is refused")


@pytest.mark.parametrize(
    "of, column, says",
    (
        ({"t11": REFUSED_FILE}, "refused", "s01: it is refused (line 8: import os is not accepted)"),
        ({"t21": Outcome(REFUSED, "torch computed")}, "refused", "test 2.1"),
        ({"t11": Outcome(MISSING, "m.zip is no zip.", whole="x")}, "missing or unreadable", "s01: m.zip is no zip"),
        ({"t31": Outcome("time", "x"), "t32": Outcome("time", "x")}, "timed out", "tests 3.1, 3.2"),
        ({"t32": Outcome("crashed", "x")}, "crashed", "test 3.2"),
        ({"t31": Outcome("memory", "x")}, "out of memory", "test 3.1"),
        ({"t31": Outcome(UNMEASURED, "x")}, "not measured", "test 3.1"),
        ({"t31": Outcome(UNGRADED, "x")}, "not graded", "test 3.1"),
    ),
)  # fmt: skip
def test_what_is_to_look_at(of, column, says):
    entry = Entry("ada", None, "graded", gradescope.results(outcomes(**of)))
    assert noticed(entry.data)[column] == [says]
    assert [c for c, found in noticed(entry.data).items() if found] == [column]
    assert to_look_at(entry) == [f"{column}: {says}"]
    plain = Entry("eve", None, "graded", gradescope.results(outcomes(t11=Outcome("wrong", "x"))))
    assert to_look_at(plain) == []


def test_a_score_of_0_and_what_it_came_as_are_to_look_at():
    data = gradescope.results(outcomes()) | {"score": 0.0}
    assert to_look_at(Entry("ada", None, "graded", data, "two of them")) == ["two of them", "score 0"]


def test_what_nobody_can_be_graded_in_is_said_of_nobody():
    entries = [Entry(w, None, "graded", gradescope.results(outcomes(t31=Outcome(UNGRADED, "no GPU")))) for w in "ab"]
    assert ungraded_of_all(entries) == {"3.1"} and to_look_at(entries[0], {"3.1"}) == []
    entries.append(Entry("c", None, "graded", gradescope.results(outcomes())))
    assert ungraded_of_all(entries) == set()


@pytest.fixture
def by_name(monkeypatch, tmp_path):
    """Batch runs without a grader: what each submission gets is in the dict, by its name."""
    results, asked = {}, []
    monkeypatch.setattr(batch, "gpu_arch", lambda: None)

    def grade(grader, path, out):
        asked.append(path.name)
        gradescope.write(results.get(path.name, outcomes()), out)
        return ""

    monkeypatch.setattr(batch.Grader, "grade", grade)
    for who in ("ada", "bea"):
        solution(tmp_path / "work" / who)

    def run(**options):
        del asked[:]
        entries = Batch(load("ps1"), SECRET, tmp_path / "out", 1, **options).run(tmp_path / "work", lambda *_: None)
        return {entry.who: entry.state for entry in entries}

    run.results, run.asked = results, asked
    return run


def test_what_was_not_measured_is_graded_again(by_name):
    by_name.results["ada"] = outcomes(t31=Outcome(UNMEASURED, "x"))
    by_name.results["bea"] = outcomes(t31=Outcome(UNGRADED, "no GPU here"))
    assert by_name() == {"ada": "graded", "bea": "graded"}
    assert by_name() == {"ada": "graded", "bea": "kept"}
    by_name.results["ada"] = outcomes()
    by_name()
    assert by_name() == {"ada": "kept", "bea": "kept"} and by_name.asked == []


def test_one_can_be_graded_again(by_name):
    by_name()
    assert by_name(again=["bea"]) == {"ada": "kept", "bea": "graded"} and by_name.asked == ["bea"]
    with pytest.raises(DefinitionError, match="--again is 'eve'; accepted: ada, bea"):
        by_name(again=["eve"])


@pytest.mark.parametrize("change", ("build", "gpu"))
def test_another_build_grades_all_again(by_name, monkeypatch, change):
    by_name()
    if change == "build":
        monkeypatch.setattr(gradescope, "build", lambda name: "another")
    else:
        monkeypatch.setattr(batch, "gpu_arch", lambda: 90)
    assert by_name() == {"ada": "graded", "bea": "graded"}


def test_what_is_not_there_is_one_error(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ASSIGNMENT_SECRET", SECRET)
    with pytest.raises(SystemExit) as ended:
        main(["grade", "ps1", str(tmp_path / "nosuch.zip")])
    said = capsys.readouterr()
    assert ended.value.code == 2 and "nosuch.zip', which is not there; accepted:" in said.err and not said.out


def test_one_submission_is_no_folder_of_them(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ASSIGNMENT_SECRET", SECRET)
    solution(tmp_path / "ada")
    with pytest.raises(SystemExit) as ended:
        main(["batch", "ps1", str(tmp_path / "ada"), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2 and "which is one submission" in capsys.readouterr().err


def test_the_table_is_printed(by_name, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ASSIGNMENT_SECRET", SECRET)
    monkeypatch.setenv("COLUMNS", "200")
    put(tmp_path / "work", "submission_metadata.yml", "x")
    by_name.results["bea"] = outcomes(t11=REFUSED_FILE)
    assert main(["batch", "ps1", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "left out: submission_metadata.yml" in said and "to look at" in said
    assert "refused: s01: it is refused (line 8: import os" in said and " ada " not in said.partition("to look at")[2]


def test_an_interrupted_grader_is_interrupted_once():
    """A second signal would meet what cleans up after the first, and leave its trace in the log."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
