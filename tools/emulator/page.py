"""Runs as one HTML page that needs nothing else: no script, no font or style from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import CudaLexer

from tools.emulator.listing import Row, annotate, folded, totals
from tools.emulator.run import Run
from tools.emulator.show import compared, launch, number, said, verdict

CSS = Path(__file__).with_name("page.css")
COUNTERS = ("op", "instructions", "share", "ways", "wavefronts", "ideal", "sectors", "ideal", "line")


def _styles() -> str:
    """The page's style sheet, with the colours of the source for light and dark."""
    light, dark = (HtmlFormatter(style=name, nobackground=True) for name in ("default", "monokai"))
    return (
        f"{light.get_style_defs('.code')}\n"
        f"@media screen and (prefers-color-scheme: dark) {{\n{dark.get_style_defs('.code')}\n}}\n"
        f"{CSS.read_text(encoding='utf-8')}"
    )


def page(runs: Sequence[Run], whole: bool = False, summary_only: bool = False) -> str:
    """The page of these runs; whole: the file unfolded at first; summary_only: no source."""
    title = "Emulated: " + ", ".join(run.label for run in runs)
    body = [_section(i, run, whole, summary_only) for i, run in enumerate(runs)]
    if len(runs) > 1:
        body.append(_comparison(runs))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_styles()}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _section(i: int, run: Run, whole: bool, summary_only: bool) -> str:
    parts = [
        f"<h2>{escape(run.label)}</h2>",
        f'<p class="dim">{escape(launch(run))}</p>',
        f'<p class="{"good" if run.ok else "bad"}">{escape(verdict(run))}</p>',
    ]
    if run.report.findings:
        parts += ["<h3>Findings</h3>", "<ul>"]
        for f in run.report.findings:
            parts.append(f'<li><span class="bad">{escape(f.kind)}</span>{escape(str(f).removeprefix(f.kind))}</li>')
        parts.append("</ul>")
    if not summary_only:
        parts.append(_source(i, run, whole))
    parts += ["<h3>Totals</h3>", _totals(run), *(f"<p>{escape(line)}</p>" for line in said(run))]
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _source(i: int, run: Run, whole: bool) -> str:
    coloured = highlight(run.source, CudaLexer(stripnl=False, ensurenl=False), HtmlFormatter(nowrap=True))
    code = coloured.split("\n")
    parts = [
        f'<h3>Source</h3>\n<input type="checkbox" class="whole" id="whole-{i}"{" checked" if whole else ""}>'
        f'<label for="whole-{i}"> the whole file</label>\n<div class="scroll"><table class="source">\n<thead><tr>'
        + "".join(f"<th>{name}</th>" for name in COUNTERS)
        + '<th class="code">kernel.cu</th></tr></thead>'
    ]
    for hidden, rows in folded(annotate(run.source, run.report)):
        if hidden:
            between = f"⋮ {rows[0].line} to {rows[-1].line}: {len(rows)} lines without counters"
            empty = "<td></td>" * len(COUNTERS)
            parts.append(f'<tbody class="gap"><tr class="gap">{empty}<td class="code">{between}</td></tr></tbody>')
        parts.append('<tbody class="folded">' if hidden else "<tbody>")
        parts += [_row(row, code[row.line - 1]) for row in rows]
        parts.append("</tbody>")
    parts.append("</table></div>")
    return "\n".join(parts)


def _cell(text: str, bad: bool = False) -> str:
    return f'<td class="bad">{text}</td>' if bad and text else f"<td>{text}</td>"


def _row(row: Row, code: str) -> str:
    site = row.site
    cells = "<td></td>" * (len(COUNTERS) - 1)
    if site:
        cells = (
            _cell(escape(site.op)) + _cell(number(site.instructions)) + _cell(f"{row.share:.0%}")
            + _cell(number(site.ways), site.ways > 1)
            + _cell(number(site.wavefronts), site.conflicts > 0) + _cell(number(site.passes))
            + _cell(number(site.sectors), site.sectors > site.ideal_sectors) + _cell(number(site.ideal_sectors))
        )  # fmt: skip
    found = f'<span class="bad">[{escape(", ".join(row.findings))}]</span> ' if row.findings else ""
    line, text = (str(row.line), found + code) if row.first else ("", "")
    start = '<tr class="hot">' if row.hot else "<tr>"
    return f'{start}{cells}<td class="number">{line}</td><td class="code">{text}</td></tr>'


def _table(names: Sequence[str], rows: Sequence[tuple[str, str]]) -> str:
    """rows: (class of the row or "", its cells as HTML)."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "\n".join(f'<tr class="{kind}">{cells}</tr>' if kind else f"<tr>{cells}</tr>" for kind, cells in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _totals(run: Run) -> str:
    rows = []
    for op, t in totals(run.report).items():
        cells = _cell(escape(op)) + _cell(number(t["instructions"])) + _cell(number(t["wavefronts"]))
        cells += _cell(number(t["passes"])) + _cell(number(t["conflicts"]), True)
        cells += _cell(number(t["sectors"]), t["sectors"] > t["ideal_sectors"])
        rows.append(("", cells + _cell(number(t["ideal_sectors"])) + _cell(number(t["bytes"]))))
    names = ("op", "instructions", "wavefronts", "ideal", "conflicts", "sectors", "ideal", "global bytes")
    return _table(names, rows)


def _comparison(runs: Sequence[Run]) -> str:
    rows = [
        ("differs" if differs else "", "".join(_cell(escape(text)) for text in (name, *values)))
        for name, values, differs in compared(runs)
    ]
    return "<h2>Side by side</h2>\n" + _table(("", *(run.label for run in runs)), rows)
