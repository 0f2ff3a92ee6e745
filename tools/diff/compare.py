"""Two kernels compared: the diff as data, and its size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from stages import get
from stages.common.record import Stage
from tools.diff.hunks import Explain, Hunk, Why, explain_by, hunks_of
from tools.diff.rows import ADDED, CHANGED, MOVED, REMOVED, SAME, Row, rows_of
from tools.diff.source import Source, source

CONTEXT = 3


@dataclass(frozen=True)
class Size:
    """Lines of code. Comments, blank lines and markers count nowhere but in `comments`: the comments of the later file
    that are new or changed, also behind code."""

    added: int
    changed: int
    removed: int
    moved: int
    comments: int
    old_lines: int
    new_lines: int

    @property
    def written(self) -> int:
        """What the later file has and the earlier one has not."""
        return self.added + self.changed


@dataclass(frozen=True)
class Diff:
    """What `compute` returns. rows: all of both files, in order; skipped: how many come after the last hunk."""

    old: Source
    new: Source
    rows: tuple[Row, ...]
    hunks: tuple[Hunk, ...]
    skipped: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know beforehand."""
        notes = []
        if self.old.language != self.new.language and (self.old.stage and self.new.stage or not self.is_comparable):
            notes.append(f"The languages differ: {self.old.language} and {self.new.language}.")
        if not self.is_comparable:
            notes.append("So the two are not compared line by line: all of the one is gone, all of the other new.")
        notes += [f"No hints of regions: {one.damaged}" for one in (self.old, self.new) if one.damaged]
        return tuple(notes)

    @property
    def is_comparable(self) -> bool:
        """Line by line: both are Python, or both CUDA."""
        return self.old.syntax == self.new.syntax

    @cached_property
    def size(self) -> Size:
        kinds = Counter(row.kind for row in self.rows if row.is_code and not (row.kind == MOVED and row.old))
        before = {line.comment for line in self.old.lines}
        comments = sum(
            bool(row.new and row.new.comment and row.new.comment not in before) for row in self.rows if row.kind != SAME
        )
        lines = self.old.code_lines, self.new.code_lines
        return Size(kinds[ADDED], kinds[CHANGED], kinds[REMOVED], kinds[MOVED], comments, *lines)


def compute(a: str | Path | Stage, b: str | Path | Stage, context: int = CONTEXT) -> Diff:
    """What changed from `a` to `b`: stages (s20, s20_mma) or kernel files. context: rows shown around each change.

    Raises SourceError for what is neither, ValueError for a negative context.
    """
    if context < 0:
        raise ValueError(f"context is {context}; accepted: 0 or more")
    old, new = source(a), source(b)
    rows = tuple(rows_of(old, new))
    between = steps_between(old.stage, new.stage)
    explain = explain_by_steps(old, between) if len(between) > 1 and old.syntax == new.syntax else explain_by(old, new)
    hunks, skipped = hunks_of(rows, new, context, explain)
    return Diff(old, new, rows, hunks, skipped)


def steps_between(old: Stage | None, new: Stage | None) -> list[Stage]:
    """The stages that lead from `old`, which is not among them, to `new`, from parent to child; [] if none do."""
    way = []
    while new is not None and new is not old:
        way.append(new)
        new = get(new.parent) if new.parent else None
    return way[::-1] if old is not None and new is old else []


def explain_by_steps(old: Source, steps: Sequence[Stage]) -> Explain:
    """Reasons from the stages between: the regions, or else the title, of the step in which a line got its form or, if
    it is gone, went."""
    diffs = [compute(stage.parent, stage, context=0) for stage in steps]
    ways = [(_reasons(diff), {row.new.number: row for row in diff.rows if row.new}) for diff in diffs]
    back = [(_reasons(diff), {row.old.number: row for row in diff.rows if row.old}) for diff in diffs]

    def came(number: int) -> tuple[int, Row] | None:
        for step in reversed(range(len(steps))):
            row = ways[step][1].get(number)
            if row is None or row.old is None or row.kind != SAME:
                return (step, row) if row else None
            number = row.old.number
        return None

    def went(number: int) -> tuple[int, Row] | None:
        for step in range(len(steps)):
            row = back[step][1].get(number)
            if row is None or row.new is None or row.kind != SAME:
                return (step, row) if row else None
            number = row.new.number
        return None

    def explain(rows: Sequence[Row], start: int, stop: int) -> tuple[Why, ...]:
        here = rows[start:stop]
        found = [came(row.new.number) for row in here if row.new] or [went(row.old.number) for row in here if row.old]
        whys: dict[int, dict[Why, None]] = {}
        for step, row in filter(None, found):
            whys.setdefault(step, {}).update(dict.fromkeys(ways[step][0].get(id(row), ())))
        return tuple(
            replace(why, stage=steps[step].name)
            for step in sorted(whys)
            for why in (_regions(whys[step]) or [Why("step", "", steps[step].title)])
        )

    return explain


def _regions(whys: Iterable[Why]) -> list[Why]:
    return [why for why in whys if why.name]


def _reasons(diff: Diff) -> dict[int, tuple[Why, ...]]:
    """By the identity of the row."""
    return {
        id(row): change.why
        for hunk in diff.hunks
        for change in hunk.changes
        for row in hunk.rows[change.start : change.stop]
    }
