"""The rows of a diff: which line of one file stands beside which of the other.

White space is ignored, for code that moves into a loop is still the same code.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tools.diff.source import Line, Source

SAME, CHANGED, ADDED, REMOVED, MOVED = "same", "changed", "added", "removed", "moved"
ALIKE = 0.6  # two lines with so much in common are one line, changed
_TRIVIAL = {
    "",
    "{",
    "}",
    "};",
    ")",
    "):",
    "#pragmaunroll",
    "else{",
    "}else{",
    "else:",
}  # says nothing about where it is
_MOVED_LENGTH = 16  # shorter code is the same in two places by chance


@dataclass(frozen=True)
class Row:
    """One row of the diff; the line of a file that has none here is None.

    A moved line has two rows, one where it was and one where it is; partner: its number in the other file.
    """

    kind: str
    old: Line | None
    new: Line | None
    partner: int | None = None

    @property
    def is_code(self) -> bool:
        """Whether code differs, not only comments or white space."""
        if self.kind == SAME:
            return False
        return (self.old.code if self.old else "") != (self.new.code if self.new else "")


def rows_of(old: Source, new: Source) -> Iterator[Row]:
    """All lines of both files, in order."""
    if old.syntax != new.syntax:  # what two languages have in common is chance
        yield from (Row(REMOVED, line, None) for line in old.lines)
        yield from (Row(ADDED, None, line) for line in new.lines)
        return
    blocks = list(_blocks(old.lines, new.lines))
    moved_old, moved_new = _moved([(a, b) for same, a, b in blocks if not same])
    for same, a, b in blocks:
        if same:
            yield from (Row(SAME, *pair) for pair in zip(a, b, strict=True))
        elif _is_no_change(a, old, new, b) or _is_no_change(b, new, old, a):
            yield from (Row(SAME, line, None) for line in a)
            yield from (Row(SAME, None, line) for line in b)
        else:
            yield from _aligned(a, b, moved_old, moved_new)


def _blocks(a: Sequence[Line], b: Sequence[Line]) -> Iterator[tuple[bool, Sequence[Line], Sequence[Line]]]:
    """(whether they are the same, lines of a, lines of b) from top to bottom."""
    keys_a, keys_b = [line.key for line in a], [line.key for line in b]
    matcher = difflib.SequenceMatcher(lambda key: key in _TRIVIAL, keys_a, keys_b, autojunk=False)
    opcodes = [list(opcode) for opcode in matcher.get_opcodes()]
    for before, here, after in zip(opcodes, opcodes[1:], opcodes[2:]):
        if before[0] == "equal" == after[0]:
            _slide(before, here, after, a, b)
    for tag, i, i_end, j, j_end in opcodes:
        yield tag == "equal", a[i:i_end], b[j:j_end]


def _slide(before: list, here: list, after: list, a: Sequence[Line], b: Sequence[Line]) -> None:
    """An insertion or deletion next to lines that are like its own can be seen in several places: take the one whose
    first line is indented least, and of these the one that begins or ends at a blank line."""
    tag, i, i_end, j, j_end = here
    if tag not in ("insert", "delete"):
        return
    lines, start, stop = (b, j, j_end) if tag == "insert" else (a, i, i_end)
    up = down = 0
    while up < before[2] - before[1] - 1 and lines[start - up - 1].key == lines[stop - up - 1].key:
        up += 1
    while down < after[2] - after[1] - 1 and lines[start + down].key == lines[stop + down].key:
        down += 1

    def cost(shift: int) -> tuple:
        first, last = lines[start + shift], lines[stop + shift - 1]
        blank = not lines[start + shift - 1].key or not last.key
        return _indent(first) if first.key else 99, first.key in _TRIVIAL, not blank, abs(shift)

    shift = min(range(-up, down + 1), key=cost)
    for block, ends in ((before, (2, 4)), (here, (1, 2, 3, 4)), (after, (1, 3))):
        for end in ends:
            block[end] += shift


def _indent(line: Line) -> int:
    return len(line.text) - len(line.text.lstrip())


def _is_no_change(lines: Sequence[Line], here: Source, there: Source, others: Sequence[Line]) -> bool:
    """Blank lines; or a comment in the place of the other file's marker, whose hint says the same."""
    if others:
        return False
    if not any(line.key for line in lines):
        return True
    if not all(line.is_comment for line in lines) or len(lines) > 2:
        return False
    following = next((line for line in here.lines if line.number > lines[-1].number), None)
    marked = {min((x.number for x in there.lines if x.number > m), default=0) for m in there.markers}
    return following is not None and any(
        line.number in marked and line.key == following.key for line in there.lines if line.key
    )


