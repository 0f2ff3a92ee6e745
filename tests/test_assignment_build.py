"""A build proves itself, and a bad one is not kept; the commands; limits; answers that are not believed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
import yaml

from reference import Case
from stages import get
from stages.common.where import emulator_lacks
from tools.assignment import __main__ as command
from tools.assignment import build as building
from tools.assignment import descendants, gradescope, limits, selfcheck
from tools.assignment.build import BuildError, build, kept_secret
from tools.assignment.definition import ROOT, load
from tools.assignment.grading import grade, worker_for
from tools.assignment.kinds import GUARD, Failed, check_ops, results
from tools.assignment.process import Job, Worker
from tools.assignment.tensors import describe, restore
from tools.regions import find_regions

needs_emulator = pytest.mark.skipif(emulator_lacks() is not None, reason=str(emulator_lacks()))

# ---- building -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    said = []
    made = build(load("ps1"), tmp_path_factory.mktemp("dist"), say=said.append)
    assert len(said) == 5 and all(line.startswith("ok: ") for line in said)
    return made


def test_products(built):
    """Each is there, the zips have what they need at their root, and the secret is nobody's but the grader's."""
    names = {path.name for path in built.iterdir()}
    assert names == {"student", "student.zip", "solution", "autograder.zip", "secret.txt", "github", "nbgrader"}
    with zipfile.ZipFile(built / "autograder.zip") as packed:
        grader = set(packed.namelist())
        assert {"setup.sh", "run_autograder", "secret.txt"} <= grader
        assert packed.getinfo("run_autograder").external_attr >> 16 & 0o111
        source = packed.read("stages/s02_online_softmax/kernel.py").decode()
    assert "YOUR CODE HERE" in source  # no solution in it
    with zipfile.ZipFile(built / "student.zip") as packed:
        student = set(packed.namelist())
    assert not [name for name in student if "secret" in name or "mutants" in name or "emulator" in name]
    assert {name for name in student if "assignment/" in name} == {  # what check.py has of the grader
        "tools/assignment/__init__.py", "tools/assignment/allowed.py", "tools/assignment/through.py",
    }  # fmt: skip
    assert {"README.md", "student.md", "check.py", "submit.py", "ps1.ipynb", "requirements.txt"} <= student
    assert oct(os.stat(built / "secret.txt").st_mode)[-3:] == "600"
    folders = {path.name for path in (built / "student" / "stages").iterdir()}
    assert folders == {"__init__.py", "common", "s01_naive", "s02_online_softmax"}


def test_the_handout_has_the_regions(built):
    for stage in load("ps1").stages:
        path = built / "student" / "stages" / stage.name / "kernel.py"
        assert {region.name for region in find_regions(path)} == {t.name for t in load("ps1").tasks_of(stage)}


def test_requirements():
    """What compiles for GPUs is the grader's alone."""
    assert "cupy" in building.requirements(load("ps5"), grader=True)
    assert "cupy" not in building.requirements(load("ps5")) + building.requirements(load("ps3"), grader=True)
    assert "triton" in building.requirements(load("ps2")) and "triton" not in building.requirements(load("ps1"))


def test_a_rebuild_keeps_the_secret(built):
    secret = kept_secret(built)
    assert build(load("ps1"), built.parent, check=False) == built and kept_secret(built) == secret
    assert not [path for path in built.parent.iterdir() if path.name.startswith(".")]


def test_a_bad_build_is_not_kept(tmp_path, monkeypatch):
    """The solution in the handout: a leak, tests that do not fail, and what was there before stays."""
    before = tmp_path / "ps1" / "secret.txt"
    before.parent.mkdir()
    before.write_text("old")
    real = building.handout

    def leaky(assignment, to):
        real(assignment, to)
        for stage, path in zip(assignment.stages, assignment.submitted):
            (to / path).write_text(stage.kernel_file.read_text(encoding="utf-8"), encoding="utf-8")

    tests = [{"number": t.number, "status": "passed", "tags": [], "output": "Passed."} for t in load("ps1").tests]
    monkeypatch.setattr(building, "handout", leaky)
    monkeypatch.setattr(selfcheck, "run_autograder", lambda *_: {"score": 100.0, "tests": tests})
    with pytest.raises(BuildError) as error:
        build(load("ps1"), tmp_path)
    assert "has a line of the solution of s01 naive" in str(error.value)
    assert "test 1.1 does not fail as not written" in str(error.value) and "the handout scores 100" in str(error.value)
    assert before.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["ps1"]


