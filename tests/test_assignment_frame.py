"""Stripping, leaks, submissions, results: what the classroom's tools take and refuse."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
import json
import os
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reference import Case, oracle
from stages import get
from stages.common.where import where
from tools.assignment import feedback, functions, gradescope, grading, hidden, kinds, places, submission
from tools.assignment.allowed import refusals
from tools.assignment.build import autograder
from tools.assignment.definition import load, names
from tools.assignment.diagnose import NO_MAXIMUM, diagnose
from tools.assignment.grading import Graded, Grades
from tools.assignment.kinds import (
    CRASHED,
    MISSING,
    PASSED,
    REFUSED,
    UNGRADED,
    UNMEASURED,
    WRONG,
    Context,
    Outcome,
    _conflicts,
)
from tools.assignment.leaks import distinctive, leaks
from tools.assignment.notebook import notebook
from tools.assignment.overlap import instrumented, parse
from tools.assignment.process import Answer, Pause, Worker
from tools.assignment.strip import StripError, strip
from tools.assignment.tensors import describe
from tools.assignment.tree import handout, stripped
from tools.check import ADVICE, NOT_WRITTEN
from tools.regions import Region

ALL = names()


# ---- stripping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_stripped_file_says_what_is_missing(name):
    assignment = load(name)
    for stage in assignment.stages:
        text = stripped(assignment, stage)
        for task in assignment.tasks_of(stage):
            assert text.count(f'"{NOT_WRITTEN}: {task.name}: ') == 1
            assert f"BEGIN SOLUTION {task.name}: " in text
        kind = {"numpy": "raise NotImplementedError(", "triton": "tl.static_assert(False, ", "cuda": "static_assert("}
        assert kind[stage.capability.backend] + ("" if name in ("ps3", "ps4", "ps5") else f'"{NOT_WRITTEN}') in text


def region_in(tmp_path, text, name="kernel.cu"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    task = load("ps3").tasks[0]
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines, 1) if "BEGIN" in line)
    end = next(i for i, line in enumerate(lines, 1) if "END" in line)
    return dataclasses.replace(task, starter="", region=Region(path, "x", "do it", begin, end), name="x", hint="do it")


@pytest.mark.parametrize(
    "body, says",
    (
        ("  for (;;) {\n", "opens more { than it closes"),
        ("  f(1;\n", r"opens more \( than it closes"),
        ("\n", "nothing to take out"),
    ),
)
def test_lines_that_cannot_be_taken_out(tmp_path, body, says):
    text = f"template <typename T>\nvoid f() {{\n  // BEGIN SOLUTION x: do it\n{body}  // END SOLUTION\n}}\n"
    with pytest.raises(StripError, match=says) as error:
        strip(text, [region_in(tmp_path, text)])
    assert "kernel.cu, lines " in str(error.value)


def test_a_stub_needs_a_template(tmp_path):
    text = "void f() {\n  // BEGIN SOLUTION x: do it\n  g();\n  // END SOLUTION\n}\n"
    with pytest.raises(StripError, match="no template"):
        strip(text, [region_in(tmp_path, text)])


def test_a_leak_is_found_wherever_it_is(tmp_path):
    """In a notebook, in a cache, with other white space."""
    assignment = load("ps1")
    handout(assignment, tmp_path)
    assert leaks(assignment, tmp_path) == []
    line, task = next(iter(distinctive(assignment).values()))
    places = {
        "notes.md": f"so:  {line.strip().replace(' ', '   ')}\n",
        "book.ipynb": json.dumps({"cells": [{"outputs": [{"text": [line]}]}]}),
        "stages/__pycache__/kernel.pyc": f"\0\1{line}\0",
    }
    for name, text in places.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        found = leaks(assignment, tmp_path)
        assert [str(leak.file) for leak in found] == [name] and found[0].task == task
        path.unlink()


# ---- what a file may say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_solutions_and_handouts_are_not_refused(name):
    assignment = load(name)
    for stage in assignment.stages:
        for text in (stage.kernel_file.read_text(encoding="utf-8"), stripped(assignment, stage)):
            assert refusals(stage, text) == []


@pytest.mark.parametrize(
    "line",
    (
        "import os", "import numpy.lib", "from numpy import ctypeslib", "from numpy import *", "import importlib",
        "x = open('f')", "x = eval('1')", "x = np.load('f')", "x = np.lib.format", "x = (1).__class__", "x = np",
        "x = prepare.__globals__", "x = np.core", "x = [].__reduce__()", "import torch", "x = getattr(1, 'real')",
        "x = np.linalg.linalg", "x = globals()", "np.exp = np.log", "global x", "x = np.ctypeslib.load_library",
        "x = (a for a in ()).gi_frame", "x = __builtins__", "x = type.mro(int)",
        "from stages.s02_online_softmax import kernel", "from reference import oracle", "from . import s02",
        "x = np.testing.measure", "STAGE.tiles = {}", "x = id(1)",
        "x = np.frombuffer.__self__", "x = breakpoint", "x = vars()",
    ),
)  # fmt: skip
def test_a_refused_line(line):
    stage = get("s01")
    text = stage.kernel_file.read_text(encoding="utf-8") + f"\n\ndef more():\n    {line}\n"
    (refusal, *_) = refusals(stage, text)
    assert refusal.line == text.count("\n") and "accepted" in str(refusal)


@pytest.mark.parametrize(
    "line",
    (
        "x = np.maximum.accumulate(np.ones(3))", "x = np.linalg.norm(np.ones(3))", "x = np.float32(1)", "import math",
        "x = [i**2 for i in range(3)]", "x = np.ones(3).sum(axis=0).max()", "x = np.einsum('ij->ji', np.ones((3, 2)))",
        "x = np.matmul(np.ones(3), np.ones(3))", "print(f'{1:3d}')", "from numpy import exp", "x = lambda a: a",
        "x = np.add.reduce(np.ones(3))", "x = dict(a=1)",
    ),
)  # fmt: skip
def test_an_accepted_line(line):
    stage = get("s01")
    text = stage.kernel_file.read_text(encoding="utf-8") + f"\n\ndef more():\n    {line}\n"
    assert refusals(stage, text) == []


def test_a_definition_can_accept_more():
    stage, text = get("s01"), "import numpy as np\nimport scipy\n\nx = np.load\n"
    assert len(refusals(stage, text)) == 2
    assert refusals(stage, text, ("scipy", "numpy.load")) == []


@pytest.mark.parametrize(
    "line",
    ("#define X", "#include <vector>", "asm(\"\");", "smem[0] = 1;", "__shared__ int x;", "static int n;",
     "std::swap(a, b);",
     "int x = __builtin_expect(1, 1);", "%:define X", "FILE* f = fopen(\"x\", \"w\");", "#pragma omp parallel",
     "auto p = reinterpret_cast<int*>(q);"),
)  # fmt: skip
def test_a_refused_line_of_cuda(line):
    stage = get("s21")
    text = stage.kernel_file.read_text(encoding="utf-8") + line + "\n"
    (refusal, *_) = refusals(stage, text)
    assert refusal.line == text.count("\n") and "accepted" in str(refusal) or "only" in str(refusal)


# ---- submissions ----------------------------------------------------------------------------------------------------


def put(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


S01, S02 = load("ps1").submitted


@pytest.mark.parametrize(
    "files",
    (
        {S01: "a", S02: "b"},
        {f"handout-main/{S01}": "a", f"handout-main/{S02}": "b"},
        {"s01_naive/kernel.py": "a", "s02_online_softmax/kernel.py": "b", "notes/kernel.py": "c"},
        {"s01.py": "a", "s02.py": "b"},
        {S01: "\ufeffa", S02: "b", f"old/{S01}": "c"},
    ),
)
def test_files_are_found(tmp_path, files):
    found = submission.read(load("ps1"), put(tmp_path, files))
    assert found.files == {S01: "a", S02: "b"} and not found.problems


def test_a_zip_is_a_submission(tmp_path):
    path = tmp_path / "work.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"x/{S01}", "a\r\nb")
        packed.writestr(f"x/{S02}", "b")
        packed.writestr(f"__MACOSX/x/{S02}", "c")
    assert submission.read(load("ps1"), path).files == {S01: "a\nb", S02: "b"}


def test_what_is_missing_is_named(tmp_path):
    found = submission.read(load("ps1"), put(tmp_path, {S01: "a"}))
    assert found.files == {S01: "a"} and f"{S02} is missing" in found.problems[S02]


@pytest.mark.parametrize("name", ("kernel.cu", "s21.cu", "deep/er/kernel.cu"))
def test_a_single_file_is_enough_where_there_is_one(tmp_path, name):
    assignment = load("ps3")
    assert submission.read(assignment, put(tmp_path, {name: "a"})).files == {assignment.submitted[0]: "a"}


def test_hostile_files(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("secret")
    work = put(tmp_path / "work", {S02: "b" * (2 << 20)})
    (work / S01).parent.mkdir(parents=True)
    (work / S01).symlink_to(outside)
    found = submission.read(load("ps1"), work)
    assert not found.files and "link" in found.problems[S01] and "larger" in found.problems[S02]
    (work / S01).unlink()
    os.mkfifo(work / S01)
    (work / S02).write_bytes(b"a\0b")
    found = submission.read(load("ps1"), work)
    assert "no ordinary file" in found.problems[S01] and "zero bytes" in found.problems[S02]


def test_hostile_zips(tmp_path):
    path = tmp_path / "bomb.zip"
    link = zipfile.ZipInfo(S01)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(link, "/etc/passwd")
        packed.writestr(S02, b"a" * (64 << 20))
        packed.writestr("../../escape/kernel.py", "a")
    found = submission.read(load("ps1"), path)
    assert not found.files and "link" in found.problems[S01] and "larger" in found.problems[S02]
    data = io.BytesIO(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "half.zip").write_bytes(data.getvalue())
    with pytest.raises(submission.SubmissionError, match="half.zip, is damaged"):
        submission.read(load("ps1"), tmp_path / "half.zip")


def zip_of(files, name="x.zip"):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        for path, text in files.items():
            packed.writestr(path, text)
    return data.getvalue()


def test_a_zip_in_a_folder_is_opened(tmp_path):
    (tmp_path / "any name.zip").write_bytes(zip_of({f"hw/{S01}": "a", f"hw/{S02}": "b"}))
    assert submission.read(load("ps1"), tmp_path).files == {S01: "a", S02: "b"}
    put(tmp_path, {S01: "newer"})  # files that lie beside it go first
    assert submission.read(load("ps1"), tmp_path).files == {S01: "newer"}


def test_a_zip_in_a_zip_is_opened_and_no_deeper(tmp_path):
    inner = zip_of({S01: "a", S02: "b"})
    path = tmp_path / "ada.zip"
    path.write_bytes(zip_of({"submission.zip": inner}))
    assert submission.read(load("ps1"), path).files == {S01: "a", S02: "b"}
    path.write_bytes(zip_of({"submission.zip": zip_of({"submission.zip": inner})}))
    with pytest.raises(submission.SubmissionError, match="a zip in a zip in a zip"):
        submission.read(load("ps1"), path)


@pytest.mark.parametrize(
    "files, says",
    (
        ({"mia.zip": "my work"}, "mia.zip is not a zip; hand in submission.zip"),
        ({"mia.tar.gz": "my work"}, "mia.tar.gz is not a zip"),
        ({"a.zip": "x", "b.zip": "y"}, "2 archives and none of the files: a.zip, b.zip"),
        ({"a.ipynb": "{}", "b.ipynb": "{}"}, "2 notebooks"),
        ({"a.ipynb": '{"cells": []}'}, "has no %%task cells; hand in submission.zip"),
        ({"a.ipynb": "[" * 100_000}, "no notebook that can be read"),
        ({"a.ipynb": '{"cells": [{"cell_type": "code", "source": "%%task s01 nave\\n1"}]}'}, "task is 'nave'"),
        ({"a.ipynb": '{"cells": [{"cell_type": "code", "source": "%%task ../x y\\n1"}]}'}, "stage is '../x'"),
    ),
)
def test_what_cannot_be_opened_says_what_to_hand_in(tmp_path, files, says):
    with pytest.raises(submission.SubmissionError) as error:
        submission.read(load("ps1"), put(tmp_path, files))
    assert says in str(error.value)
    if len(files) == 1 and "zip" in says:
        (path,) = tmp_path.iterdir()
        if path.suffix != ".ipynb":
            with pytest.raises(submission.SubmissionError, match="is not a zip"):
                submission.read(load("ps1"), path)


def test_a_name_that_two_files_have_says_nothing(tmp_path):
    found = submission.read(load("ps1"), put(tmp_path, {"kernel.py": "a"}))
    assert not found.files
    assert "kernel.py does not say whether it is" in found.problems[S01] and "s02.py" in found.problems[S02]


def test_a_file_as_a_learning_platform_names_it(tmp_path):
    path = tmp_path / "ada_123_kernel.cu"
    path.write_text("a")
    assignment = load("ps3")
    assert submission.read(assignment, path).files == {assignment.submitted[0]: "a"}


@pytest.mark.parametrize("name", ALL)
def test_a_filled_notebook_is_the_files(tmp_path, name):
    """Also in an unpacked autograder, which has no solution to cut the handout's files from."""
    assignment = load(name)
    (tmp_path / "book.ipynb").write_text(notebook(assignment, "text", source=True), encoding="utf-8")
    found = submission.read(assignment, tmp_path)
    for stage, path in zip(assignment.stages, assignment.submitted):
        assert code(found.files[path]) == code(stage.kernel_file.read_text(encoding="utf-8"))
    assert "book.ipynb" in found.note
    (tmp_path / "book.ipynb").write_text(notebook(assignment, "text", source=False), encoding="utf-8")
    empty = submission.read(assignment, tmp_path)
    assert empty.files == {p: stripped(assignment, s) for s, p in zip(assignment.stages, assignment.submitted)}


