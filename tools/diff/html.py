"""The diff as HTML that needs nothing else: no script, no font or style from elsewhere.

`to_html` and `bought_to_html` are fragments for a page that has `styles()` in its head; `page` is a page by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from pygments.formatters import HtmlFormatter

from tools.diff.compare import Diff
from tools.diff.gains import MISSING, Gain
from tools.diff.hunks import Hunk, Why
from tools.diff.rows import CHANGED, MOVED, SAME, Row
from tools.diff.show import gap, paired, short, sized
from tools.diff.source import Source
from tools.diff.words import css_class, pieces

CSS = Path(__file__).with_name("page.css")
_CLASSES = {"old": "gone", "new": "added"}
_COLUMNS = 6
SAME_ROW = ' class="same"'


def styles() -> str:
    """What the fragments need: a style sheet in which everything is below the class "diff"."""
    light, dark = (HtmlFormatter(style=name, nobackground=True) for name in ("default", "monokai"))
    return (
        f"{light.get_style_defs('.diff .code')}\n"
        f"@media screen and (prefers-color-scheme: dark) {{\n{dark.get_style_defs('.diff .code')}\n}}\n"
        f"{CSS.read_text(encoding='utf-8')}"
    )


def page(diff: Diff, gains: Sequence[Gain], unified: bool = False) -> str:
    """The whole page: what changed, and what it bought."""
    title = f"{diff.old.label} → {diff.new.label}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{styles()}"
        "body { margin: 0; }\nbody > main { margin: 0 auto; max-width: 120rem; min-height: 100vh; padding: 1rem; "
        "box-sizing: border-box; }\n"
        "@page { size: landscape; margin: 12mm; }\n@media print { body > main { padding: 0; max-width: none; } }\n"
        f'</style>\n</head>\n<body>\n<main class="diff">\n<h1>{escape(title)}</h1>\n'
        f'{to_html(diff, unified)}\n<section class="diff">\n<h2>What it bought</h2>\n{bought_to_html(diff, gains)}\n'
        "</section>\n</main>\n</body>\n</html>\n"
    )


def to_html(diff: Diff, unified: bool = False) -> str:
    """The diff as a fragment: both titles, the idea, and the code with the reasons between. unified: in one column,
    which narrow screens show in any case."""
    parts = [f'<section class="diff{" unified" if unified else ""}">']
    parts += [f"<p><b>{escape(one.label)}</b> {escape(one.title)}</p>" for one in (diff.old, diff.new)]
    if diff.new.idea:
        parts.append(f'<p class="idea">{escape(diff.new.idea)}</p>')
    parts.append(f'<p class="dim">{escape(sized(diff.size))}</p>')
    parts += [f'<p class="note">{escape(note)}</p>' for note in diff.notes]
    parts += _code(diff) if diff.hunks else ['<p class="note">No line of the kernel differs.</p>']
    return "\n".join([*parts, "</section>"])


def _code(diff: Diff) -> Iterator[str]:
    yield '<table class="code"><colgroup><col class="number"><col class="sign"><col><col class="number">'
    yield '<col class="sign"><col></colgroup>'
    heads = "".join(f'<th colspan="3">{escape(_head(one))}</th>' for one in (diff.old, diff.new))
    yield f"<thead><tr>{heads}</tr></thead>"
    for hunk in diff.hunks:
        yield "<tbody>"
        if hunk.skipped:
            yield _gap(hunk.skipped)
        yield from _hunk(hunk)
        yield "</tbody>"
    if diff.skipped:
        yield f"<tbody>{_gap(diff.skipped)}</tbody>"
    yield "</table>"


def _head(one: Source) -> str:
    return f"{one.label}/{one.path.name}" if one.stage else one.label


def _gap(count: int) -> str:
    return f'<tr class="gap"><td colspan="{_COLUMNS}">⋮ {gap(count)}</td></tr>'


def _hunk(hunk: Hunk) -> Iterator[str]:
    done, last = 0, None
    for change in hunk.changes:
        yield from _rows(hunk.rows[done : change.start])
        if change.why and change.why != last:
            said = "<br>".join(map(_said, change.why))
            yield f'<tr class="why"><td colspan="{_COLUMNS}">{said}</td></tr>'
        yield from _rows(hunk.rows[change.start : change.stop])
        done, last = change.stop, change.why
    yield from _rows(hunk.rows[done:])


def _said(why: Why) -> str:
    region = {"region": why.name, "old region": f"gone with {why.name}"}.get(why.kind, "")
    name = " ".join(filter(None, (why.stage.partition("_")[0], region)))
    return (f"<b>{escape(name)}</b> " if name else "") + escape(why.text)


def _rows(rows: Sequence[Row]) -> Iterator[str]:
    was_moved = {"old": False, "new": False}
    for pair in paired(rows):
        cells, is_same = [], pair[0] is pair[1] and pair[0].kind == SAME
        for row, side in zip(pair, ("old", "new"), strict=True):
            is_moved = row is not None and row.kind == MOVED
            cells.append(_side(row, side, is_moved and not was_moved[side]))
            was_moved[side] = is_moved
        yield f"<tr{SAME_ROW if is_same else ''}>{''.join(cells)}</tr>"


def _side(row: Row | None, side: str, is_first: bool) -> str:
    line = getattr(row, side) if row else None
    if line is None:
        return "".join(f'<td class="{side} {name} blank"></td>' for name in ("number", "sign", "line"))
    kind = {SAME: "", MOVED: "moved"}.get(row.kind, _CLASSES[side])
    sign = {"": "", "moved": "»", "gone": "−", "added": "+"}[kind]
    place = ""
    if row.kind == MOVED and is_first:
        place = f'<span class="place">  {"moved to" if side == "old" else "moved from"} line {row.partner}</span>'
    code = "".join(_piece(piece.kind, piece.text, piece.differs and row.kind == CHANGED) for piece in pieces(row, side))
    texts = {"number": str(line.number), "sign": sign, "line": code + place}
    return "".join(
        f'<td class="{" ".join(filter(None, (side, name, kind)))}">{text}</td>' for name, text in texts.items()
    )


def _piece(kind, text: str, differs: bool) -> str:
    name, html = css_class(kind), escape(text, quote=False)
    html = f'<span class="{name}">{html}</span>' if name and text.strip() else html
    return f"<mark>{html}</mark>" if differs else html


def bought_to_html(diff: Diff, gains: Sequence[Gain]) -> str:
    """What it bought as a fragment: a table a group."""
    parts = []
    for title, group in groupby(gains, lambda gain: gain.title):
        group = list(group)
        parts.append(f"<h3>{escape(title)}</h3>")
        there = [gain for gain in group if gain.verdict != MISSING]
        if there:
            heads = "".join(f"<th>{escape(name)}</th>" for name in ("", short(diff.old), short(diff.new), "change", ""))
            body = "\n".join(
                f"<tr><td>{escape(g.name)}</td><td>{escape(g.old)}</td><td>{escape(g.new)}</td>"
                f'<td class="{g.verdict}">{escape(g.change)}</td><td class="said">{escape(g.note)}</td></tr>'
                for g in there
            )
            table = f"<table><thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table>"
            parts.append(f'<div class="scroll">{table}</div>')
        parts += [f'<p class="missing">missing: {escape(g.note)}</p>' for g in group if g.verdict == MISSING]
    return "\n".join(parts)
