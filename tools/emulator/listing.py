"""The annotated source as data, for the terminal and the page alike: rows, what is folded, totals.

Counters stand at the line of kernel.cu that calls a function of ptx.cuh: a helper of the kernel, such as load_tile, has
those of all its callers, for it is inlined in each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tools.emulator.report import Report, Site

HOT = 0.1  # a line with this share of all instructions, wavefronts or sectors is highlighted
CONTEXT = 2  # lines shown before and after one that has counters
SMALLEST_FOLD = 3
OPS = (
    "cp.async", "ld.global", "st.global", "atom.global", "ld.shared", "st.shared", "ldmatrix", "ldmatrix.trans", "mma",
    "shfl", "vote", "__syncwarp", "__syncthreads", "bar.sync", "bar.arrive",
)  # fmt: skip
COUNTERS = ("instructions", "wavefronts", "passes", "conflicts", "sectors", "ideal_sectors", "bytes")


@dataclass(frozen=True)
class Row:
    """One line of the kernel with the counters of one kind of instruction on it; a line with several has a row each,
    all but the first with `first` False. share: of all counted instructions; findings: the kinds found at the line.
    """

    line: int
    text: str
    first: bool
    site: Site | None
    share: float
    hot: bool
    findings: tuple[str, ...]


def in_kernel(site: Site) -> bool:
    return Path(site.file).name == "kernel.cu"


def annotate(source: str, report: Report) -> list[Row]:
    """Every line of the source, in order."""
    all_of = {c: report.total(c) or 1 for c in ("instructions", "wavefronts", "sectors")}
    sites: dict[int, list[Site]] = {}
    for site in filter(in_kernel, report.sites):
        sites.setdefault(site.line, []).append(site)
    found: dict[int, dict[str, None]] = {}
    for finding in report.findings:
        for line in finding.lines[:1]:
            found.setdefault(line, {})[finding.kind] = None
    rows = []
    for line, text in enumerate(source.splitlines(), 1):
        here = sites.get(line, [None])
        shares = {c: sum(getattr(site, c) for site in here if site) / total for c, total in all_of.items()}
        hot = max(shares.values()) >= HOT
        for i, site in enumerate(here):
            share = site.instructions / all_of["instructions"] if site else 0.0
            rows.append(Row(line, text, i == 0, site, share, hot, tuple(found.get(line, ())) if i == 0 else ()))
    return rows


def elsewhere(report: Report) -> list[Site]:
    """What is counted in other files than the kernel's."""
    return [site for site in report.sites if not in_kernel(site)]


def folded(rows: Sequence[Row], context: int = CONTEXT) -> Iterator[tuple[bool, list[Row]]]:
    """(whether it may be folded away, rows) from top to bottom: what is far from any counter or finding may."""
    counted = {row.line for row in rows if row.site or row.findings}
    shown = {line + away for line in counted for away in range(-context, context + 1)}
    for hidden, group in groupby(rows, lambda row: row.line not in shown):
        group = list(group)
        yield hidden and len(group) >= SMALLEST_FOLD, group


def totals(report: Report) -> dict[str, dict[str, int]]:
    """COUNTERS by op, in OPS' order."""
    ops = {site.op for site in report.sites}
    return {op: {c: report.total(c, op) for c in COUNTERS} for op in sorted(ops, key=_place)}


def _place(op: str) -> tuple[int, str]:
    return OPS.index(op) if op in OPS else len(OPS), op


def efficiency(report: Report) -> dict[str, float | None]:
    """What was needed ÷ what it took, of shared memory's wavefronts and of global memory's sectors; None: not used."""
    pairs = {"shared": ("passes", "wavefronts"), "global": ("ideal_sectors", "sectors")}
    took = {name: report.total(pair[1]) for name, pair in pairs.items()}
    return {name: report.total(pair[0]) / took[name] if took[name] else None for name, pair in pairs.items()}
