"""What the compiler says of a configuration; needs no GPU.

A configuration that keeps registers in local memory ("spills") in any instantiation that will run is dropped: what it
gains by a larger tile it loses many times over. The instantiation that is measured is compiled first, the others only
of configurations that have come through.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from stages.common.cuda import instantiation
from stages.common.tiles import Tiles
from tools import nvrtc
from tools.autotune.space import Dropped, Part, number
from tools.bench.shapes import WIDTH

MEASURED = "bfloat16"
STATIC, GENERAL = (str(WIDTH), str(WIDTH)), ("0", "0")  # strides of the bench grid's tensors, and any


@dataclass(frozen=True)
class Kept:
    """A configuration that may be measured, and the registers of a thread."""

    tiles: Tiles
    registers: int


def job(part: Part, tiles: Tiles, arch: str, dtype: str = MEASURED, strides: tuple[str, str] = STATIC) -> nvrtc.Job:
    name = instantiation(getattr(torch, dtype), part.headdim, part.causal, (*strides, tiles.argument))
    return nvrtc.job(part.stage, name, arch)


def all_jobs(part: Part, tiles: Tiles, arch: str) -> list[nvrtc.Job]:
    """Every instantiation that will run, the one that is measured first."""
    dtypes = sorted(part.stage.capability.dtypes, key=lambda dtype: dtype != MEASURED)
    return [job(part, tiles, arch, dtype, strides) for strides in (STATIC, GENERAL) for dtype in dtypes]


@dataclass(frozen=True)
class Ladder:
    """Configurations that differ in `blocks` alone, ascending. Plain data: it goes to another process.

    baseline: is compiled in any case.
    """

    rungs: tuple[tuple[Tiles, nvrtc.Job], ...]
    headdim: int
    baseline: Tiles

    @property
    def arch(self) -> int:
        return number(self.rungs[0][1].arch)


def ladders(part: Part, legal: Iterable[Tiles], arch: str) -> list[Ladder]:
    def but_for_blocks(tiles: Tiles) -> tuple:
        return tiles.Br, tiles.num_warps, tiles.q_in_registers, tiles.buffers, tiles.Bc

    ordered = sorted(legal, key=lambda tiles: (but_for_blocks(tiles), tiles.blocks))
    return [
        Ladder(tuple((tiles, job(part, tiles, arch)) for tiles in group), part.headdim, part.default)
        for _, group in itertools.groupby(ordered, but_for_blocks)
    ]


def climb(ladder: Ladder) -> list[Kept | Dropped]:
    """The fate of each configuration of a ladder, after compiling no more of them than it takes.

    Leaving registers for more blocks makes no difference where so many fit already, and does not help where registers
    spilled with fewer.
    """
    fates: list[Kept | Dropped] = []
    resident, spilled_at = 0, None
    for tiles, wanted in ladder.rungs:
        if spilled_at is not None:
            fates.append(Dropped(tiles, "spill", f"spills with registers for {spilled_at} blocks a multiprocessor"))
            continue
        if tiles.blocks <= resident and tiles != ladder.baseline:
            fates.append(Dropped(tiles, "same", f"{resident} blocks fit without having been asked for"))
            continue
        fate = compiled(tiles, wanted)
        fates.append(fate)
        if isinstance(fate, Kept):
            resident = tiles.resident(ladder.headdim, fate.registers, ladder.arch)
        elif fate.by == "spill":
            spilled_at = tiles.blocks
    return fates


def compiled(tiles: Tiles, wanted: nvrtc.Job) -> Kept | Dropped:
    """The fate of one configuration by one of its instantiations."""
    try:
        made = nvrtc.run(wanted)
    except nvrtc.CompileError as problem:
        return Dropped(tiles, "compiler", " ".join(str(problem).split())[:300])
    if made.spilled or made.stack:
        return Dropped(
            tiles, "spill", f"{wanted.instantiation} spills {made.spilled} bytes at {made.registers} registers"
        )
    return Kept(tiles, made.registers)


def runs_clean(item: tuple[Tiles, list[nvrtc.Job]]) -> Kept | Dropped:
    """The fate of a configuration by several of its instantiations: the first that is at fault drops it.

    Of the registers, those of the first instantiation are kept.
    """
    tiles, wanted = item
    first = None
    for one in wanted:
        fate = compiled(tiles, one)
        if isinstance(fate, Dropped):
            return fate
        first = first or fate
    assert first is not None, "no instantiation to judge by"
    return first


def faults(part: Part, tiles: Tiles, arch: str) -> list[str]:
    """Why a configuration may not be launched on `arch`, legality and every instantiation; [] when it may."""
    why = tiles.why_not(part.headdim, number(arch))
    if why:
        return [why]
    fates = (compiled(tiles, one) for one in all_jobs(part, tiles, arch))
    return [fate.why for fate in fates if isinstance(fate, Dropped)]
