"""Runs in the terminal: the annotated source, totals, findings, runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tools.emulator.listing import Row, annotate, efficiency, elsewhere, folded, totals
from tools.emulator.report import Site
from tools.emulator.run import Run

BAD, HOT, DIM = "bold red", "bold yellow", "bright_black"
WIDE = 150  # columns: room for counters and source beside each other


def verdict(run: Run) -> str:
    """One line of plain text: whether the result is right, and whether anything was found."""
    found = len(run.report.findings)
    findings = f"{found} finding{'s' if found > 1 else ''}" if found else "no findings"
    return f"{'right' if run.verdict.ok else 'WRONG'}, {findings}: {run.verdict}"


def launch(run: Run) -> str:
    """What was run and how, in plain text."""
    c, s = run.case, run.settings
    shape = f"batch {c.batch}, {c.nheads} query heads, {c.nheads_k} key heads, {c.seqlen_q} queries, {c.seqlen_k} keys"
    schedule = f"{s.schedule}, seed {s.seed}" if s.schedule == "random" else s.schedule
    races = "" if s.races else "; races not looked for"
    return f"{run.report.kernel}; {shape}; threads {schedule}, copies land {s.asynchronous}{races}"


def heading(run: Run) -> RenderableType:
    style = "green" if run.ok else BAD
    return Group(
        Rule(Text(run.label if run.label.endswith(".cu") else f"{run.stage.name}: {run.stage.title}", style="bold")),
        Text(launch(run), style=DIM),
        Text(verdict(run), style=style),
    )


def number(n: int) -> str:
    return f"{n:,}" if n else ""


def against(took: int, ideal: int) -> Text:
    """ "131,072 / 16,384", red where more was taken than needed."""
    if not took:
        return Text("")
    return Text.assemble((number(took), BAD if took > ideal else ""), (f" / {number(ideal)}", DIM))


def ways(site: Site) -> Text:
    return Text(str(site.ways) if site.ways else "", style=BAD if site.ways > 1 else "")


def source(run: Run, width: int, whole: bool = False) -> Table:
    """Every line with its counters: to its left, or below it where `width` columns are too few for both.

    whole: without folding what has none.
    """
    beside = width >= WIDE
    cells_of = _beside if beside else _below
    names = (*COLUMNS, "line") if beside else ("line",)
    lines: list[tuple[list[Text], str]] = []  # cells, style
    for hidden, rows in folded(annotate(run.source, run.report)):
        if hidden and not whole:
            between = f"⋮ {rows[0].line} to {rows[-1].line}: {len(rows)} lines without counters"
            lines.append(([*[Text("")] * len(names), Text(between, style=DIM)], ""))
            continue
        lines += [(cells, HOT if row.hot else "") for row in rows for cells in cells_of(row)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    room = width
    for i, name in enumerate(names):
        own = max(cell_len(cells[i].plain) for cells, _ in lines)
        own = max(own, *map(len, name.split("\n")))
        table.add_column(name, justify="left" if name == "op" else "right", no_wrap=True, width=own)
        room -= own + 2
    name = "kernel.cu" if run.label == run.stage.short else escape(run.label)
    table.add_column(name, no_wrap=True, overflow="ellipsis", width=max(room - 1, len("kernel.cu")))
    for cells, style in lines:
        table.add_row(*cells, style=style)
    return table


COLUMNS = ("op", "instr.", "share", "ways", "wavefronts\n/ ideal", "sectors\n/ ideal")


def _counters(row: Row) -> list[Text]:
    site = row.site
    return [
        Text(site.op), Text(number(site.instructions)), Text(f"{row.share:.0%}"), ways(site),
        against(site.wavefronts, site.passes), against(site.sectors, site.ideal_sectors),
    ]  # fmt: skip


def _text(row: Row) -> list[Text]:
    """The line's number and its text."""
    text = Text(row.text)
    comment = row.text.find("//")
    if comment >= 0:
        text.stylize(DIM, comment)
    if row.findings:
        text = Text.assemble((f"[{', '.join(row.findings)}] ", BAD), text)
    return [Text(str(row.line), style=BAD if row.findings else DIM), text]


def _beside(row: Row) -> list[list[Text]]:
    counters = _counters(row) if row.site else [Text("")] * len(COLUMNS)
    return [counters + (_text(row) if row.first else [Text(""), Text("")])]