def code(text):
    """Without the markers, which a handout has around lines that the stage does not mark."""
    return [line for line in text.splitlines() if " SOLUTION" not in line]


def test_an_unpacked_autograder_does_the_same(tmp_path):
    assignment = load("ps1")
    autograder(assignment, "secret", tmp_path / "grader")
    (tmp_path / "book.ipynb").write_text(notebook(assignment, "text", source=True), encoding="utf-8")
    script = (
        "import json\nfrom tools.assignment import gradescope, submission\n"
        "from tools.assignment.definition import load\n"
        f"files = submission.read(load('ps1'), {str(tmp_path / 'book.ipynb')!r}).files\n"
        "print(json.dumps([gradescope.build('ps1'), files]))"
    )
    command = [sys.executable, "-B", "-c", script]
    done = subprocess.run(command, cwd=tmp_path / "grader", capture_output=True, text=True, check=True)
    build, files = json.loads(done.stdout)
    assert build == gradescope.build("ps1")
    assert all(code(files[p]) == code(s.kernel_file.read_text()) for s, p in zip(assignment.stages, files))


# ---- files that are no good as a whole ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ps1_worker():
    with grading.worker_for(load("ps1")) as worker:
        yield worker


@pytest.mark.parametrize(
    "text, status, whole, says",
    (
        (None, MISSING, "it is missing", f"{S01} is missing"),
        (" \n", MISSING, "it is empty", "The file is empty."),
        ("import numpy as np\n", CRASHED, "`attention` is not defined in the file", "`attention` is not defined"),
        ("# def attention(): pass\n", CRASHED, "`attention` is not defined in the file", "`attention` is not defined"),
        ("import os\n", REFUSED, "it is refused", "line 1: import os is not accepted"),
        ("def attention(:\n", CRASHED, "it is not Python", "SyntaxError: "),
        ("def attention():\n  x\n y\n", CRASHED, "it is not Python", "IndentationError: "),
        ("from numpy import nix\ndef attention(): pass\n", CRASHED, "it cannot be imported", "ImportError: "),
    ),
)
def test_what_is_wrong_with_a_file_is_said_once(tmp_path, ps1_worker, text, status, whole, says):
    """At the top; every test refers to it; and the other file is graded."""
    assignment = load("ps1")
    work = put(tmp_path, {S02: get("s02").kernel_file.read_text(encoding="utf-8")} | ({S01: text} if text else {}))
    chosen = ("1.1", "1.2", "2.1")
    grades = grading.grade(assignment, work, "secret", worker=ps1_worker, select=lambda t: t.number in chosen)
    assert [g.outcome.status for g in grades.graded] == [status, status, PASSED]
    data = gradescope.results(grades)
    assert gradescope.problems(data) == []
    assert data["output"].count(says) == 1 and data["output"].startswith(f"{S01}: ") and S02 not in data["output"]
    for test in data["tests"][:2]:
        assert test["output"] == f"0 points, because of the file as a whole: {whole}. See above."
        assert feedback.word(test) == "not counted"
    assert feedback.lost(data) == [(f"s01's file: {whole}", 11, ["1.1", "1.2"])]
    assert "not graded" not in feedback.page(data, "t", "w").lower() + feedback.summary(data).lower()


