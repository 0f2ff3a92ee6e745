"""The proof that a build is good, made at every build: it imports, it fails right, the solution scores all, no leak."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from stages import get
from tools.assignment import gradescope
from tools.assignment.definition import Assignment
from tools.assignment.kinds import UNGRADED, UNWRITTEN
from tools.assignment.leaks import leaks


def problems(assignment: Assignment, built: Path, say: Callable[[str], None] = lambda line: None) -> list[str]:
    """What is wrong with the products in `built`; empty when nothing is. It is the zips that are tried."""
    found = []
    for what, check in (
        ("only earlier stages ship", only_earlier),
        ("no line of a solution is in the handout", no_leak),
        ("the handout imports", imports),
        ("every test fails on the handout, for the reason that it is not written yet", fails_right),
        ("the solution scores everything", scores_all),
    ):
        wrong = check(assignment, built)
        say(f"{'FAILED' if wrong else 'ok'}: {what}")
        found += wrong
    return found


def only_earlier(assignment: Assignment, built: Path) -> list[str]:
    """Kernels in the handout: those before the assignment's own, and its own with holes."""
    found = []
    own = {stage.name for stage in assignment.stages}
    for path in sorted((built / "student" / "stages").glob("s[0-9][0-9]_*")):
        if path.name not in own and get(path.name).number >= assignment.stages[0].number:
            found.append(f"{path.name} ships in the handout; accepted: stages before {assignment.stages[0].short}")
    with zipfile.ZipFile(built / "autograder.zip") as packed:
        names = set(packed.namelist())
        for wanted in ("setup.sh", "run_autograder"):
            if wanted not in names:
                found.append(f"autograder.zip has no {wanted} at its root")
    return found


def no_leak(assignment: Assignment, built: Path) -> list[str]:
    return [str(leak) for leak in leaks(assignment, built / "student")]


def imports(assignment: Assignment, built: Path) -> list[str]:
    """In a process that sees nothing but the unpacked handout."""
    with tempfile.TemporaryDirectory(prefix="handout-") as folder:
        with zipfile.ZipFile(built / "student.zip") as packed:
            packed.extractall(folder)
        found = []
        for stage in assignment.stages:
            code = f"from stages import get; get({stage.short!r}).attention"
            done = subprocess.run(
                [sys.executable, "-B", "-c", code], cwd=folder, capture_output=True, text=True, env=_environment()
            )
            if done.returncode:
                found.append(f"the handout's {stage.name} does not import: {done.stderr.strip().splitlines()[-1]}")
    return found


def fails_right(assignment: Assignment, built: Path) -> list[str]:
    data = run_autograder(built / "autograder.zip", built / "student.zip")
    found = list(gradescope.problems(data))
    for test, result in zip(assignment.tests, data["tests"]):
        tags = result.get("tags", [])
        if UNGRADED.replace(" ", "-") in tags:
            continue
        names = [task.name for task in assignment.tasks_of(test.stage)]
        if UNWRITTEN.replace(" ", "-") not in tags or not any(name in result["output"] for name in names):
            found.append(f"test {test.number} does not fail as not written on the handout: {result['output']}")
    if data["score"]:
        found.append(f"the handout scores {data['score']:g}; accepted: 0")
    return found


def scores_all(assignment: Assignment, built: Path) -> list[str]:
    data = run_autograder(built / "autograder.zip", built / "solution")
    found = list(gradescope.problems(data))
    for test, result in zip(assignment.tests, data["tests"]):
        if result.get("status") == "failed" and not test.bonus:  # a bonus may ask for more than the solution gives
            found.append(f"test {result['number']} fails on the solution: {result['output']}")
    return found


def run_autograder(archive: Path, submission: Path) -> dict:
    """Run the autograder as Gradescope does, in a folder laid out as there, without a container -> results.json."""
    with laid_out(archive, submission) as (root, environment):
        done = subprocess.run(
            command(root), cwd=root, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
        )
        return results_of(root, done.stderr)


@contextlib.contextmanager
def laid_out(archive: Path, submission: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder as Gradescope's /autograder, and the environment in which run_autograder finds it."""
    with tempfile.TemporaryDirectory(prefix="autograder-") as folder:
        root = Path(folder)
        (root / "results").mkdir()
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(root / "source")
        if submission.is_dir():
            shutil.copytree(submission, root / "submission", symlinks=True)
        else:
            (root / "submission").mkdir()
            with zipfile.ZipFile(submission) as packed:
                packed.extractall(root / "submission")
        shutil.copyfile(root / "source" / "run_autograder", root / "run_autograder")
        yield root, {**_environment(), "AUTOGRADER": str(root), "PYTHON": sys.executable}


def command(root: Path) -> list[str]:
    return ["bash", str(root / "run_autograder")]


def results_of(root: Path, said: str = "") -> dict:
    """results.json as it was left. Raises RuntimeError where the autograder itself has failed."""
    path = root / "results" / "results.json"
    data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not data.get("tests"):
        raise RuntimeError(f"run_autograder failed: {said[-2000:]}")
    return data


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)
    return {**environment, "PYTHONDONTWRITEBYTECODE": "1"}