def _below(row: Row) -> list[list[Text]]:
    rows = [_text(row)] if row.first else []
    if row.site:
        op, instructions, share, way, wavefronts, sectors = _counters(row)
        note = Text.assemble("^ ", op, " ", instructions, " (", share, ")")
        way = way if row.site.ways > 1 else Text("")
        for counter, name in ((way, "ways"), (wavefronts, "wavefronts"), (sectors, "sectors")):
            if counter:
                note = Text.assemble(note, ", ", counter, f" {name}")
        note.no_wrap, note.overflow = False, "fold"  # counters are never cut off, as source is
        rows.append([Text(""), note])
    return rows


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def summary(run: Run) -> RenderableType:
    """Totals by kind of instruction, efficiency, time."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{run.label}: totals", title_justify="left")
    table.add_column("op")
    for name in ("instructions", "wavefronts", "ideal", "conflicts", "sectors", "ideal", "global bytes"):
        table.add_column(name, justify="right")
    for op, t in totals(run.report).items():
        conflicts = Text(number(t["conflicts"]), style=BAD)
        sectors = Text(number(t["sectors"]), style=BAD if t["sectors"] > t["ideal_sectors"] else "")
        table.add_row(
            op, number(t["instructions"]), number(t["wavefronts"]), number(t["passes"]), conflicts, sectors,
            number(t["ideal_sectors"]), number(t["bytes"]),
        )  # fmt: skip
    return Group(table, *(Text(line) for line in said(run)))


def said(run: Run) -> list[str]:
    """What the totals come to, in sentences."""
    used = efficiency(run.report)
    lines = []
    if used["shared"] is not None:
        rest = "the rest are bank conflicts" if used["shared"] < 1 else "no bank conflicts"
        lines.append(f"shared memory: {percent(used['shared'])} of the wavefronts are needed, {rest}")
    if used["global"] is not None:
        lines.append(f"global memory: {percent(used['global'])} of the sectors are needed")
    lines.append(f"emulated in {run.report.seconds:.2f} s on one CPU thread; that says nothing about a GPU's time")
    for site in elsewhere(run.report):
        lines.append(f"not in kernel.cu: {site.op} at {site.file}:{site.line}, {site.instructions:,} instructions")
    return lines


def findings(run: Run) -> RenderableType:
    """What was found, each in full."""
    said = [Text(f"{run.label}: {'' if run.report.findings else 'no '}findings", style="" if run.ok else BAD)]
    if not run.verdict.ok:
        said.append(Text(f"  wrong result: {run.verdict}", style=BAD))
    for finding in run.report.findings:
        said.append(Text.assemble((f"  {finding.kind}", BAD), str(finding).removeprefix(finding.kind)))
    return Group(*said)


def compared(runs: Sequence[Run]) -> list[tuple[str, list[str], bool]]:
    """(name, its value in each run, whether they differ), for the table of runs side by side."""
    per_run = [totals(run.report) for run in runs]
    rows: list[tuple[str, list]] = [("result", ["right" if run.verdict.ok else "WRONG" for run in runs])]
    rows.append(("findings", [len(run.report.findings) for run in runs]))
    for op in dict.fromkeys(op for t in per_run for op in t):
        for counter, name in (("instructions", ""), ("conflicts", ", bank conflicts"), ("sectors", ", sectors")):
            values = [t.get(op, {}).get(counter, 0) for t in per_run]
            if any(values):
                rows.append((op + name, values))
    for counter, name in (("wavefronts", "wavefronts"), ("sectors", "sectors")):
        rows.append((f"all {name}", [run.report.total(counter) for run in runs]))
    for memory in ("shared", "global"):
        rows.append((f"{memory} memory, needed share", [percent(efficiency(run.report)[memory]) for run in runs]))
    texts = [(name, [f"{v:,}" if isinstance(v, int) else v for v in values]) for name, values in rows]
    texts.append(("seconds to emulate", [f"{run.report.seconds:.2f}" for run in runs]))
    return [(name, values, name != "seconds to emulate" and len(set(values)) > 1) for name, values in texts]


def comparison(runs: Sequence[Run]) -> Table:
    """Runs side by side; what differs is highlighted."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="side by side", title_justify="left")
    table.add_column("")
    for run in runs:
        table.add_column(escape(run.label), justify="right")
    for name, values, differs in compared(runs):
        table.add_row(name, *values, style=HOT if differs else "")
    return table


def show(console: Console, runs: Sequence[Run], whole: bool = False, summary_only: bool = False) -> None:
    for run in runs:
        console.print(heading(run))
        if not summary_only:
            console.print(source(run, console.width, whole))
        if not summary_only or len(runs) == 1:
            console.print(summary(run))
        if not run.ok:
            console.print(findings(run))
    if len(runs) > 1:
        console.print(comparison(runs))