def test_a_kernel_that_is_not_there(tmp_path):
    assignment = load("ps3")
    text = '#include "ptx.cuh"\n#include "params.cuh"\n// attention_kernel\nvoid f() {}\n'
    (tmp_path / "kernel.cu").write_text(text, encoding="utf-8")
    grades = grading.grade(assignment, tmp_path, "secret", select=lambda t: t.number in ("1.1", "3.1"))
    assert {g.outcome.message for g in grades.graded} == {"`attention_kernel` is not defined in the file."}
    assert "attention_kernel" in gradescope.results(grades)["output"]


def test_what_the_compiler_says_is_said_once():
    assignment = load("ps3")
    context = Context(assignment, assignment.tests[0], None, "secret", "x")
    failed = kinds.failure(context, {"type": "CompileError", "text": "no such\nthing"}, "")
    graded = tuple(Graded(test, failed.outcome, 1) for test in assignment.tests[:3])
    data = gradescope.results(Grades(assignment, graded, 1))
    assert json.dumps(data["tests"]).count("no such") == 0 and data["output"].count("no such") == 1
    assert "\n    thing" in data["output"]  # as code


def test_a_function_that_is_missing_is_named(tmp_path, ps1_worker):
    text = get("s02").kernel_file.read_text(encoding="utf-8").replace("def merge(", "def merg(")
    grades = grading.grade(
        load("ps1"),
        put(tmp_path, {S02: text}),
        "secret",
        worker=ps1_worker,
        select=lambda t: t.number in ("2.1", "4.1"),
    )
    assert [g.outcome.message for g in grades.graded] == ["", "`merge` is not defined in the file."]