def test_a_solution_that_fails_is_found(monkeypatch):
    assignment = load("ps1")
    tests = [{"number": t.number, "status": "passed", "score": t.points, "output": ""} for t in assignment.tests]
    tests[3] |= {"status": "failed", "score": 0.0, "output": "why"}
    monkeypatch.setattr(selfcheck, "run_autograder", lambda *_: {"score": 95.0, "tests": tests})
    assert selfcheck.scores_all(assignment, ROOT) == ["test 1.4 fails on the solution: why"]


def test_a_later_stage_in_the_handout_is_found(built):
    stray = built / "student" / "stages" / "s12_triton_v2"
    stray.mkdir()
    try:
        assert any("s12_triton_v2 ships" in problem for problem in selfcheck.only_earlier(load("ps1"), built))
    finally:
        stray.rmdir()


# ---- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, says",
    (
        ((), "COMMAND"),
        (("build", "ps99"), "NAME is 'ps99'; accepted: ps1"),
        (("grade", "ps1"), "WORK"),
        (("batch", "ps1", "/nowhere"), "FOLDER is '/nowhere'"),
        (("batch", "ps1", "docs", "--jobs", "0"), "--jobs is 0; accepted: 1 or more"),
        (("show", "/nowhere"), "RESULTS is '/nowhere'"),
        (("test", "ps1", ".", "9.9"), "TEST is '9.9'; accepted: 1.1, 1.2"),
        (("local", "ps1", "/nowhere"), "WORK is '/nowhere'"),
        (("frobnicate",), "frobnicate"),
    ),
)
def test_wrong_arguments(capsys, monkeypatch, arguments, says):
    monkeypatch.setenv("ASSIGNMENT_SECRET", "x")
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2 and says in capsys.readouterr().err


def test_list(capsys):
    assert command.main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(f"ps{i}" in printed for i in range(1, 6)) and "s01, s02" in printed


def test_grade_and_show(built, tmp_path):
    """As an instructor runs them: exit status, results, page."""
    work, out, page = built / "solution", tmp_path / "results.json", tmp_path / "page.html"
    line = [sys.executable, "-m", "tools.assignment", "grade", "ps1", str(work), "--out", str(out), "--page", str(page)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "ASSIGNMENT_SECRET": "x"})
    assert done.returncode == 0 and "100 of 100 points" in done.stdout, done.stdout + done.stderr
    data = json.loads(out.read_text(encoding="utf-8"))
    assert data["score"] == 100 and data["extra_data"]["complete"] and gradescope.problems(data) == []
    assert "100</strong> of 100" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("address", ("the autograder's", ""))
def test_the_workflow_grades(built, tmp_path, address):
    """Its steps, but for the installing, run as GitHub runs them: with the autograder to fetch, and without."""
    text = (built / "github" / ".github" / "workflows" / "grade-ps1.yml").read_text(encoding="utf-8")
    steps = {step["name"]: step["run"] for step in yaml.safe_load(text)["jobs"]["grade"]["steps"] if "run" in step}
    assert list(steps) == ["Set up", "Fetch the autograder", "Grade"]
    shutil.copytree(built / "student", tmp_path / "submission")
    shutil.copytree(built / "solution", tmp_path / "submission", dirs_exist_ok=True)
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "AUTOGRADER_URL": (built / "autograder.zip").as_uri() if address else "",
        "AUTOGRADER_TOKEN": "token",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    for name in ("Fetch the autograder", "Grade"):
        line = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", steps[name]]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    if address:
        assert json.loads((tmp_path / "results" / "results.json").read_text(encoding="utf-8"))["score"] == 100
        assert "100" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    else:
        assert "cases passed" in done.stdout and not (tmp_path / "results").exists()


# ---- limits ---------------------------------------------------------------------------------------------------------


def test_a_command_within_limits():
    code = "x = bytearray(b'x' * 50_000_000); import time; time.sleep(1)"  # many looks at it
    used = limits.run([sys.executable, "-c", code])
    assert used.code == 0 and used.why == "" and 50 < used.peak_mb < 300


def test_a_command_that_takes_too_much_memory():
    code = "x = bytearray(300_000_000); import time; time.sleep(60)"
    used = limits.run([sys.executable, "-c", code], memory_mb=200)
    assert (used.code, used.why) == (None, "memory") and used.peak_mb > 200


def test_a_command_that_takes_too_long():
    assert limits.run(["sleep", "60"], minutes=0.01).why == "time"


