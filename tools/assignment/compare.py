"""Which submissions are alike: each with each, and with the course's own solution.

All start from one file, so only what is between the SOLUTION comments is compared, a task with the same task. Comments,
white space and the names that somebody chose are dropped; of what remains, every run of RUN tokens is counted. Two
texts are as alike as the share of the runs that both have, wherever they stand, without what the handout has there.
"""

from __future__ import annotations

import itertools
import keyword
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.assignment.batch import gathered, submissions
from tools.assignment.definition import Assignment, Task
from tools.assignment.strip import solution_lines
from tools.assignment.submission import SubmissionError, read
from tools.assignment.tree import stripped
from tools.check import NOT_WRITTEN
from tools.regions import RegionError, find_regions

RUN, SHORT = 5, 40  # tokens of a run; runs of a solution that can hardly be written in two ways
CPP = (
    "auto bool break case const continue do double else false float for if int return static struct template true while"
)
KEPT = {".py": set(keyword.kwlist), ".cu": set(CPP.split())}
COMMENT = {".py": r'""".*?"""|\#[^\n]*', ".cu": r"//[^\n]*|/\*.*?\*/"}
TOKEN = r"""(?P<comment>{})|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|(?P<name>[^\W\d]\w*)|\d[\w.]*|[^\w\s]"""
CANNOT = (
    "Alike is not copied: two who followed one source are alike (see how alike each is to the solution), and who wrote "
    "something short{}. Not seen: helpers outside the comments, what was written anew, who wrote first. Read both."
)

Runs = dict[str, Counter]  # of a submission: task -> how often each run is in it


@dataclass(frozen=True)
class Pair:
    """Two submissions; alike: of all their tasks together, 0 to 1; most: the same of `task`, where they are so most."""

    a: str
    b: str
    alike: float
    task: str
    most: float


def tokens(text: str, suffix: str) -> list[str]:
    """What a renamed copy in another layout shares with its original. After a dot a name stays: it is a library's."""
    found = []
    for match in re.finditer(TOKEN.format(COMMENT[suffix]), text, re.DOTALL):
        chosen = match["name"] and match[0] not in KEPT[suffix] and found[-1:] != ["."]
        if not match["comment"]:
            found.append("name" if chosen else match[0])
    return found


def runs(text: str, suffix: str) -> Counter:
    found = tokens(text, suffix)
    return Counter(tuple(found[i : i + RUN]) for i in range(len(found) - RUN + 1))


def alike(a: Counter, b: Counter) -> float:
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def regions(text: str, suffix: str) -> dict[str, str]:
    """Name -> what stands between its comments. Raises RegionError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_text(text, encoding="utf-8")
        lines = text.splitlines()
        return {region.name: "\n".join(lines[region.begin : region.end - 1]) for region in find_regions(path)}


def of_submission(assignment: Assignment, path: Path) -> tuple[Runs, list[str]]:
    """(its runs, of the tasks that are written; why others are not compared)."""
    try:
        files, found, problems = read(assignment, path).files, {}, []
    except SubmissionError as error:
        return {}, [str(error)]
    for stage, name in zip(assignment.stages, assignment.submitted):
        try:
            written = regions(files.get(name, ""), stage.kernel_file.suffix)
        except RegionError as error:
            written, problems = {}, [*problems, f"{stage.short}: {str(error).partition(': ')[2]}"]
        own = files.get(name) == stage.kernel_file.read_text(encoding="utf-8")
        absent = "it is the course's own file" if own else "no such comments"
        for task in assignment.tasks_of(stage):
            if task.name not in written:
                problems.append(f"{stage.short} {task.name}: {absent}")
            elif NOT_WRITTEN in written[task.name]:
                problems.append(f"{stage.short} {task.name}: not written")
            else:
                found[f"{stage.short} {task.name}"] = own_runs(assignment, task, written[task.name])
    return found, problems


def own_runs(assignment: Assignment, task: Task, text: str) -> Counter:
    suffix = task.region.path.suffix
    return runs(text, suffix) - runs(regions(stripped(assignment, task.stage), suffix)[task.name], suffix)


def of_solution(assignment: Assignment) -> Runs:
    texts = {task: task.stage.kernel_file.read_text(encoding="utf-8") for task in assignment.tasks}
    lines = {task: "\n".join(solution_lines(text, task)) for task, text in texts.items()}
    return {f"{task.stage.short} {task.name}": own_runs(assignment, task, text) for task, text in lines.items()}


def overall(a: Runs, b: Runs) -> float:
    """How alike two are in the tasks that both have written, a run counting for its task only."""
    both = sorted(a.keys() & b.keys())
    a, b = (Counter({(task, run): n for task in both for run, n in mine[task].items()}) for mine in (a, b))
    return alike(a, b)


def pairs(found: dict[str, Runs]) -> list[Pair]:
    made = []  # the most alike first
    for a, b in itertools.combinations(sorted(found), 2):
        most = {task: alike(found[a][task], found[b][task]) for task in sorted(found[a].keys() & found[b].keys())}
        if most:
            made.append(Pair(a, b, overall(found[a], found[b]), *max(most.items(), key=lambda item: item[1])))
    return sorted(made, key=lambda pair: -pair.alike)


def show(console: Console, assignment: Assignment, folder: Path, top: int) -> None:
    with tempfile.TemporaryDirectory() as several:
        handed_in = [(one.who, gathered(one, Path(several))) for one in submissions(folder)[0]]
        everything = {who: of_submission(assignment, path) for who, path in handed_in}
    found, own = {who: mine for who, (mine, _) in everything.items()}, of_solution(assignment)
    columns = ("one", "other", "alike", "most alike in", "one and solution", "other and solution")
    table = Table(*columns, box=box.SIMPLE, pad_edge=False)
    for pair in pairs(found)[:top]:
        solution = (f"{overall(found[who], own):.0%}" for who in (pair.a, pair.b))
        table.add_row(escape(pair.a), escape(pair.b), f"{pair.alike:.0%}", f"{pair.task} {pair.most:.0%}", *solution)
    console.print(table)
    for who, why in ((who, "; ".join(problems)) for who, (_, problems) in everything.items() if problems):
        console.print(f"[yellow]not compared: {escape(who)}: {escape(why)}[/]", soft_wrap=True)
    short = "".join(f", {task}" for task, mine in own.items() if mine.total() < SHORT)
    console.print(CANNOT.format(short))
