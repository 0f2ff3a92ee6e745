"""The records as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from tools.sass import mix


def named(record: dict) -> str:
    return f"sm_{record['arch']}, {record['dtype']}, d{record['headdim']}{', causal' if record['causal'] else ''}"


def resources(stage: str, records: Sequence[dict]) -> Table:
    """A row an instantiation: registers, shared memory, spills, occupancy."""
    table = Table(title=f"{stage}: what a block takes, and how many a multiprocessor holds", box=box.SIMPLE)
    for text in ("arch", "dtype", "d", "causal"):
        table.add_column(text)
    for text in ("registers", "shared", "of it static", "spilled", "stack", "blocks", "warps", "occupancy"):
        table.add_column(text, justify="right")
    table.add_column("limited by")
    table.add_column("compiler", overflow="fold")
    last = None
    for r in records:
        if last not in (None, r["arch"]):
            table.add_section()
        last = r["arch"]
        table.add_row(
            f"sm_{r['arch']}",
            r["dtype"],
            str(r["headdim"]),
            "yes" if r["causal"] else "no",
            str(r["registers"]),
            f"{r['static_shared'] + r['dynamic_shared']:,} B",
            f"{r['static_shared']:,} B",
            f"{r['spill']:,} B",
            f"{r['stack']:,} B",
            str(r["blocks"]),
            str(r["warps"]),
            f"{100 * r['occupancy']:.1f} %",
            ", ".join(r["limited_by"]),
            "; ".join(r["warnings"]) or "no warnings",
        )
    return table


def _rows(record: dict, scope: str) -> dict[str, int]:
    counted = record[scope]
    return {**mix.families(counted), "total": counted["total"], "of them zeroing": counted["zeroing"]}


def _label(family: str) -> str:
    return f"{family} ({mix.SAYS[family]})" if family in mix.SAYS else family


def instructions(stage: str, records: Sequence[dict]) -> Table:
    """A row a family, two columns an instantiation: the whole kernel, and its main loop."""
    arches = ", ".join(dict.fromkeys(f"sm_{r['arch']}" for r in records))
    table = Table(title=f"{stage}: instructions, {arches} (kernel, and in the loop over K/V tiles)", box=box.SIMPLE)
    table.add_column("instruction")
    for r in records:
        table.add_column(f"d{r['headdim']}{' causal' if r['causal'] else ''}\n{r['dtype']}", justify="right")
        table.add_column("loop", justify="right")
    mixes = [_rows(r, scope) for r in records for scope in ("static", "loop")]
    _add_counts(table, mixes, [[f"{one[f]:,}" for one in mixes] for f in mixes[0]])
    return table


def comparison(names: Sequence[str], pair: Sequence[dict]) -> Table:
    """Two records side by side, and what changed: resources, then instructions of kernel and loop."""
    table = Table(title=f"{names[0]} against {names[1]}: {named(pair[0])}", box=box.SIMPLE)
    table.add_column("")
    for heading in (*names, "change"):
        table.add_column(heading, justify="right")
    if pair[0]["static"] and pair[1]["static"]:
        for heading in (*(f"{name}, loop" for name in names), "change"):
            table.add_column(heading, justify="right")
    for key, unit in (
        ("registers", ""), ("static_shared", " B"), ("dynamic_shared", " B"), ("spill", " B"), ("stack", " B"),
        ("blocks", ""), ("warps", ""),
    ):  # fmt: skip
        old, new = (r[key] for r in pair)
        table.add_row(key.replace("_", " "), f"{old:,}{unit}", f"{new:,}{unit}", change(old, new))
    table.add_row("limited by", *(", ".join(r["limited_by"]) for r in pair))
    if pair[0]["static"] and pair[1]["static"]:
        table.add_section()
        mixes = [_rows(r, scope) for scope in ("static", "loop") for r in pair]
        cells = [
            [f"{a[f]:,}", f"{b[f]:,}", change(a[f], b[f]), f"{c[f]:,}", f"{d[f]:,}", change(c[f], d[f])]
            for a, b, c, d in [mixes]
            for f in a
        ]
        _add_counts(table, mixes, cells)
    return table


def _add_counts(table: Table, mixes: list[dict], cells: list[list[str]]) -> None:
    """A row a family; none for a family that nowhere occurs."""
    for family, row in zip(mixes[0], cells, strict=True):
        if family == "total":
            table.add_section()
        if any(one[family] for one in mixes):
            table.add_row(_label(family), *row)


def change(old: int, new: int) -> str:
    """ "+12", "−7", or "" for none."""
    return "" if old == new else f"{'+' if new > old else '−'}{abs(new - old):,}"