def _moved(blocks: Sequence[tuple[Sequence[Line], Sequence[Line]]]) -> tuple[dict[int, int], dict[int, int]]:
    """{old number: new number} of the lines that only changed their place, and the same the other way round.

    A line is moved if its code is long enough to be no chance, and once gone and once new in the whole file; short
    lines go with a moved neighbour that they keep."""
    gone = [line for lines, _ in blocks for line in lines if line.code]
    come = [line for _, lines in blocks for line in lines if line.code]
    times_gone, times_come = Counter(line.code for line in gone), Counter(line.code for line in come)
    place = {line.code: i for i, line in enumerate(come)}
    found: dict[int, int] = {}  # index in gone -> index in come
    for i, line in enumerate(gone):
        if len(line.code) >= _MOVED_LENGTH and times_gone[line.code] == 1 == times_come[line.code]:
            found[i] = place[line.code]
    same_block = {line.number: n for n, (lines, _) in enumerate(blocks) for line in lines}
    same_block_new = {line.number: n for n, (_, lines) in enumerate(blocks) for line in lines}
    found = {i: j for i, j in found.items() if same_block[gone[i].number] != same_block_new[come[j].number]}
    for step in (1, -1):
        for i, j in sorted(found.items(), reverse=step < 0):
            while _are_neighbours(gone, i, i + step) and _are_neighbours(come, j, j + step):
                i, j = i + step, j + step
                if gone[i].code != come[j].code or i in found or j in found.values():
                    break
                found[i] = j
    pairs = {gone[i].number: come[j].number for i, j in found.items()}
    return pairs, {new: old for old, new in pairs.items()}


def _are_neighbours(lines: Sequence[Line], i: int, j: int) -> bool:
    return 0 <= j < len(lines) and abs(lines[i].number - lines[j].number) == 1


def _aligned(
    a: Sequence[Line], b: Sequence[Line], moved_old: dict[int, int], moved_new: dict[int, int]
) -> Iterator[Row]:
    """A block's rows: lines that are alike beside each other, in the order that finds most of them."""
    alike = [[0.0 if x.number in moved_old or y.number in moved_new else _likeness(x, y) for y in b] for x in a]
    best = [[0.0] * (len(b) + 1) for _ in range(len(a) + 1)]  # of what follows i and j
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            paired = best[i + 1][j + 1] + alike[i][j] if alike[i][j] else 0.0
            best[i][j] = max(best[i + 1][j], best[i][j + 1], paired)
    i = j = 0
    while i < len(a) or j < len(b):
        if i < len(a) and j < len(b) and alike[i][j] and best[i][j] == best[i + 1][j + 1] + alike[i][j]:
            yield Row(SAME if a[i].key == b[j].key else CHANGED, a[i], b[j])
            i, j = i + 1, j + 1
        elif i < len(a) and best[i][j] == best[i + 1][j]:
            yield _alone(a[i], None, moved_old.get(a[i].number))
            i += 1
        else:
            yield _alone(None, b[j], moved_new.get(b[j].number))
            j += 1


def _alone(old: Line | None, new: Line | None, partner: int | None) -> Row:
    if not (old or new).key:
        return Row(SAME, old, new)
    if partner is not None:
        return Row(MOVED, old, new, partner)
    return Row(REMOVED if old else ADDED, old, new)


def _likeness(x: Line, y: Line) -> float:
    """0 if the two are not one line changed, else how alike they are, up to 1."""
    if x.key == y.key:
        return 0.2 if x.key in _TRIVIAL else 1.0
    if not x.key or not y.key or bool(x.code) != bool(y.code):
        return 0.0
    if x.code:
        if x.code in _TRIVIAL or y.code in _TRIVIAL:
            return 0.0
        if x.code == y.code:
            return 0.99
    common, everything = _weight(x.units & y.units), _weight(x.units) + _weight(y.units)
    alike = 2 * common / everything
    return alike if alike >= ALIKE else 0.0


def _weight(units: Counter) -> int:
    """A word says more than a bracket."""
    return sum((3 if unit[0].isalnum() else 1) * count for unit, count in units.items())
