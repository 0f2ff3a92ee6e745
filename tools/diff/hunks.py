"""Rows in hunks, and why the lines in them changed.

The reason is the solution region of the later file in which lines lie, for its hint says what the stage is about;
outside of regions, what new comments say. Between two stages that are several steps apart it is the step's reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from tools.diff.rows import SAME, Row
from tools.diff.source import Source
from tools.regions import Region


@dataclass(frozen=True)
class Why:
    """Why lines changed. kind: "region", the solution region of the later file in which they lie; "old region", one of
    the earlier file; "comment", what new comments there say; "step", the title of the stage that changed them.

    name: the region's, or "". stage: the one that changed them, between stages several steps apart; else "".
    """

    kind: str
    name: str
    text: str
    stage: str = ""


@dataclass(frozen=True)
class Change:
    """Rows [start, stop) of a hunk that belong together, and why they are there."""

    start: int
    stop: int
    why: tuple[Why, ...]


@dataclass(frozen=True)
class Hunk:
    """Changes that lie close together, with the lines around them. skipped: how many rows before it are not shown."""

    rows: tuple[Row, ...]
    changes: tuple[Change, ...]
    skipped: int

    @property
    def old_lines(self) -> tuple[int, int] | None:
        """The first and the last line in the earlier file; None: no line of it."""
        return self._span("old")

    @property
    def new_lines(self) -> tuple[int, int] | None:
        return self._span("new")

    def _span(self, side: str) -> tuple[int, int] | None:
        numbers = [getattr(row, side).number for row in self.rows if getattr(row, side)]
        return (numbers[0], numbers[-1]) if numbers else None


# Of rows [start, stop) of all rows: the reasons.
Explain = Callable[[Sequence[Row], int, int], tuple[Why, ...]]


def hunks_of(rows: Sequence[Row], new: Source, context: int, explain: Explain) -> tuple[tuple[Hunk, ...], int]:
    """The hunks, and how many rows come after the last."""
    shown = [False] * len(rows)
    for i, row in enumerate(rows):
        if row.kind != SAME:
            for near in range(max(0, i - context), min(len(rows), i + context + 1)):
                shown[near] = True
    changes = [Change(start, stop, explain(rows, start, stop)) for start, stop in _changes(rows, new)]
    hunks, skipped, i = [], 0, 0
    for is_shown, group in groupby(shown):
        stop = i + len(list(group))
        if is_shown:
            here = [Change(c.start - i, c.stop - i, c.why) for c in changes if i <= c.start < stop]
            hunks.append(Hunk(tuple(rows[i:stop]), tuple(here), skipped))
        skipped, i = (0 if is_shown else stop - i), stop
    return tuple(hunks), skipped


def _changes(rows: Sequence[Row], new: Source) -> Iterator[tuple[int, int]]:
    """Start and stop of rows that belong together: a blank line does not part them, a region's edge does."""
    start = stop = None
    region: Region | None = None
    for i, row in enumerate(rows):
        if row.kind == SAME:
            continue
        here = new.region_of(row.new.number, row.new.number) if row.new else region
        gap = rows[stop:i] if stop is not None else ()
        parted = any(r.old and r.new for r in gap) or len(gap) > 1 or here != region
        if start is not None and parted:
            yield start, stop
            start = None
        if start is None:
            start = i
        stop, region = i + 1, here
    if start is not None:
        yield start, stop


def explain_by(old: Source, new: Source) -> Explain:
    """Reasons from the two files alone."""
    known = {line.comment for line in old.lines}

    def explain(rows: Sequence[Row], start: int, stop: int) -> tuple[Why, ...]:
        here = rows[start:stop]
        region = _region(rows, start, stop, new)
        if region:
            return (Why("region", region.name, region.hint),)
        said = comments(here, known)
        if said:
            return (Why("comment", "", said),)
        gone = [row.old.number for row in here if row.old]
        region = old.region_of(gone[0], gone[-1]) if gone else None
        if region is None:
            return ()
        is_still_there = any(region.name == other.name for other in new.regions)
        return (Why("region" if is_still_there else "old region", region.name, region.hint),)

    return explain


def _region(rows: Sequence[Row], start: int, stop: int, new: Source) -> Region | None:
    there = [row.new.number for row in rows[start:stop] if row.new]
    if there:
        return new.region_of(there[0], there[-1])
    # Lines are gone: from between which of the later file's?
    before = next((row.new.number for row in reversed(rows[:start]) if row.new), 0)
    after = next((row.new.number for row in rows[stop:] if row.new), before + 1)
    return next((r for r in new.regions if r.begin < before and after < r.end), None)


_SHAPE = re.compile(r"(\[[^\]]*\]\s*,?\s*)+")


def comments(rows: Sequence[Row], known: set[str]) -> str:
    """What the new comments among the rows say: those on lines of their own or, without such, those behind code. Bare
    shapes, such as [Bc][d], are no reason; nor is a comment that the earlier file has as well."""
    new = [row.new for row in rows if row.new and row.new.comment and row.new.comment not in known]
    own = [line.comment for line in new if line.is_comment]
    if own:
        return " ".join(own)
    return "; ".join(line.comment for line in new if not _SHAPE.fullmatch(line.comment))
