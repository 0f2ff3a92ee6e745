"""What an assignment is: one TOML file, `assignments/NAME/assignment.toml`, read and checked here.

Points, cases, limits and texts are all in that file. assignments/README.md describes every key.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from reference import Case
from stages import Stage, get
from tools.regions import Region, RegionError, find_regions

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "assignments"
# What a test of each kind takes besides what all take: key -> its type, or the values that it may have.
CALL = {"headdim": int, "dtype": ("float16", "bfloat16"), "causal": bool}
KINDS = {
    "attention": {"through": str},
    "function": {
        "function": ("online_softmax_step", "merge"), "state": ("new", "growing", "mixed", "masked"), "empty": bool,
        "count": int,
    },
    "memory": {"lengths": list, "bytes_per_row": float, "through": str, "headdim": int},
    "launches": {"programs": ("head", "q_tile")},
    "emulator": {"check": ("conflicts", "races")},
    "overlap": {"during": ("some", "all"), "barriers": float},
    "compiled": {"per_product": float, "arch": str, **CALL},
    "speed": {"ratio": float, "seqlen": int, **CALL},
}  # fmt: skip
WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a table"}
NEEDED = {"function", "lengths", "bytes_per_row", "programs", "check", "ratio"}  # of those, where they apply
WITH_CASES = {"attention", "launches", "emulator", "overlap"}
CASE_FIELDS = {field.name for field in dataclasses.fields(Case)} - {"seed"}


class DefinitionError(ValueError):
    """An assignment's definition cannot be used. The message names the file, the key and what is accepted."""


@dataclass(frozen=True)
class Task:
    """Lines of a stage's kernel file that a student writes.

    name: of the region that the file marks, or a new name for the lines between `first` and `last`.
    starter: what the handout has in their place, with `{stub}` where the stub goes; "" for the stub alone.
    question: what the handout says in place of the hint, which it then gives only to who asks for it.
    secret_phrases: words that no file of the handout may have, besides the lines themselves.
    """

    stage: Stage
    name: str
    hint: str
    starter: str
    region: Region
    question: str = ""
    secret_phrases: tuple[str, ...] = ()

    @property
    def says(self) -> str:
        """What stands at the hole."""
        return self.question or self.hint


@dataclass(frozen=True)
class Test:
    """One graded property. about: a property of tools.check that all its cases have, or ""; needs: "" or "gpu".

    only_if: the number of an earlier test; when that one finds a fake (S held whole), this one scores nothing either.
    """

    number: str
    title: str
    stage: Stage
    points: float
    kind: str
    about: str
    seconds: float
    needs: str
    bonus: bool
    only_if: str
    cases: tuple[Mapping, ...]
    options: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class Assignment:
    """name, title; stages that are handed out with holes; tasks, the holes; tests; goals; hours, from and to.

    accept: dotted names that the syntax check lets pass besides its own list.
    ideas: a stage's short name -> what the handout says in place of the stage's idea, which would give it away;
    omit: sentences of the earlier stages' cards that the handout leaves out, for the same reason.
    """

    name: str
    title: str
    folder: Path
    stages: tuple[Stage, ...]
    tasks: tuple[Task, ...]
    tests: tuple[Test, ...]
    goals: tuple[str, ...]
    hours: tuple[float, float]
    minutes: float
    memory_mb: int
    accept: tuple[str, ...]
    leaderboard: tuple[Mapping, ...]
    ideas: Mapping[str, str] = field(default_factory=dict)
    omit: tuple[str, ...] = ()

    @property
    def points(self) -> float:
        return sum(test.points for test in self.tests if not test.bonus)

    @property
    def submitted(self) -> tuple[str, ...]:
        """The files that a student hands in, as paths from the repository's root."""
        return tuple(f"stages/{stage.name}/{stage.kernel_file.name}" for stage in self.stages)

    def tasks_of(self, stage: Stage) -> tuple[Task, ...]:
        return tuple(task for task in self.tasks if task.stage is stage)


def names(folder: Path = FOLDER) -> list[str]:
    """The assignments that there are."""
    return sorted(path.parent.name for path in folder.glob("*/assignment.toml"))


def load(name: str, folder: Path = FOLDER) -> Assignment:
    """Read and check assignments/NAME/assignment.toml. Raises DefinitionError."""
    path = folder / name / "assignment.toml"
    if not path.is_file():
        raise DefinitionError(f"NAME is {name!r}; accepted: {', '.join(names(folder)) or 'none, there are none yet'}")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DefinitionError(f"{path}: not TOML: {error}") from None
    return _Reader(path).assignment(data)


