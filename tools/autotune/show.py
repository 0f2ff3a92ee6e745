"""Tables for the terminal: what was fastest, and what was left out and why."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table as Grid

from stages.common.tiles import Tiles
from tools.autotune.search import SEQLENS
from tools.autotune.space import Dropped, Part, number
from tools.autotune.table import Table
from tools.bench.report import three_digits
from tools.bench.shapes import harmonic_mean

_FIELDS = ("Br", "Bc", "warps", "buffers", "Q in registers", "blocks")


def _cells(tiles: Tiles) -> list[str]:
    kept = "yes" if tiles.q_in_registers else "no"
    return [str(tiles.Br), str(tiles.Bc), str(tiles.num_warps), str(tiles.buffers), kept, str(tiles.blocks)]


def best(table: Table, part: Part, count: int = 10) -> Grid:
    """The best of one part, with the ratio to the default; the choice first."""
    measured = []
    for entry in table.of(part, "candidates"):
        if set(entry["tflops"]) == set(map(str, SEQLENS)):
            rates = [entry["tflops"][str(seqlen)] for seqlen in SEQLENS]
            measured.append((harmonic_mean(rates), Tiles(**entry["tiles"]), entry["registers"], rates))
    measured.sort(key=lambda row: row[0], reverse=True)
    (choice,) = table.of(part, "chosen")
    chosen = Tiles(**choice["tiles"])
    measured.sort(key=lambda row: row[1] != chosen)
    reference = next((mean for mean, tiles, *_ in measured if tiles == part.default), None)
    mask = "causal" if part.causal else "not causal"
    grid = Grid(title=f"{part.stage.name}, head dim {part.headdim}, {mask}: TFLOP/s on {table.environment['device']}")
    for name in (*_FIELDS, "registers", *map(str, SEQLENS), "mean", "× default"):
        grid.add_column(name, justify="right")
    shown = measured[:count]
    shown += [row for row in measured[count:] if row[1] == part.default]
    for mean, tiles, registers, rates in shown:
        ratio = f"{mean / reference:.3f}" if reference else "–"
        style = "bold" if tiles == chosen else None
        cells = (*_cells(tiles), str(registers), *map(three_digits, rates), three_digits(mean), ratio)
        grid.add_row(*cells, style=style)
    return grid


def survivors(part: Part, kept: Sequence[tuple[Tiles, int]], arch: str) -> Grid:
    """What came through the compiler, with the registers of a thread and the blocks that a multiprocessor holds."""
    grid = Grid(title=f"{part}, sm_{arch}: what is left")
    for name in (*_FIELDS, "registers", "blocks that fit"):
        grid.add_column(name, justify="right")
    for tiles, registers in kept:
        grid.add_row(*_cells(tiles), str(registers), str(tiles.resident(part.headdim, registers, number(arch))))
    return grid


def explained(part: Part, kept: int, dropped: Sequence[Dropped]) -> Grid:
    """What was dropped, and why: those that differ in Bc alone and have one kind of reason share a row, with the first
    one's reason."""
    grid = Grid(title=f"{part}: {kept} of {kept + len(dropped)} configurations are left; dropped:")
    for name in ("Br", "warps", "Q in registers", "buffers", "blocks", "Bc"):
        grid.add_column(name, justify="right")
    grid.add_column("by")
    grid.add_column("why", overflow="fold")
    for (fields, by), group in _rows(dropped):
        grid.add_row(*fields, _series([one.tiles.Bc for one in group]), by, escape(group[0].why))
    return grid


def _rows(dropped: Sequence[Dropped]) -> Iterator[tuple[tuple, list[Dropped]]]:
    def row(one: Dropped) -> tuple:
        Br, _, warps, buffers, kept, blocks = _cells(one.tiles)
        return (Br, warps, kept, buffers, blocks), one.by

    def order(one: Dropped) -> tuple:
        t = one.tiles
        return t.Br, t.num_warps, not t.q_in_registers, t.buffers, t.blocks, one.by, t.Bc

    for key, group in itertools.groupby(sorted(dropped, key=order), row):
        yield key, list(group)


def _series(keys: Sequence[int]) -> str:
    unbroken = len(keys) > 2 and all(b - a == 16 for a, b in itertools.pairwise(keys))
    return f"{keys[0]} to {keys[-1]}" if unbroken else ", ".join(map(str, keys))


def counted(dropped: Sequence[Dropped]) -> str:
    """In one line: how many were dropped by which kind of reason."""
    counts = Counter(one.by for one in dropped)
    return ", ".join(f"{by} {count}" for by, count in counts.most_common()) or "none"