def test_what_a_test_depends_on_is_named():
    test = next(t for t in load("ps1").tests if t.only_if)
    gate = Outcome(REFUSED, "The result is right, but f is never called.\nMore.", causes=("f is never called",))
    outcome = grading.gated(test, gate)
    assert (
        outcome.message == "0 points, because of test 3.1, see there: f is never called."
        and outcome.causes == gate.causes
    )
    assert "of test 3.1, see there: Memory grows." in grading.gated(test, Outcome("memory", "Memory grows.")).message


@pytest.mark.parametrize(
    "calls, largest, causes, says",
    (
        (4, 4096, (), ""),
        (0, 0, (), "is never called"),
        (3, 4096, (), "is not called for every tile"),
        (2, 8192, (), "gets more than a tile at once"),
        (4, 4096, ("out is wrong",), "it is not what comes out of"),
    ),
)
def test_how_tiles_get_round_the_step(calls, largest, causes, says):
    assignment = load("ps1")
    (test,) = [t for t in assignment.tests if t.number == "3.2"]
    context = Context(assignment, test, None, "secret", "")
    case = Case("float32", 32, 100, 128, nheads=1, nheads_k=1)
    found = kinds.went_round(context, {"through": [calls, largest]}, case, causes, "step")
    assert bool(found) == bool(says) and says in found
    message = kinds.round_about(context, "x", "step").message
    assert "a tile of 64 keys at a time" in message and "call of `step`" in message


# ---- results --------------------------------------------------------------------------------------------------------


def some_grades():
    assignment = load("ps2")
    outcomes = {0: Outcome(PASSED), 1: Outcome(WRONG, "bad \x07 \ud800 text"), 2: Outcome(MISSING, "gone")}
    graded = tuple(Graded(t, outcomes.get(i, Outcome(UNGRADED, "no GPU")), 0.5) for i, t in enumerate(assignment.tests))
    return Grades(assignment, graded, 3.25)


def test_results_are_as_gradescope_wants_them():
    data = gradescope.results(some_grades())
    assert gradescope.problems(data) == []
    assert data["score"] == 10 and json.loads(json.dumps(data, allow_nan=False)) == data
    ungraded = data["tests"][3]
    assert "score" not in ungraded and "status" not in ungraded and "max_score" not in ungraded


def test_results_so_far_are_results():
    whole = some_grades()
    part = dataclasses.replace(whole, graded=whole.graded[:1])
    data = gradescope.results(part)
    assert gradescope.problems(data) == [] and len(data["tests"]) == len(whole.graded)
    assert not data["extra_data"]["complete"] and data["tests"][1]["status"] == "failed"


