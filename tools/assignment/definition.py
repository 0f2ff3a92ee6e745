"""What an assignment is: one TOML file, `assignments/NAME/assignment.toml`, read and checked here.

Points, cases, limits and texts are all in that file. assignments/README.md describes every key.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from reference import Case
from reference.cases import LAYOUTS
from reference.inputs import FAMILIES, captured_shape
from stages import Stage, get
from tools.check import properties
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
# Kinds that ask what only one backend has.
BACKEND = {"launches": "triton", "emulator": "cuda", "overlap": "cuda", "compiled": "cuda"}
CASE_FIELDS = tuple(field.name for field in dataclasses.fields(Case) if field.name != "seed")
COUNTS = ("headdim", "seqlen_q", "seqlen_k", "batch", "nheads", "nheads_k")  # those that may be a range, "3..70"
RANGE = re.compile(r"(\d+)\.\.(\d+)")
USUAL = 100  # points of an assignment, without bonuses


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

    @property
    def bonus(self) -> float:
        return sum(test.points for test in self.tests if test.bonus)

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


def notes(assignment: Assignment) -> list[str]:
    """What is no mistake and may be meant otherwise."""
    if math.isclose(assignment.points, USUAL):
        return []
    return [f"the points add up to {assignment.points:g}, without bonuses; usual are {USUAL}"]


def require_text(assignment: Assignment) -> None:
    """Raises DefinitionError where the handout's text is not there; an unpacked autograder does without it."""
    path = assignment.folder / "README.md"
    if not path.is_file():
        raise DefinitionError(f"{path} is missing; accepted: the middle of the handout's text, beside the definition")


def span(value) -> list:
    """The values that a case's entry leaves open: of a list, of a range "3..70", or the one that it is."""
    if isinstance(value, list):
        return value
    if isinstance(value, str) and (found := RANGE.fullmatch(value)):
        return list(range(int(found[1]), int(found[2]) + 1))
    return [value]


def meant(word: str, words) -> str:
    """A question about the one of `words` that looks like `word`, or ""."""
    near = difflib.get_close_matches(word, list(words), 1)
    return f"; is {near[0]!r} meant?" if near else ""


