"""The diff in the terminal: what changed, side by side or unified, and what it bought."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby, zip_longest

from rich import box
from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.style import Style
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from tools.diff.compare import Diff, Size
from tools.diff.gains import BETTER, MISSING, NONE, WORSE, Gain
from tools.diff.hunks import Hunk, Why
from tools.diff.rows import ADDED, CHANGED, MOVED, REMOVED, SAME, Row
from tools.diff.source import Source
from tools.diff.steps import LIMIT, Step
from tools.diff.words import pieces

SIDE_BY_SIDE = 160  # columns from which two lines of code have room beside each other
DIM = "bright_black"
STYLES = {ADDED: "cyan", REMOVED: "yellow", MOVED: "magenta"}
VERDICTS = {BETTER: "bold green", WORSE: "bold red", NONE: DIM}
WHY = "bold blue"
WHY_LENGTH = 220  # of a comment; the whole of it stands in the code below
_THEME = Syntax.get_theme("ansi_dark")


def show(console: Console, diff: Diff, gains: Sequence[Gain], side_by_side: bool | None = None) -> None:
    """side_by_side: None, as the console's width allows."""
    if side_by_side is None:
        side_by_side = console.width >= SIDE_BY_SIDE
    console.print(heading(diff))
    if not diff.hunks:
        console.print(Text("No line of the kernel differs.", style="bold"))
    for hunk in diff.hunks:
        console.print(Text(f"⋮ {gap(hunk.skipped)}" if hunk.skipped else "", style=DIM))
        for part in _hunk(diff, hunk, console.width, side_by_side):
            console.print(part)
    if diff.hunks and diff.skipped:
        console.print(Text(f"⋮ {gap(diff.skipped)}", style=DIM))
    console.print()
    console.print(Rule(Text("What it bought", style="bold")))
    for part in bought_tables(diff, gains):
        console.print(part)


def heading(diff: Diff) -> RenderableType:
    names = Table.grid(padding=(0, 2, 0, 0))
    for one in (diff.old, diff.new):
        names.add_row(Text(one.label, style="bold"), one.title)
    said = [Text(note, style="bold yellow") for note in diff.notes]
    idea = [Text(diff.new.idea, style="italic")] if diff.new.idea else []
    return Group(
        Rule(Text(f"{short(diff.old)} → {short(diff.new)}", style="bold")),
        names, *idea, Text(sized(diff.size), style=DIM), *said,
    )  # fmt: skip


def short(one: Source) -> str:
    return one.stage.short if one.stage else one.path.name


def sized(size: Size) -> str:
    """One line of plain text."""
    parts = [f"{size.added} added", f"{size.changed} changed", f"{size.removed} removed"]
    if size.moved:
        parts.append(f"{size.moved} moved")
    comments = f"; comments: {size.comments} new" if size.comments else ""
    return f"Lines of code: {', '.join(parts)}; {size.old_lines} before, {size.new_lines} after{comments}"


def gap(count: int) -> str:
    return f"{count} line{'' if count == 1 else 's'} as before"


def said(why: Why) -> str:
    """A reason as plain text."""
    text = textwrap.shorten(why.text, WHY_LENGTH, placeholder=" …")
    region = {"region": why.name, "old region": f"gone with {why.name}"}.get(why.kind, "")
    return ": ".join(filter(None, (" ".join(filter(None, (why.stage.partition("_")[0], region))), text)))


# ---- the code ----------------------------------------------------------------------------------------------


def _hunk(diff: Diff, hunk: Hunk, width: int, side_by_side: bool) -> Iterator[RenderableType]:
    """Tables of rows, with the reasons between them."""
    digits = len(str(max(line.number for one in (diff.old, diff.new) for line in one.lines)))
    table = _beside if side_by_side else _unified
    done, last = 0, None
    for change in hunk.changes:
        if change.start > done:
            yield table(hunk.rows[done : change.start], width, digits)
        if change.why and change.why != last:
            for why in change.why:
                yield Text.assemble(("▸ ", WHY), (said(why), WHY))
        yield table(hunk.rows[change.start : change.stop], width, digits)
        done, last = change.stop, change.why
    if done < len(hunk.rows):
        yield table(hunk.rows[done:], width, digits)


def code(row: Row, side: str) -> Text:
    """The line, highlighted; dim where nothing changed, underlined where a changed line differs."""
    text = Text()
    for piece in pieces(row, side):
        style = _THEME.get_style_for_token(piece.kind)
        if row.kind == SAME:
            style += Style(dim=True)
        if piece.differs:
            style += Style(bold=True, underline=True)
        text.append(piece.text, style)
    return text


def _place(row: Row, side: str) -> Text:
    """Where a moved line went or came from."""
    return Text(f"  {'moved to' if side == 'old' else 'moved from'} line {row.partner}", style=STYLES[MOVED])