@pytest.mark.parametrize(
    "change, says",
    (
        (lambda d: d.update(grade=1), "'grade' is unknown"),
        (lambda d: d.update(score="44"), "score is str"),
        (lambda d: d.update(score=float("nan")), "score is nan"),
        (lambda d: d.update(visibility="all"), "visibility is 'all'"),
        (lambda d: d["tests"][0].update(status="ok"), "status is 'ok'; accepted: passed, failed"),
        (lambda d: d["tests"][0].update(number=1.1), "number is float"),
        (lambda d: d["tests"][0].update(tags=[1]), "tags are text"),
        (lambda d: d["tests"][0].update(output=None), "output is NoneType"),
        (lambda d: d["tests"].append("x"), "is no object"),
        (lambda d: (d.pop("tests"), d.pop("score")), "neither score nor tests"),
        (lambda d: d.update(leaderboard=[{"name": "t", "value": 1, "order": "up"}]), "order is 'up'"),
        (lambda d: d.update(leaderboard=[{"name": "t"}]), "value is missing"),
        (lambda d: d.update(extra_data={"x": object()}), "no JSON"),
    ),
)
def test_what_gradescope_would_refuse(change, says):
    data = gradescope.results(some_grades())
    change(data)
    assert any(says in problem for problem in gradescope.problems(data)), gradescope.problems(data)


def test_the_leaderboard_has_only_what_passed():
    assignment = load("ps3")
    (test,) = [t for t in assignment.tests if t.number == "3.2"]
    for status, count in ((PASSED, 1), (WRONG, 0)):
        graded = (Graded(test, Outcome(status, "", (), {"wavefronts": 10}), 1.0),)
        assert len(gradescope.leaderboard(Grades(assignment, graded, 1.0))) == count


def test_a_page_shows_what_is_said_and_runs_nothing():
    grades = some_grades()
    data = gradescope.results(grades) | {"output": "<script>x</script>"}
    page = feedback.page(data, "A & B", "<b>me</b>")
    assert "<script>" not in page and "&lt;b&gt;me" in page and "not graded" in page
    assert "| 1.1 One tile (s11) | passed | 10 / 10 |" in feedback.summary(data)


def test_what_to_repair_first_is_what_cost_most():
    """A test that two causes may explain counts for the one that explains more."""
    assignment = load("ps1")
    causes = {"1.1": ("a", "b"), "2.2": ("b",), "2.3": ("b",), "3.1": ("c",)}
    graded = []
    for test in assignment.tests:
        own = causes.get(test.number, ())
        graded.append(Graded(test, Outcome(WRONG, "x", causes=own) if own else Outcome(PASSED), 1))
    data = gradescope.results(Grades(assignment, tuple(graded), 1))
    assert feedback.lost(data) == [("b", 21, ["1.1", "2.2", "2.3"]), ("c", 5, ["3.1"])]
    page = feedback.page(data, "title", "who")
    assert page.index("What to repair first") < page.index("<strong>21 points</strong>: b") < page.index("<details")
    assert page.count("<details") == len(assignment.tests) and page.count(" open>") == 4
    assert "What to repair" not in feedback.page({"score": 1.0, "tests": [], "extra_data": {}}, "title", "who")


def test_a_page_says_when_and_by_what():
    data = gradescope.results(some_grades())
    about = data["extra_data"]
    for text in (feedback.page(data, "t", "w"), feedback.summary(data)):
        assert f"Graded {about['graded']}, ps2 build {gradescope.build('ps2')}" in text
    assert gradescope.build("ps1") != gradescope.build("ps2")


def test_prose_is_prose_and_code_is_code():
    made = feedback.prose("It is <so>, in `f`:\n    x = 1\n\n      y\nEnd.")
    assert made == "<p>It is &lt;so&gt;, in <code>f</code>:</p><pre>x = 1\n  y</pre><p>End.</p>"


# ---- counters -------------------------------------------------------------------------------------------------------


def report(mma, fragments, wavefronts, passes):
    counters = {
        "mma": {"instructions": mma},
        "ldmatrix": {"instructions": fragments, "wavefronts": wavefronts, "passes": passes},
    }
    return {"counters": counters, "conflicts": [{"line": 70, "op": "ldmatrix", "ways": 8}]}


def test_conflicts_count_only_in_a_kernel_that_does_its_work():
    assignment = load("ps3")
    (test,) = [t for t in assignment.tests if t.number == "3.1"]
    context = Context(assignment, test, None, "secret", "")
    case = dataclasses.replace(hidden.cases(test, "secret")[0], seqlen_q=64, seqlen_k=64)
    mma, fragments = 4 * (4 * 8 + 4 * 8), 4 * (4 + 32)
    assert _conflicts(context, report(mma, fragments, 100, 100), case).status == PASSED
    assert _conflicts(context, report(mma, fragments, 101, 100), case).status == WRONG
    assert _conflicts(context, report(mma - 1, fragments, 100, 100), case).status == "refused"
    assert _conflicts(context, report(mma, fragments - 1, 100, 100), case).status == "refused"


def test_notes_of_copies():
    text = instrumented(get("s22").kernel_file.read_text(encoding="utf-8"))
    assert text.index('#include "params.cuh"') < text.index("noted_commit") < text.index("attention_kernel")
    assert parse("0 0 0 1 32\n0 0 0 1 7\nrubbish\n0 0 0 2 x\n") == {(0, 0, 0, 1): [32, 7]}


