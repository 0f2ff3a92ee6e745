"""Taking solutions out: a stub in place of each task's lines, in the language that the lines are in.

| where the lines are | the stub |
| --- | --- |
| Python | `raise NotImplementedError("YOUR CODE HERE: ...")` |
| a Triton kernel | `tl.static_assert(False, "YOUR CODE HERE: ...")`: a raise would be an unsupported statement |
| CUDA | `static_assert` on a template parameter: refused when instantiated, so the file still parses |

The file still imports, and whoever runs what is missing is told what is missing, without a GPU too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from tools.assignment.definition import Task
from tools.check import NOT_WRITTEN
from tools.regions import COMMENT


class StripError(ValueError):
    """A task's lines cannot be taken out. The message names file and lines."""


def strip(text: str, tasks: Sequence[Task]) -> str:
    """The kernel file's text with every task's lines replaced by its starter. Markers stay, for `make check`."""
    lines = text.splitlines()
    in_triton = _triton_lines(text) if tasks and tasks[0].region.path.suffix == ".py" else set()
    for task in sorted(tasks, key=lambda task: task.region.begin, reverse=True):
        inside = slice(task.region.begin, task.region.end - 1)
        solution = lines[inside]
        place = f"{task.region.path}, lines {task.region.begin + 1} to {task.region.end - 1}"
        if not any(line.strip() for line in solution):
            raise StripError(f"{place}: nothing to take out")
        suffix = task.region.path.suffix
        if suffix == ".py":
            made = _python_stub(task, task.region.begin + 1 in in_triton)
        else:
            made = _cuda_stub(task, lines[: task.region.begin], place)
            if not task.starter:
                _check_balanced(solution, place)
        indent = _indent(solution)
        starter = _starter(task, made, indent)
        if not _is_marked(lines, task):
            note = f"{indent}{COMMENT[suffix]} {{}} SOLUTION"
            starter = [f"{note.format('BEGIN')} {task.name}: {task.says}", *starter, note.format("END")]
        elif task.question:
            marker = lines[task.region.begin - 1]
            lines[task.region.begin - 1] = f"{marker[: marker.index('SOLUTION')]}SOLUTION {task.name}: {task.question}"
        lines[inside] = starter
    stripped = "\n".join(lines) + "\n"
    if tasks and tasks[0].region.path.suffix == ".py":
        ast.parse(stripped)
    return stripped


def says(task: Task) -> str:
    """The stub's message."""
    return f"{NOT_WRITTEN}: {task.name}: {task.says}"


def solution_lines(text: str, task: Task) -> list[str]:
    """The lines that are taken out."""
    return text.splitlines()[task.region.begin : task.region.end - 1]


def _is_marked(lines: list[str], task: Task) -> bool:
    return "BEGIN SOLUTION" in lines[task.region.begin - 1]


def _starter(task: Task, stub: str, indent: str) -> list[str]:
    if not task.starter:
        return [indent + stub]
    lines = task.starter.strip("\n").splitlines()
    return [indent + line.replace("{stub}", stub) if line.strip() else "" for line in lines]


def _indent(lines: list[str]) -> str:
    """The least indentation of the lines that are not preprocessor directives, which stand at the margin."""
    indents = [re.match(r"\s*", line)[0] for line in lines if line.strip() and not line.startswith("#")]
    return min(indents, key=len, default="")


def _quoted(task: Task) -> str:
    return '"' + says(task).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _python_stub(task: Task, in_triton: bool) -> str:
    return f"tl.static_assert(False, {_quoted(task)})" if in_triton else f"raise NotImplementedError({_quoted(task)})"


def _triton_lines(text: str) -> set[int]:
    """The lines, from 1, that lie in a function decorated with triton.jit."""
    inside: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            targets = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
            if any(getattr(t, "attr", getattr(t, "id", "")) == "jit" for t in targets):
                inside.update(range(node.lineno, node.end_lineno + 1))
    return inside


PARAMETER = re.compile(r"template\s*<\s*(typename|class|bool|\w+)\s+(\w+)")


def _cuda_stub(task: Task, before: list[str], place: str) -> str:
    """Depends on a template parameter: of the starter's template, or of the one that the lines lie in."""
    text = task.starter if "template" in task.starter else "\n".join(before)
    templates = PARAMETER.findall(text)
    if not templates:
        raise StripError(f"{place}: no template there for a stub to depend on; give the task a starter")
    kind, name = templates[-1]
    if kind in ("typename", "class"):
        never = f"sizeof({name}) == 0"
    else:
        never = f"{name} && !{name}" if kind == "bool" else f"{name} != {name}"
    return f"static_assert({never}, {_quoted(task)});"


def _check_balanced(lines: list[str], place: str) -> None:
    code = re.sub(r'"(\\.|[^"\\])*"|//.*', "", "\n".join(lines))
    for opening, closing in ("{}", "()"):
        if code.count(opening) != code.count(closing):
            raise StripError(f"{place}: opens more {opening} than it closes, or fewer; give the task a starter")
