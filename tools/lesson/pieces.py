"""Pieces of the stages' own files, and what changed between two of them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from stages import get
from tools.diff.compare import compute
from tools.diff.rows import CHANGED, SAME, Row
from tools.lesson.shown import Shown
from tools.regions import find_regions
from tools.results import ROOT

FENCES = {".py": "python", ".cu": "cpp", ".cuh": "cpp"}


class LessonError(Exception):
    """A lesson asks for something that is not there (any more). The message says what, and where it was looked for."""


def code(
    stage: str, start: str | None = None, stop: str | None = None, *, region: str | None = None,
    function: str | None = None, lines: int | None = None, file: str | None = None,
) -> Shown:  # fmt: skip
    """A piece of a stage's kernel file, as it stands there.

    region: a solution region. function: a Python or CUDA function, its comment and template line with it. start: from
    the first line that has this text, up to the one before the first that has `stop` after it, or so many `lines`, or
    the end of the block that begins there. file: another file, from the repository's root.

    Raises LessonError when the file has no such piece.
    """
    path = ROOT / file if file else get(stage).kernel_file
    text = path.read_text(encoding="utf-8").splitlines()
    if region is not None:
        first, last = _region(path, region)
    elif function is not None:
        first, last = _function(path, text, function)
    elif start is not None:
        first = _find(path, text, start, 0)
        last = _end(path, text, first, stop, lines)
    else:
        first, last = 0, len(text)
    while last > first and not text[last - 1].strip():
        last -= 1
    piece = [line for line in text[first:last] if not re.match(r"\s*(#|//)\s*(BEGIN|END) SOLUTION\b", line)]
    indent = min((len(line) - len(line.lstrip()) for line in piece if line.strip()), default=0)
    body = "\n".join(line[indent:] for line in piece)
    place = f"{path.relative_to(ROOT)}, lines {first + 1} to {last}"
    link = f"[{place}](../{path.relative_to(ROOT)}#L{first + 1}-L{last})"
    return Shown(f"{link}\n\n```{FENCES[path.suffix]}\n{body}\n```", f"{place}\n\n{body}")


def _region(path: Path, name: str) -> tuple[int, int]:
    regions = find_regions(path)
    for region in regions:
        if region.name == name:
            return region.begin, region.end - 1
    raise LessonError(f"{path.name} has no region {name!r}; it has {', '.join(r.name for r in regions) or 'none'}")


def _find(path: Path, text: list[str], what: str, after: int) -> int:
    for number in range(after, len(text)):
        if what in text[number]:
            return number
    raise LessonError(f"{path.relative_to(ROOT)} has no line with {what!r} after line {after}")


def _end(path: Path, text: list[str], first: int, stop: str | None, lines: int | None) -> int:
    if stop is not None:
        return _find(path, text, stop, first + 1)
    if lines is not None:
        return min(first + lines, len(text))
    return _block_end(text, first)


def _block_end(text: list[str], first: int) -> int:
    """The end of what is indented deeper than line `first`, with the bracket that closes it."""
    indent = len(text[first]) - len(text[first].lstrip())
    last = first + 1
    if text[first].rstrip().endswith("}"):
        return last
    while last < len(text) and _is_inside(text[last], indent):
        last += 1
    closes = last < len(text) and text[last].strip()[:1] in ("}", ")")
    return last + closes


def _is_inside(line: str, indent: int) -> bool:
    """Deeper than the block's first line; or blank, or a #pragma, which stands at the margin."""
    return not line.strip() or line.startswith("#pragma") or len(line) - len(line.lstrip()) > indent


def _function(path: Path, text: list[str], name: str) -> tuple[int, int]:
    if path.suffix == ".py":
        for node in ast.walk(ast.parse("\n".join(text))):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                return first - 1, node.end_lineno
        raise LessonError(f"{path.relative_to(ROOT)} has no function {name!r}")
    head = re.compile(rf"(?!//)\S.*\b{re.escape(name)}\([^;]*\{{")  # at the margin: a call is indented
    found = next((i for i, line in enumerate(text) if head.match(line)), None)
    if found is None:
        raise LessonError(f"{path.relative_to(ROOT)} has no function {name!r}")
    first = found
    while first > 0 and re.match(r"\s*(//|template\b)", text[first - 1]):
        first -= 1
    return first, _block_end(text, found)


def difference(old: str, new: str, context: int = 2) -> Shown:
    """What changed in the kernel from one stage to another: hunks, each with the reason for it, and the size.

    `python -m tools.diff OLD NEW` has it side by side.
    """
    diff = compute(old, new, context)
    parts = []
    for hunk in diff.hunks:
        why = list(dict.fromkeys(w.text for change in hunk.changes for w in change.why if w.text))
        body = "\n".join(line for row in hunk.rows for line in _lines(row))
        parts.append((f"*{'; '.join(why)}*\n\n" if why else "") + f"```diff\n{body}\n```")
    size = diff.size
    moved = f", {size.moved} moved" if size.moved else ""
    head = (
        f"**{get(old).short} → {get(new).short}**: {size.added} lines of code added, {size.changed} changed, "
        f"{size.removed} removed{moved}, of {size.new_lines}."
    )
    return Shown("\n\n".join([head, *parts]))


def _lines(row: Row) -> list[str]:
    if row.kind == SAME:
        line = row.new or row.old
        return [f" {line.text}"]
    if row.kind == CHANGED:
        return [f"-{row.old.text}", f"+{row.new.text}"]
    return [f"-{row.old.text}"] if row.old else [f"+{row.new.text}"]