def test_the_lines_of_a_kernel_keep_their_numbers_beside_the_notes():
    source = get("s22").kernel_file.read_text(encoding="utf-8")
    for text in (source, source.replace("\n", "  // own\n", 30), 'void f() {}\n#include "no.h"'):
        lines = instrumented(text).splitlines()
        (at,) = [i for i, line in enumerate(lines) if line.startswith("#line ")]
        assert lines[at + 1 :] == text.splitlines()[int(lines[at].split()[1]) - 1 :]
        assert "#include" not in "".join(lines[at + 1 :]) or "no.h" in text


# ---- what is said of a wrong result ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place, said",
    [
        (lambda row, chunk: row * 128 + (chunk ^ row % 8) * 16, ""),
        (lambda row, chunk: row * 128 + chunk * 16 + (row == 3), "chunk 0 of row 3 would begin at byte 385"),
        (lambda row, chunk: row * 144 + chunk * 16, "past the end of its tile of 512 bytes"),
        (lambda row, chunk: row * 128 + chunk % 7 * 16, "chunk 7 of row 0 and chunk 0 of row 0 have the same place"),
    ],
)
def test_places_of_chunks(place, said):
    found = places.problem([place(row, chunk) for row in range(4) for chunk in range(8)], 4, 64)
    assert said in found and bool(said) == bool(found)


@pytest.mark.parametrize("stage", ("s21", "s22", "s23", "s24"))
def test_the_probe_finds_what_it_asks(stage):
    assert places.ASKED.search(get(stage).kernel_file.read_text(encoding="utf-8"))


def test_one_mistake_that_explains_all_cases_goes_before_one_for_each():
    assert kinds.likeliest([("a", "c"), ("b", "c")]) == ("c",)
    assert kinds.likeliest([("a", "b"), ("b", "a")]) == ("a",)
    assert kinds.likeliest([("a",), ("b", "c"), ("a",)]) == ("a", "b")


def noted(*findings):
    return {"report": {"findings": [{"kind": kind, "message": message} for kind, message in findings]}}


def test_of_what_the_emulator_finds_the_telling_one_is_told():
    empty = ("uninitialised", "it reads shared memory that nothing has written")
    race = ("race", "thread 1 is not ordered after thread 2: no barrier in between")
    flying = ("race", "thread 1 has not waited for it")
    assert kinds.finding(noted()) == kinds.finding({}) == ""
    assert "no barrier" in kinds.finding(noted(empty, race))
    assert "a barrier after that" in kinds.finding(noted(empty))
    assert "a wait is missing" in kinds.finding(noted(flying))
    assert "asked for before all had read" in kinds.finding(noted(flying), right=True)


def test_advice_is_given_where_simpler_tests_passed(monkeypatch):
    assignment = load("ps2")
    (test,) = [t for t in assignment.tests if t.number == "1.2"]
    monkeypatch.setattr(kinds, "drawn", lambda context: hidden.cases(test, "secret"))
    monkeypatch.setattr(kinds, "attention_call", lambda *_, **__: {})
    for failed, named in ((False, False), (True, False), (False, True)):
        context = Context(assignment, test, None, "secret", "", failed)
        context.answer = Answer("", {}, b"", 0)
        context.run = lambda job: [{}, {}]
        cause = "O is not divided by l at the end" if named else "out is wrong by more than rounding explains"
        monkeypatch.setattr(kinds, "check_call", lambda *_, cause=cause: ((cause,), ""))
        message = kinds.attention(context).message
        assert cause in message and ".." not in message
        assert ("One tile is right." in message) == (not failed and not named)


def test_advice_fits_the_stage():
    assert "running maximum" not in kinds.advice(get("s01"), "large logits")
    assert kinds.advice(get("s01"), "large logits") == "Subtract the row's maximum before exp."
    assert "running maximum" in kinds.advice(get("s02"), "large logits")
    for about in ADVICE:
        assert kinds.advice(get("s01"), about).endswith((".", "?"))


def test_a_sentence_ends_once():
    for cause in ("start at -inf", "start at -inf."):
        assert kinds.looks((cause,)) == ["What the result looks like: start at -inf."]
    assert kinds.looks(("a", "b")) == ["What the result looks like in some cases: a.", "In others: b."]


def test_a_softmax_without_maximum_has_one_name():
    """Where it overflows and where it underflows, in float32; and nothing else has that name."""
    for family in ("shifted", "negative"):
        case = Case("float32", 16, 24, 40, family=family)
        q, k, v = case.inputs()
        S = torch.einsum("bihd,bjhd->bhij", q, k) * case.headdim**-0.5
        P = S.exp()
        l = P.sum(dim=3)  # noqa: E741
        out = torch.einsum("bhij,bjhd->bihd", P, v) / l.transpose(1, 2)[..., None]
        assert not out.isfinite().all()
        assert diagnose(case, q, k, v, out, l.log(), None) == (NO_MAXIMUM,)
        right, lse = oracle(q, k, v)
        assert NO_MAXIMUM not in diagnose(case, q, k, v, right * 1.5, lse, None)


# ---- single functions -----------------------------------------------------------------------------------------------


def asked(function, **options):
    return functions.FUNCTIONS[function](hidden.generator("secret"), options)


