"""Within a line: its pieces with their Pygments types, and which of them the other line has not."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from pygments.token import STANDARD_TYPES, _TokenType

from tools.diff.rows import CHANGED, Row
from tools.diff.source import Line

_UNIT = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True)
class Piece:
    """kind: Pygments' type; differs: only this of the two lines has it."""

    kind: _TokenType
    text: str
    differs: bool = False


def pieces(row: Row, side: str) -> list[Piece]:
    """Of the row's line on that side, "old" or "new"; what differs is only told of changed lines."""
    line = getattr(row, side)
    if line is None:
        return []
    if row.kind != CHANGED:
        return _trimmed([Piece(kind, text) for kind, text in line.tokens])
    units = {name: _units(getattr(row, name)) for name in ("old", "new")}
    words = {name: [i for i, piece in enumerate(found) if piece.text.strip()] for name, found in units.items()}
    old, new = ([units[name][i].text for i in words[name]] for name in ("old", "new"))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    differing = set()
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag != "equal":
            start, stop = (i, i_end) if side == "old" else (j, j_end)
            if start < stop:  # with the spaces between them
                differing.update(range(words[side][start], words[side][stop - 1] + 1))
    return _trimmed([Piece(p.kind, p.text, i in differing) for i, p in enumerate(units[side])])


def _units(line: Line) -> list[Piece]:
    return [Piece(kind, unit) for kind, text in line.tokens for unit in _UNIT.findall(text)]


def _trimmed(found: list[Piece]) -> list[Piece]:
    while found and not found[-1].text.strip():
        found.pop()
    return found


def css_class(kind: _TokenType) -> str:
    """Pygments' name of the type in style sheets."""
    while kind not in STANDARD_TYPES:
        kind = kind.parent
    return STANDARD_TYPES[kind]