def wrapped(text: Text, room: int) -> list[Text]:
    """In lines of at most `room`, broken at spaces where there are any; the following ones are indented further."""
    plain = text.plain
    indent = min(len(plain) - len(plain.lstrip()) + 4, room // 3)
    cuts, start, free = [], 0, room
    while len(plain) - start > free:
        first_word = start + (0 if cuts else len(plain) - len(plain.lstrip()))
        space = plain.rfind(" ", first_word + 1, start + free)
        start = space + 1 if space > 0 else start + free
        cuts.append(start)
        free = room - indent
    first, *others = text.divide(cuts)
    return [first, *(Text(" " * indent) + other for other in others)]


def _side(row: Row | None, side: str, is_first: bool, room: int) -> list[list[Text]]:
    """Number, sign and text of the lines that one side takes; none if it has no line."""
    line = getattr(row, side) if row else None
    if line is None:
        return []
    kind = row.kind if row.kind != CHANGED else (REMOVED if side == "old" else ADDED)
    signs = {SAME: " ", ADDED: "+", REMOVED: "−", MOVED: "»"}
    style = STYLES.get(kind, DIM)
    text = code(row, side)
    if row.kind == MOVED and is_first:
        text.append_text(_place(row, side))
    head = [Text(str(line.number), style=style), Text(signs[kind], style=f"bold {style}")]
    empty = [Text(""), Text("")]
    return [[*(empty if i else head), one] for i, one in enumerate(wrapped(text, room))]


def _room(width: int, digits: int, sides: int) -> int:
    """Columns for the code of a side: beside it stand its number, its sign, and what parts the sides."""
    return max((width - (sides - 1) * 3) // sides - digits - 3, 20)


def _grid(room: int, digits: int, sides: int) -> Table:
    table = Table.grid(padding=0)
    for i in range(sides):
        if i:
            table.add_column(width=3)
        table.add_column(width=digits, justify="right", no_wrap=True)
        table.add_column(width=3, justify="center")
        table.add_column(width=room, overflow="fold")
    return table


def paired(rows: Sequence[Row]) -> Iterator[tuple[Row | None, Row | None]]:
    """What stands beside what: lines that are gone beside lines that are new, as far as there are both."""
    for is_alone, group in groupby(rows, lambda row: row.old is None or row.new is None):
        group = list(group)
        if not is_alone:
            yield from ((row, row) for row in group)
            continue
        old, new = [row for row in group if row.old], [row for row in group if row.new]
        for i in range(max(len(old), len(new))):
            yield (old[i] if i < len(old) else None), (new[i] if i < len(new) else None)


def _beside(rows: Sequence[Row], width: int, digits: int) -> Table:
    room = _room(width, digits, 2)
    table = _grid(room, digits, 2)
    was_moved = {"old": False, "new": False}
    empty = [Text("")] * 3
    for pair in paired(rows):
        sides = []
        for row, side in zip(pair, ("old", "new"), strict=True):
            is_moved = row is not None and row.kind == MOVED
            sides.append(_side(row, side, is_moved and not was_moved[side], room))
            was_moved[side] = is_moved
        for old, new in zip_longest(*sides, fillvalue=empty):
            table.add_row(*old, Text(" │ ", style=DIM), *new)
    return table


def _unified(rows: Sequence[Row], width: int, digits: int) -> Table:
    room = _room(width, digits, 1)
    table = _grid(room, digits, 1)
    before = None
    for row in rows:
        is_first = before is None or before.kind != MOVED or (before.old is None) != (row.old is None)
        for side in ("old", "new") if row.kind == CHANGED else ("new" if row.new else "old",):
            for cells in _side(row, side, is_first, room):
                table.add_row(*cells)
        before = row
    return table


# ---- what it bought ----------------------------------------------------------------------------------------


def bought_tables(diff: Diff, gains: Sequence[Gain]) -> Iterator[RenderableType]:
    for title, group in groupby(gains, lambda gain: gain.title):
        group = list(group)
        yield Text(f"\n{title}", style="bold")
        there = [gain for gain in group if gain.verdict != MISSING]
        if there:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
            table.add_column("")
            for name in (short(diff.old), short(diff.new)):
                table.add_column(name, justify="right", no_wrap=True)
            table.add_column("change", justify="right")
            has_notes = any(gain.note for gain in there)
            if has_notes:
                table.add_column("")
            for gain in there:
                notes = [Text(gain.note)] if has_notes else []
                table.add_row(
                    gain.name, gain.old, gain.new, Text(gain.change, style=VERDICTS.get(gain.verdict, "")), *notes
                )
            yield table
        yield from (Text(f"missing: {gain.note}", style="yellow") for gain in group if gain.verdict == MISSING)


# ---- the steps ---------------------------------------------------------------------------------------------


def stat(diff: Diff) -> Table:
    """The size of a diff."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("", "lines of code", "added", "changed", "removed", "moved", "comments new"):
        table.add_column(name, justify="right" if name else "left")
    size = diff.size
    table.add_row(diff.old.label, str(size.old_lines))
    cells = (size.new_lines, size.added, size.changed, size.removed, size.moved, size.comments)
    table.add_row(diff.new.label, *map(str, cells))
    return table


def ladder(found: Sequence[Step], width: int) -> RenderableType:
    """Every stage with its parent, the size of the step, and its idea."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1 if width < 100 else 2, 0, 0))
    table.add_column("stage", no_wrap=True)
    table.add_column("from", no_wrap=True)
    for name, style in (("+", STYLES[ADDED]), ("~", ""), ("−", STYLES[REMOVED]), ("»", STYLES[MOVED])):
        table.add_column(name, justify="right", style=style, no_wrap=True)
    table.add_column("idea", overflow="fold")
    for step in found:
        size = step.size
        counts = (size.added, size.changed, size.removed, size.moved) if size else ("",) * 4
        idea = Text(step.stage.idea)
        if step.remark:
            idea.append(f" ({step.remark})", style=DIM)
        name = step.stage.name if width >= 100 else step.stage.short
        table.add_row(name, step.parent.short if step.parent else "", *map(str, counts), idea)
    legend = "Lines of code added (+), changed (~), removed (−), moved (»); comments are not counted. "
    return Group(table, Text(f"\n{legend}A step adds or changes at most {LIMIT}, or says why not.", style=DIM))