@pytest.mark.parametrize("state", ("new", "growing", "mixed", "masked"))
def test_the_step_s_mistakes_have_names(state):
    for question in asked("online_softmax_step", state=state):
        O, m, l = question.expected  # noqa: E741
        assert functions.answer_problem(question, (O, m, l)) == ""
        assert functions.answer_problem(question, (O, l, m)) == "m and l are swapped"
        assert functions.answer_problem(question, (m, O, l)) == "O and m are swapped"
        assert "returned 1 value; expected O, m, l" in functions.answer_problem(question, (O,))
        O_0, m_0, l_0, S, V = question.arguments
        if state != "new":
            wrong = functions._step(O_0, m_0, l_0, S, V, keep="l")
            assert functions.answer_problem(question, wrong) == functions.MISTAKES_OF_STEP["O"]
            nothing = tuple(np.zeros_like(x) for x in question.expected)
            assert functions.answer_problem(question, nothing) == "online_softmax_step: O is wrong"


def test_merge_is_asked_where_exp_is_of_no_use():
    """In every question, the public one too, and not where it is about sides without keys."""

    def plain(O_a, L_a, O_b, L_b):
        with np.errstate(all="ignore"):
            a, b = np.exp(L_a), np.exp(L_b)
            total = np.where(a + b == 0, 1, a + b)[:, None]
            return (a[:, None] * O_a + b[:, None] * O_b) / total, np.log(a + b)

    for question in asked("merge", count=20):
        found = functions.answer_problem(question, plain(*question.arguments))
        assert found == "exp(L) alone overflows, and underflows: subtract the larger first"
        O, L = (x.copy() for x in question.expected)  # noqa: E741
        O[1] = np.nan
        assert functions.answer_problem(question, (O, L)).startswith("exp(L) alone overflows:")
        O[0] = 0
        assert functions.answer_problem(question, (O, L)) == "merge: O has NaN"
    for question in asked("merge", count=20, empty=True):
        assert functions.answer_problem(question, plain(*question.arguments)) == ""


@pytest.mark.parametrize("name, hint", [("ps1", False), ("ps2", True)])
def test_a_crash_of_tritons_interpreter_asks_for_the_mask(name, hint):
    assignment = load(name)
    context = Context(assignment, assignment.tests[0], None, "secret", "")
    with pytest.raises(kinds.Failed) as failed:
        kinds.checked(context, Answer("killed", {}, b"", 0), None)
    assert ("its mask?" in failed.value.outcome.message) == hint


@pytest.fixture
def small_speed(monkeypatch, tmp_path):
    """speed() of s12 at a size for the interpreter, in a real process, as if that were a GPU."""
    for name, value in (("TOKENS", 32), ("WIDTH", 32), ("WINDOWS", 4), ("CALLS", (2, 3))):
        monkeypatch.setattr(kinds, name, value)
    monkeypatch.setattr(kinds, "where", lambda *_: SimpleNamespace(kind="gpu", device="cpu"))
    assignment = load("ps2")
    (test,) = [t for t in assignment.tests if t.kind == "speed"]
    options = {"seqlen": 16, "headdim": 16, "dtype": "float16", "ratio": 1e-9}
    test = dataclasses.replace(test, options=options, seconds=60)
    source = get("s12").kernel_file.read_text(encoding="utf-8")
    with grading.without_gpu(), grading.worker_for(assignment) as worker:

        def outcome(*replace, **changes):
            text = source
            for old, new in replace:
                assert old in text
                text = text.replace(old, new)
            (worker.tree / assignment.submitted[1]).write_text(text, encoding="utf-8")
            changed = dataclasses.replace(test, options={**options, **changes})
            return kinds.speed(Context(assignment, changed, worker, "secret", text))

        yield outcome


def test_speed_is_a_ratio_to_the_yardstick_by_the_graders_clock(small_speed):
    outcome = small_speed()
    assert outcome.ok and 0 < outcome.values["ratio"] < 1, outcome  # an interpreter against a library
    outcome = small_speed(ratio=1e9)
    assert outcome.status == WRONG and outcome.values["ratio"] > 0 and "wanted" in outcome.message


def test_a_wrong_result_has_no_speed(small_speed):
    outcome = small_speed(("O_i = O_i / l_i", "O_i = 2 * O_i / l_i"))
    assert outcome.status == WRONG and not outcome.values and "does not count" in outcome.message


def test_calls_that_do_nothing_are_found_out(small_speed, monkeypatch):
    """Only a round's last result comes back. Who could guess which call that is still has to launch in every call."""
    monkeypatch.setattr(kinds, "CALLS", (2, 2))
    outcome = small_speed(
        ("def attention(", "COUNT = []\n\n\ndef attention("),
        (
            "    with call.on",
            "    COUNT.append(0)\n    if len(COUNT) % 2:\n        return call.finish()\n    with call.on",
        ),
    )
    assert outcome.status == "refused" and "launched" in outcome.message


def test_how_a_call_is_timed():
    """From when the process was let go on to when it waited again, the median of the rounds."""
    job = kinds.Job(1.0, calls=[{"rounds": [[0], [0] * 2, [0] * 4, [0] * 2]}])
    times = ((9.0, 10.0), (12.0, 13.0), (20.0, 21.0), (25.0, 26.0), (30.0, 31.0), (35.0, 36.0))
    pauses = tuple(Pause(*both, 1, 1) for both in times)
    assert kinds.per_call(Answer("", {}, b"", 99.0, "", pauses), job) == pytest.approx(1000)  # of 1, 1 and 2 s
    with pytest.raises(kinds.Failed) as failed:
        kinds.per_call(Answer("", {}, b"", 99.0, "", pauses[1:]), job)
    assert failed.value.outcome.status == CRASHED


