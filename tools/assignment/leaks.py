"""Whether a handout gives a solution away: no distinctive line of one may be in any of its files, and no phrase that a
task's definition keeps secret."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.assignment.definition import Assignment
from tools.assignment.strip import solution_lines
from tools.assignment.tree import earlier, files, stripped

SHORTEST = 12  # characters; "return O" is nobody's secret
COMMENT = re.compile(r"\s+(#|//).*$|^\s*(#|//).*$")


@dataclass(frozen=True)
class Leak:
    file: Path
    line: str
    task: str

    phrase: bool = False

    def __str__(self) -> str:
        if self.phrase:
            return f"{self.file} says {self.line!r}, which gives {self.task} away (secret_phrases)"
        return f"{self.file} has a line of the solution of {self.task}: {self.line.strip()}"


def fold(text: str) -> str:
    return re.sub(r"\s+", "", text)


def code(line: str) -> str:
    """A line without its comment, white space folded."""
    return fold(COMMENT.sub("", line))


def distinctive(assignment: Assignment) -> dict[str, tuple[str, str]]:
    """Folded line -> (the line, its task), of all that is taken out and given nowhere on purpose."""
    given = set()
    for stage in earlier(assignment):
        given |= {code(line) for line in stage.kernel_file.read_text(encoding="utf-8").splitlines()}
    for stage in assignment.stages:
        given |= {code(line) for line in stripped(assignment, stage).splitlines()}
    lines = {}
    for task in assignment.tasks:
        for line in solution_lines(task.stage.kernel_file.read_text(encoding="utf-8"), task):
            folded = code(line)
            if len(folded) >= SHORTEST and folded not in given:
                lines[folded] = (line, f"{task.stage.short} {task.name}")
    return lines


def leaks(assignment: Assignment, folder: Path) -> list[Leak]:
    """Every distinctive line that a file of `folder` has, whatever its kind: notebooks, caches and data too. And every
    secret phrase, in whatever letters."""
    lines = distinctive(assignment)
    phrases = {
        fold(phrase).casefold(): (phrase, f"{task.stage.short} {task.name}", True)
        for task in assignment.tasks
        for phrase in task.secret_phrases
    }
    found = []
    for relative in _all(folder):
        data = (folder / relative).read_bytes().decode("utf-8", errors="replace")
        # In a notebook a line is a string of JSON: its quotes are escaped.
        text = fold(data) + ("\n" + fold(data.replace('\\"', '"')) if '\\"' in data else "")
        found += [Leak(relative, *lines[line]) for line in lines if line in text]
        text = _prose(data)
        found += [Leak(relative, *phrases[phrase]) for phrase in phrases if phrase in text]
    return found


def _prose(text: str) -> str:
    """Folded, in small letters, as it is read: no comment signs at new lines, no escapes of a notebook."""
    plain = text.replace('\\"', '"').replace("\\n", "\n")
    return fold(re.sub(r"\n\s*(#|//)", "\n", plain)).casefold()


def _all(folder: Path) -> Iterable[Path]:
    yield from files(folder, ["."])
    for path in sorted(folder.rglob("*")):  # what `files` leaves out: caches
        if path.is_file() and ("__pycache__" in path.parts or path.suffix == ".pyc"):
            yield path.relative_to(folder)