def test_descendants_are_ended(tmp_path):
    """One that has made itself a session of its own, and whose parent is gone, too."""
    note = tmp_path / "pid"
    child = (
        "import os,time\nif os.fork(): os._exit(0)\nos.setsid()\n"
        f"open({str(note)!r},'w').write(str(os.getpid()))\ntime.sleep(60)"
    )
    code = f"""
import subprocess, sys, time, pathlib
from tools.assignment import descendants
descendants.adopt()
subprocess.run([sys.executable, "-c", {child!r}])
while not (pathlib.Path({str(note)!r}).exists() and pathlib.Path({str(note)!r}).read_text()): time.sleep(0.01)
print(descendants.end_all())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr
    assert int(note.read_text()) not in descendants.descendants(1)


# ---- what comes back is not believed ------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ("contiguous", "transposed", "sliced"))
@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32", "float64"))
def test_tensors_arrive_as_they_were(dtype, layout):
    for t in Case(dtype=dtype, layout=layout, seqlen_q=5, seqlen_k=7, headdim=8).inputs():
        blob = bytearray(b"x" * 64)
        back = restore(describe(t, blob), bytes(blob))
        assert back.stride() == t.stride() and torch.equal(back, t) and back.dtype == t.dtype


def answer(case):
    blob, pair = bytearray(), []
    for shape, dtype in (((1, 3, 2, 4), torch.float32), ((1, 2, 3), torch.float32)):
        pair.append(describe(torch.full((torch.Size(shape).numel() + 2 * GUARD,), torch.nan, dtype=dtype), blob))
    return {"runs": [pair]}, bytes(blob)


def test_an_answer_that_can_be_read():
    case = Case(seqlen_q=3, headdim=4, seqlen_k=3)
    call, blob = answer(case)
    ((out, lse, intact),) = results(call, case, blob)
    assert out.shape == (1, 3, 2, 4) and lse.shape == (1, 2, 3) and intact


@pytest.mark.parametrize(
    "change",
    (
        lambda call: call.pop("runs"),
        lambda call: call.update(runs=[[]]),
        lambda call: call["runs"][0][0].update(shape=[1]),
        lambda call: call["runs"][0][0].update(dtype="float64"),
        lambda call: call["runs"][0][0].update(dtype="load"),
        lambda call: call["runs"][0][0].update(stride=[0]),
        lambda call: call["runs"][0][0].update(at=-5),
        lambda call: call["runs"][0][0].update(at=10**9),
        lambda call: call["runs"][0][0].update(bytes=8),
        lambda call: call.update(runs="abc"),
    ),
)
def test_a_forged_answer(change):
    case = Case(seqlen_q=3, headdim=4, seqlen_k=3)
    call, blob = answer(case)
    change(call)
    with pytest.raises(Failed):
        results(call, case, blob)


@pytest.mark.parametrize("ops", (["aten.mm"], ["aten.detach", "aten._softmax"], None, "aten.mm"))
def test_operations_that_compute(ops):
    check_ops({"ops": ["aten.detach", "aten.copy_", "aten._to_copy"]})
    with pytest.raises(Failed):
        check_ops({"ops": ops})


def test_a_process_that_does_not_start(tmp_path):
    with Worker(tmp_path, memory_mb=100) as worker, pytest.raises(RuntimeError, match="does not start"):
        worker.run(Job(1), backend="numpy", module="x", file="x")


# ---- CUDA -----------------------------------------------------------------------------------------------------------


@needs_emulator
def test_plain_layout_has_conflicts_and_points_for_the_rest(tmp_path):
    """ps3 with s20's layout: right, without races, and full of conflicts."""
    assignment = load("ps3")
    (path,) = assignment.submitted
    text = get("s21").kernel_file.read_text(encoding="utf-8").replace("(chunk ^ row % 8) * 16", "chunk * 16")
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text, encoding="utf-8")
    with worker_for(assignment) as worker:
        grades = grade(assignment, tmp_path, "x", worker=worker, select=lambda t: t.number in ("2.1", "3.1"))
    races, conflicts = grades.graded
    assert races.outcome.ok and not conflicts.outcome.ok
    assert "bank conflicts, the first in line" in conflicts.outcome.message
    assert conflicts.outcome.values["conflicts"] > 1000


@needs_emulator
def test_copies_that_are_waited_for_at_once(tmp_path):
    """ps4 with s22's first wait moved to right after the request: right, and late."""
    assignment = load("ps4")
    stage, path = assignment.stages[0], assignment.submitted[0]
    text = stage.kernel_file.read_text(encoding="utf-8")
    eager = "// travels during Q Kᵀ and the softmax\n    cp_async_commit();\n"
    assert text.count(eager) == 1
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text.replace(eager, eager + "    cp_async_wait<0>();\n"), encoding="utf-8")
    with worker_for(assignment) as worker:
        grades = grade(assignment, tmp_path, "x", worker=worker, select=lambda t: t.number in ("1.1", "1.4"))
    right, late = grades.graded
    assert right.outcome.ok and not late.outcome.ok
    assert "waited for too early" in late.outcome.message and late.outcome.values["late"] > 0