def test_speed_without_a_gpu_is_not_graded():
    assignment = load("ps5")
    (test,) = [t for t in assignment.tests if t.kind == "speed"]
    if where(get("s24"), "bfloat16").kind == "gpu":
        pytest.skip("there is a GPU here")
    with pytest.raises(kinds.Failed) as failed:
        kinds.speed(Context(assignment, test, None, "secret", ""))
    assert failed.value.outcome.status == UNGRADED


# ---- with a GPU beside it -------------------------------------------------------------------------------------------


def solution_of(assignment, folder):
    for stage, path in zip(assignment.stages, assignment.submitted):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(stage.kernel_file.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def test_a_gpu_of_the_grader_changes_nothing(monkeypatch, tmp_path):
    """Stages run as on a machine without one, and the student's process does not see it; but where a test needs it."""
    monkeypatch.setattr("stages.common.where.gpu_arch", lambda: 90)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv("CUDA_EMULATE", raising=False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with grading.without_gpu():
        assert where(get("s12"), "float16").kind == "interpreter"
        assert where(get("s21"), "float16").kind == "emulator"
    assert "CUDA_EMULATE" not in os.environ and os.environ["TRITON_INTERPRET"] == "0"
    for gpu, seen in ((False, ""), (True, "3")):
        with Worker(tmp_path, memory_mb=1, gpu=gpu) as worker:
            assert worker._environment()["CUDA_VISIBLE_DEVICES"] == seen


def test_a_test_that_needs_a_gpu_begins_afresh(monkeypatch, tmp_path):
    """Its process is no copy of one that has looked for a GPU, which could not use it; and it is judged as ever."""
    monkeypatch.setattr(grading, "gpu_arch", lambda: 90)
    assignment = load("ps1")
    first = dataclasses.replace(assignment.tests[0], needs="gpu", seconds=60)
    assignment = dataclasses.replace(assignment, tests=(first,))
    right = solution_of(assignment, tmp_path / "right")
    with grading.worker_for(assignment) as worker:
        grades = grading.grade(assignment, right, "secret", worker=worker)
        assert [g.outcome.status for g in grades.graded] == [PASSED], grades.graded
        path = right / assignment.submitted[0]
        path.write_text(path.read_text(encoding="utf-8").replace("P @ V / l", "P @ V"), encoding="utf-8")
        wrong = grading.grade(assignment, right, "secret", worker=worker)
        assert [g.outcome.ok for g in wrong.graded] == [False]


def test_one_grader_at_a_time_on_the_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    inside, most = [0], [0]

    def visit(_):
        with grading.alone_on_gpu():
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            inside[0] -= 1

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(visit, range(4)))
    assert most == [1]


@pytest.mark.parametrize("programs", ([1], {"block": "many"}, {"block": None}))
def test_a_forged_note_stops_nothing(monkeypatch, tmp_path, programs):
    """No score, and something to look at; the other tests go on."""
    assignment = load("ps1")
    right = solution_of(assignment, tmp_path / "right")
    calls = []

    def forged(context, job):
        calls.append(context.test.number)
        answer = context.worker.run(
            job, backend="numpy", module=context.stage.entry_module, file=f"stages/{context.stage.name}/kernel.py"
        )
        context.answer = answer
        if context.test.number == "1.1":
            for call in answer.data["calls"]:
                for noted in call["counted"]:
                    noted["programs"] = programs
        return answer.data["calls"]

    monkeypatch.setattr(Context, "run", forged)
    grades = grading.grade(assignment, right, "secret", select=lambda t: t.number in ("1.1", "1.2"))
    assert [g.outcome.status for g in grades.graded] == [UNMEASURED, PASSED] and grades.graded[0].score is None
    assert "Traceback" in grades.graded[0].outcome.notes[0]
    assert set(calls) == {"1.1", "1.2"}


# ---- one head for all -----------------------------------------------------------------------------------------------


def answered(case, out, lse):
    """What a worker writes of one run with this result -> (call, bytes)."""
    blob = bytearray()
    runs = []
    for t in (out, lse):
        guard = torch.full((kinds.GUARD,), torch.nan, dtype=t.dtype)
        runs.append(describe(torch.cat([guard, t.flatten(), guard]), blob))
    counted = [{"returned": True, "launches": [], "report": None}]
    return {"runs": [runs], "ops": [], "counted": counted}, bytes(blob)


def test_of_a_long_result_one_hidden_head_is_judged_and_nothing_may_be_missing():
    assignment = load("ps5")
    context = Context(assignment, assignment.tests[0], None, "secret", "")
    case = Case("float16", 16, 20, 30, batch=2, nheads=4, nheads_k=2)
    q, k, v = case.inputs()
    out, lse = oracle(q, k, v)
    out, lse = out.half(), lse.float()

    def problem(head, out=out, lse=lse):
        call, blob = answered(case, out, lse)
        return kinds.check_call(context, call, {"case": case, "inputs": [(q, k, v)], "heads": [head]}, blob)[0]

    assert [problem(head) for head in range(8)] == [()] * 8  # so its K and V are the right ones
    wrong = out.clone()
    wrong[1, :, 2] *= 1.5  # head 6, counted over batch and heads
    assert [bool(problem(head, wrong)) for head in range(8)] == [head == 6 for head in range(8)]
    wrong_lse = lse.clone()
    wrong_lse[0, 3] += 1
    assert [bool(problem(head, lse=wrong_lse)) for head in range(8)] == [head == 3 for head in range(8)]
    missing = out.clone()
    missing[0, 5, 0, 3] = torch.nan
    assert all("NaN" in problem(head, missing)[0] for head in range(8))