class _Reader:
    def __init__(self, path: Path):
        self.path = path

    def fail(self, where: str, problem: str):
        raise DefinitionError(f"{self.path}: {where}: {problem}")

    def take(self, table: dict, where: str, key: str, kind, default=...):
        """table[key], checked and removed."""
        if key not in table:
            if default is ...:
                self.fail(where, f"{key} is missing")
            return default
        value = table.pop(key)
        wanted = (int, float) if kind is float else kind
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
            self.fail(where, f"{key} is {value!r}; accepted: {WORDS[kind]}")
        return value

    def texts(self, table: dict, where: str, key: str) -> tuple[str, ...]:
        """A list of texts, none of them empty; none where the key is missing."""
        values = self.take(table, where, key, list, [])
        for value in values:
            if not isinstance(value, str) or not value.strip():
                self.fail(where, f"{key} has {value!r}; accepted: texts")
        return tuple(values)

    def nothing_left(self, table: dict, where: str):
        if table:
            self.fail(where, f"has a key {next(iter(table))!r} that means nothing here")

    def assignment(self, data: dict) -> Assignment:
        top = "top level"
        title = self.take(data, top, "title", str)
        stages = tuple(self.stage(name, "stages") for name in self.take(data, top, "stages", list))
        if list(stages) != sorted(set(stages), key=lambda s: s.number) or not stages:
            self.fail("stages", "accepted: at least one, in order, none twice")
        goals = tuple(self.take(data, top, "goals", list))
        hours = self.take(data, top, "hours", list)
        if len(hours) != 2 or not 0 < hours[0] <= hours[1]:
            self.fail("hours", f"is {hours}; accepted: two numbers, from and to")
        minutes = self.take(data, top, "minutes", float, 10)
        self.seconds = self.take(data, top, "seconds", float, 20)
        memory_mb = self.take(data, top, "memory_mb", int, 768)
        accept = tuple(self.take(data, top, "accept", list, []))
        tasks = tuple(self.task(t, i, stages) for i, t in enumerate(self.take(data, top, "task", list), 1))
        tests = tuple(self.test(t, i, stages) for i, t in enumerate(self.take(data, top, "test", list), 1))
        columns = self.take(data, top, "leaderboard", list, [])
        ideas = self.take(data, top, "ideas", dict, {})
        for name in ideas:
            if name not in [stage.short for stage in stages]:
                self.fail("ideas", f"has {name!r}; accepted: {', '.join(stage.short for stage in stages)}")
            self.take(dict(ideas), "ideas", name, str)
        omit = self.texts(data, top, "omit")
        self.nothing_left(data, top)
        numbers = [test.number for test in tests]
        leaderboard = tuple(self.column(c, f"leaderboard {i}", numbers) for i, c in enumerate(columns, 1))
        for number in numbers:
            if numbers.count(number) > 1:
                self.fail(f"test {number}", "a second test of that number")
        for test in tests:
            if test.only_if and test.only_if not in numbers[: numbers.index(test.number)]:
                self.fail(
                    f"test {test.number}", f"only_if is {test.only_if!r}; accepted: the number of a test before it"
                )
        for stage in stages:
            if not any(task.stage is stage for task in tasks):
                self.fail("task", f"{stage.name} has none; accepted: at least one a stage")
            if not any(test.stage is stage for test in tests):
                self.fail("test", f"{stage.name} has none; accepted: at least one a stage")
        return Assignment(
            self.path.parent.name, title, self.path.parent, stages, tasks, tests, goals, tuple(hours), minutes,
            memory_mb, accept, leaderboard, MappingProxyType(ideas), omit,
        )  # fmt: skip

    def stage(self, name, where: str) -> Stage:
        try:
            return get(name)
        except KeyError as error:
            self.fail(where, str(error))

    def one_of(self, stages, name, where: str) -> Stage:
        stage = self.stage(name, where)
        if stage not in stages:
            self.fail(where, f"stage is {name!r}; accepted: {', '.join(s.short for s in stages)}")
        return stage

    def task(self, table: dict, index: int, stages) -> Task:
        where = f"task {table.get('name', index)}"
        stage = self.one_of(stages, self.take(table, where, "stage", str), where)
        name = self.take(table, where, "name", str)
        first, last = (self.take(table, where, key, str, "") for key in ("first", "last"))
        hint = self.take(table, where, "hint", str, "")
        starter = self.take(table, where, "starter", str, "")
        question = self.take(table, where, "question", str, "")
        phrases = self.texts(table, where, "secret_phrases")
        self.nothing_left(table, where)
        if starter and starter.count("{stub}") != 1:
            self.fail(where, "starter has no {stub}, or several; accepted: one")
        region = self.marked(stage, name, where, required=not first)
        region = region or self.between(stage, name, hint, first, last, where)  # a handout marks what was between
        return Task(stage, name, hint or region.hint, starter, region, question, phrases)

    def marked(self, stage: Stage, name: str, where: str, required: bool) -> Region | None:
        try:
            regions = find_regions(stage.kernel_file)
        except RegionError as error:
            self.fail(where, str(error))
        for region in regions:
            if region.name == name:
                return region
        if not required:
            return None
        known = ", ".join(region.name for region in regions) or "none"
        self.fail(where, f"{stage.name} marks no region {name!r}; accepted: {known}, or first and last")

    def between(self, stage: Stage, name: str, hint: str, first: str, last: str, where: str) -> Region:
        """The lines from the one that reads `first` to the next that reads `last`, both included."""
        if not hint or not last:
            self.fail(where, "first goes with last and hint")
        lines = [line.strip() for line in stage.kernel_file.read_text(encoding="utf-8").splitlines()]
        if lines.count(first.strip()) != 1:
            self.fail(
                where, f"first, {first!r}, is {lines.count(first.strip())} lines of {stage.kernel_file.name}, not 1"
            )
        begin = lines.index(first.strip())
        if last.strip() not in lines[begin:]:
            self.fail(where, f"last, {last!r}, is no line of {stage.kernel_file.name} after first")
        # A region's begin and end are the lines around what is taken out, counted from 1.
        return Region(stage.kernel_file, name, hint, begin, lines.index(last.strip(), begin) + 2)

    def test(self, table: dict, index: int, stages) -> Test:
        where = f"test {table.get('number', index)}"
        number = self.take(table, where, "number", str)
        title = self.take(table, where, "title", str)
        stage = self.one_of(stages, self.take(table, where, "stage", str), where)
        points = self.take(table, where, "points", float)
        if points <= 0:
            self.fail(where, f"points is {points}; accepted: above 0")
        kind = self.take(table, where, "kind", str, "attention")
        if kind not in KINDS:
            self.fail(where, f"kind is {kind!r}; accepted: {', '.join(KINDS)}")
        about = self.take(table, where, "about", str, "")
        seconds = self.take(table, where, "seconds", float, self.seconds)
        needs = self.take(table, where, "needs", str, "")
        if needs not in ("", "gpu"):
            self.fail(where, f"needs is {needs!r}; accepted: gpu")
        bonus = self.take(table, where, "bonus", bool, False)
        only_if = self.take(table, where, "only_if", str, "")
        cases = tuple(self.case(c, where) for c in self.take(table, where, "cases", list, []))
        if (kind in WITH_CASES) != bool(cases):
            self.fail(where, "cases is missing" if kind in WITH_CASES else f"a test of kind {kind} has no cases")
        options = {}
        for key, accepted in KINDS[kind].items():
            default = ... if key in NEEDED else None
            value = self.take(table, where, key, str if isinstance(accepted, tuple) else accepted, default)
            if isinstance(accepted, tuple) and value not in (None, *accepted):
                self.fail(where, f"{key} is {value!r}; accepted: {', '.join(accepted)}")
            if value is not None:
                options[key] = value
        self.nothing_left(table, where)
        return Test(
            number,
            title,
            stage,
            points,
            kind,
            about,
            seconds,
            needs,
            bonus,
            only_if,
            cases,
            MappingProxyType(options),
        )

    def column(self, table: dict, where: str, numbers: list[str]) -> Mapping:
        column = {key: self.take(table, where, key, str) for key in ("name", "test", "value", "order")}
        self.nothing_left(table, where)
        for key, accepted in (("test", numbers), ("order", ("asc", "desc"))):
            if column[key] not in accepted:
                self.fail(where, f"{key} is {column[key]!r}; accepted: {', '.join(accepted)}")
        return MappingProxyType(column)

    def case(self, table: dict, where: str) -> Mapping:
        for key, value in table.items():
            if key not in CASE_FIELDS:
                self.fail(where, f"a case has a key {key!r}; accepted: {', '.join(sorted(CASE_FIELDS))}")
            if isinstance(value, str) and ".." in value and not re.fullmatch(r"\d+\.\.\d+", value):
                self.fail(where, f"a case's {key} is {value!r}; accepted: a value, a list of values, or '3..70'")
        return MappingProxyType(dict(table))