class _Reader:
    def __init__(self, path: Path):
        self.path = path
        self.asked: dict[str, list[str]] = {}  # table -> the keys that mean something in it

    def fail(self, where: str, problem: str):
        raise DefinitionError(f"{self.path}: {where}: {problem}")

    def take(self, table: dict, where: str, key: str, kind, default=...):
        """table[key], checked and removed."""
        self.asked.setdefault(where, []).append(key)
        if key not in table:
            if default is ...:
                near = difflib.get_close_matches(key, table, 1)
                self.fail(where, f"{key} is missing" + (f"; there is a key {near[0]!r}" if near else ""))
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
            key, known = next(iter(table)), self.asked[where]
            hint = meant(key, known) or f"; accepted: {', '.join(known)}"
            self.fail(where, f"has a key {key!r} that means nothing here{hint}")

    def assignment(self, data: dict) -> Assignment:
        top = "top level"
        title = self.take(data, top, "title", str)
        stages = tuple(self.stage(name, "stages") for name in self.take(data, top, "stages", list))
        if list(stages) != sorted(set(stages), key=lambda s: s.number) or not stages:
            self.fail("stages", "accepted: at least one, in order, none twice")
        goals = tuple(self.take(data, top, "goals", list))
        if not goals or not all(isinstance(goal, str) for goal in goals):
            self.fail("goals", f"is {list(goals)}; accepted: texts, at least one")
        hours = self.take(data, top, "hours", list)
        if len(hours) != 2 or not all(map(_is_number, hours)) or not 0 < hours[0] <= hours[1]:
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
        file = f"stages/{stage.name}/{stage.kernel_file.name}"
        found = [str(number) for number, line in enumerate(lines, 1) if line == first.strip()]
        if not found:
            self.fail(where, f"first, {first!r}, is no line of {file}{meant(first.strip(), lines)}")
        if len(found) > 1:
            self.fail(
                where, f"first, {first!r}, is lines {', '.join(found)} of {file}; accepted: one that is there once"
            )
        begin = lines.index(first.strip())
        if last.strip() not in lines[begin:]:
            near = meant(last.strip(), lines[begin:])
            self.fail(where, f"last, {last!r}, is no line of {file} from line {begin + 1} on, where first is{near}")
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
        backend = stage.capability.backend
        if BACKEND.get(kind, backend) != backend:
            self.fail(where, f"kind is {kind!r}, which is for {BACKEND[kind]} stages; {stage.short} is {backend}")
        about = self.take(table, where, "about", str, "")
        if about and kind not in WITH_CASES:
            self.fail(where, f"about is {about!r}, but a test of kind {kind} has no cases")
        if about and about not in properties(stage):
            self.fail(where, f"about is {about!r}; accepted: {', '.join(properties(stage))}")
        seconds = self.take(table, where, "seconds", float, self.seconds)
        needs = self.take(table, where, "needs", str, "")
        if needs not in ("", "gpu"):
            self.fail(where, f"needs is {needs!r}; accepted: gpu")
        if kind == "speed" and not needs:
            self.fail(where, "needs is missing; accepted for kind speed: gpu")
        bonus = self.take(table, where, "bonus", bool, False)
        only_if = self.take(table, where, "only_if", str, "")
        listed = self.take(table, where, "cases", list, [])
        if kind in WITH_CASES and not listed:
            self.fail(where, "cases is missing" + meant("cases", table))
        if kind not in WITH_CASES and listed:
            self.fail(where, f"a test of kind {kind} has no cases")
        if kind == "overlap" and len(listed) != 1:
            self.fail(where, f"has {len(listed)} cases; accepted for kind overlap: one")
        cases = tuple(self.case(case, f"{where}, case {i}", stage) for i, case in enumerate(listed, 1))
        options = {}
        for key, accepted in KINDS[kind].items():
            default = ... if key in NEEDED else None
            value = self.take(table, where, key, str if isinstance(accepted, tuple) else accepted, default)
            if isinstance(accepted, tuple) and value not in (None, *accepted):
                self.fail(where, f"{key} is {value!r}; accepted: {', '.join(accepted)}")
            if value is not None:
                options[key] = value
        lengths = options.get("lengths", [1, 2])
        if len(lengths) != 2 or not all(isinstance(n, int) for n in lengths) or not 0 < lengths[0] < lengths[1]:
            self.fail(where, f"lengths is {lengths}; accepted: two whole numbers, the smaller first")
        if kind == "overlap" and not options:
            self.fail(where, "during and barriers are missing; accepted: one of them, or both")
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

    def case(self, table: dict, where: str, stage: Stage) -> Mapping:
        """One pattern of cases; whatever is drawn from it has to be a case that the stage takes."""
        if not isinstance(table, dict):
            self.fail(where, f"is {table!r}; accepted: a table, as {{ seqlen_q = 64 }}")
        for key, value in table.items():
            if key not in CASE_FIELDS:
                hint = meant(key, CASE_FIELDS) or f"; accepted: {', '.join(CASE_FIELDS)}"
                self.fail(where, f"a case has a key {key!r}{hint}")
            values = span(value)
            if not values:
                self.fail(
                    where, f"{key} is {value!r}, which leaves nothing to draw; accepted: the smaller number first"
                )
            for one in values:
                accepted = self.not_accepted(stage, key, one)
                if accepted:
                    self.fail(where, f"{key} is {value!r}; accepted: {accepted}")
        self.together(table, where)
        return MappingProxyType(dict(table))

    def not_accepted(self, stage: Stage, key: str, value) -> str:
        """What a case's entry may be, where this one may not; or ""."""
        if key in COUNTS:
            largest = stage.capability.max_headdim if key == "headdim" else None
            fits = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= (largest or value)
            upto = f"whole numbers from 1 to {largest}" if largest else "whole numbers from 1"
            return "" if fits else f"a value, a list of values, or '3..70'; {upto}"
        if key == "causal":
            return "" if isinstance(value, bool) else "true, false, or a list of both"
        if key == "softmax_scale":
            return "" if _is_number(value) and value > 0 else "a number above 0, or a list of such"
        known = {"dtype": stage.capability.dtypes, "family": FAMILIES, "layout": LAYOUTS}[key]
        return "" if value in known else ", ".join(known)

    def together(self, table: dict, where: str):
        """Entries that go with each other, whichever of their values are drawn."""
        left_open = {key: span(table.get(key, getattr(Case, key))) for key in CASE_FIELDS}
        for heads in left_open["nheads"]:
            for heads_k in left_open["nheads_k"]:
                if heads % heads_k:
                    self.fail(
                        where, f"nheads is {heads} and nheads_k {heads_k}; accepted: an nheads_k that divides nheads"
                    )
        if "activations" in left_open["family"]:
            seqlen, nheads, headdim = captured_shape()
            largest = max(*left_open["seqlen_q"], *left_open["seqlen_k"])
            if largest > seqlen or max(left_open["nheads"]) > nheads or {*left_open["headdim"]} != {headdim}:
                text = f"seqlen up to {seqlen}, nheads up to {nheads}, headdim {headdim}"
                self.fail(where, f"family is activations, which were captured at {text}; accepted: within that")


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
