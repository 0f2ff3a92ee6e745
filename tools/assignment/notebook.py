"""The notebook of an assignment: text, a cell for every task, a cell for every test. For students, and for nbgrader.

A task's cell is written into the stage's file (templates/workbench.py), so notebook and files are one submission; a
test's cell asks the same grader as everywhere else, in its own process.
"""

from __future__ import annotations

import json
import textwrap

from tools.assignment.definition import Assignment, Task, Test
from tools.assignment.strip import solution_lines
from tools.assignment.tree import stripped

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
HIDDEN = """### BEGIN HIDDEN TESTS
import os
import subprocess
import sys

done = subprocess.run(
    [sys.executable, "-m", "tools.assignment", "test", "{name}", os.getcwd(), "{number}"],
    cwd=os.environ["ASSIGNMENT_GRADER"],
    capture_output=True,
    text=True,
)
assert done.returncode == 0, done.stdout + done.stderr
### END HIDDEN TESTS"""


def notebook(assignment: Assignment, text: str, *, source: bool) -> str:
    """The notebook as JSON. text: the handout's; source: nbgrader's source, with solutions, hidden tests and points."""
    cells = [_markdown("text", text), _code("setup", "import workbench")]
    for stage in assignment.stages:
        cells.append(_markdown(f"stage-{stage.short}", f"## {stage.short}: {stage.title}"))
        for task in assignment.tasks_of(stage):
            cells += _task(task, source)
        cells.append(_code(f"check-{stage.short}", f"!python check.py {stage.short}", skip=source))
        if stage.capability.backend == "cuda":
            command = f"!python -m tools.emulator {stage.short} --summary"
            cells.append(_code(f"emulate-{stage.short}", command, skip=source))
        if source:
            cells += [_test(assignment, test) for test in assignment.tests if test.stage is stage and gradable(test)]
    data = {
        "cells": [cell for cell in cells if cell],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def gradable(test: Test) -> bool:
    """Whether nbgrader can hold it: it knows no test that is not graded, and no bonus."""
    return not test.needs and not test.bonus


def stubs(assignment: Assignment) -> dict[str, str]:
    """Task -> what the handout has in its place, as templates/workbench.py puts it back."""
    found = {}
    for stage in assignment.stages:
        lines = stripped(assignment, stage).splitlines(keepends=True)
        for task in assignment.tasks_of(stage):
            begin = next(i for i, line in enumerate(lines) if f"BEGIN SOLUTION {task.name}:" in line)
            end = next(i for i, line in enumerate(lines) if i > begin and "END SOLUTION" in line)
            found[f"{stage.short} {task.name}"] = "".join(lines[begin + 1 : end])
    return found


def _task(task: Task, source: bool) -> list[dict]:
    body = f"{BEGIN}\n{_solution(task)}\n{END}" if source else "# YOUR CODE HERE"
    name = f"{task.stage.short}-{task.name}"
    hint = f"**{task.name}**: {task.says}{'' if task.says.endswith('?') else '.'}"
    meta = {"grade": False, "solution": True, "locked": False}
    cell = _code(f"task-{name}", f"%%task {task.stage.short} {task.name}\n{body}", nbgrader=meta if source else None)
    return [_markdown(f"hint-{name}", hint), cell]


def _solution(task: Task) -> str:
    lines = solution_lines(task.region.path.read_text(encoding="utf-8"), task)
    pragmas = [i for i, line in enumerate(lines) if line.startswith("#")]
    dedented = textwrap.dedent("\n".join("" if i in pragmas else line for i, line in enumerate(lines))).split("\n")
    for i in pragmas:  # at the margin, as they stand in the file
        dedented[i] = lines[i]
    return "\n".join(dedented)


def _test(assignment: Assignment, test: Test) -> dict:
    text = f'# {test.number} {test.title}\nworkbench.written("{test.stage.short}")\n'
    text += HIDDEN.format(name=assignment.name, number=test.number)
    meta = {"grade": True, "solution": False, "locked": True, "points": test.points}
    return _code(f"test-{test.number.replace('.', '-')}", text, nbgrader=meta)


def _markdown(name: str, text: str) -> dict:
    return {"cell_type": "markdown", "id": name[:64], "metadata": {}, "source": text.strip()}


def _code(name: str, text: str, *, nbgrader: dict | None = None, skip: bool = False) -> dict:
    if skip:
        return {}
    metadata = {}
    if nbgrader is not None:
        metadata = {"nbgrader": {"schema_version": 3, "grade_id": name, "task": False, "cell_type": "code", **nbgrader}}
    return {
        "cell_type": "code", "id": name[:64], "metadata": metadata, "execution_count": None, "outputs": [],
        "source": text,
    }  # fmt: skip
