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
from tools.assignment.definition import FOLDER, Assignment, DefinitionError, Task, load, names
from tools.assignment.kinds import UNGRADED, UNWRITTEN
from tools.assignment.leaks import leaks
from tools.assignment.strip import solution_lines


class GraderStopped(RuntimeError):
    """The autograder ended before the last test. The message says why."""


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
        try:
            wrong = check(assignment, built)
        except GraderStopped as stopped:
            wrong = [str(stopped)]
        say(f"{'FAILED' if wrong else 'ok'}: {what}")
        found += wrong
    return list(dict.fromkeys(found))  # a grader that stops does so on the handout and on the solution


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


def gives_away(assignment: Assignment, folder: Path = FOLDER) -> list[str]:
    """What other assignments' solutions the handout ships, and which handouts ship this one's: for who sets dates."""
    whole, parts, before, after, unread = [], [], [], [], []
    for name in names(folder):
        if name == assignment.name:
            continue
        try:
            other = load(name, folder)
        except DefinitionError as error:
            unread.append(f"not compared with {name}: {error}")
            continue
        stages, tasks = shipped_answers(assignment, other)
        if stages:
            whole.append(f"{', '.join(stages)} (the answers of {name})")
        if tasks:
            parts.append(f"{', '.join(tasks)} (of {name})")
        if stages or tasks:
            before.append(name)
        if any(shipped_answers(other, assignment)):
            after.append(name)
    said = [f"ships whole: {'; '.join(whole)}"] if whole else []
    said += [f"ships beside its own holes: {'; '.join(parts)}"] if parts else []
    said += [f"hand it out after the last deadline of {', '.join(before)}"] if before else []
    said += [f"its answers are in the handouts of {', '.join(after)}"] if after else []
    return said + unread


def shipped_answers(assignment: Assignment, other: Assignment) -> tuple[list[str], list[str]]:
    """Of `other`'s solutions what `assignment`'s handout has: stages that ship whole; tasks in a file that both use."""
    first = assignment.stages[0].number
    whole = [stage.short for stage in other.stages if stage.number < first]
    parts = []
    for stage in set(assignment.stages) & set(other.stages):
        text = stage.kernel_file.read_text(encoding="utf-8")
        taken = {number for task in assignment.tasks_of(stage) for number in lines_of(task, text)}
        parts += [f"{stage.short} {task.name}" for task in other.tasks_of(stage) if lines_of(task, text) - taken]
    return whole, sorted(parts)


def lines_of(task: Task, text: str) -> set[int]:
    """The numbers of the lines of code that are taken out for a task."""
    return {i for i, line in enumerate(solution_lines(text, task), task.region.begin + 1) if line.strip()}


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
    """Run the autograder as Gradescope does, in a folder laid out as there, without a container -> results.json.

    Raises GraderStopped where it did not come to its end.
    """
    with laid_out(archive, submission) as (root, environment):
        done = subprocess.run(
            command(root), cwd=root, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
        )
        try:
            data = results_of(root)
        except RuntimeError:
            raise GraderStopped(f"the grader stopped before it had any result: {cause(done.stderr)}") from None
        if not data["extra_data"]["complete"]:
            first = next((test["number"] for test in data["tests"] if not test.get("extra_data")), "?")
            raise GraderStopped(f"the grader stopped at test {first}: {cause(done.stderr)}")
        return data


def cause(said: str) -> str:
    """The exception, without the way to it."""
    lines = [line for line in said.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


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


def results_of(root: Path) -> dict:
    """results.json as it was left. Raises RuntimeError where the autograder itself has failed."""
    path = root / "results" / "results.json"
    data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not data.get("tests"):
        raise RuntimeError("run_autograder failed")
    return data


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)
    return {**environment, "PYTHONDONTWRITEBYTECODE": "1"}
