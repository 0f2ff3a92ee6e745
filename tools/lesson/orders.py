"""Orders: of a loop's copies, waits and products, written down by a reader; and of threads and copies, in which a
stage is run to see what depends on them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from stages import Stage
from tools.lesson.answers import untouched
from tools.lesson.live import emulated
from tools.lesson.shown import Picture, Shown, show, table

STEPS = "copy K0, copy V0, wait, QK0, softmax0, PV0"
IN_ALL_WAYS = (("forward", "late"), ("reverse", "late"), ("forward", "early"), ("reverse", "early"))


def outcomes(*stages: str | Stage, **fields) -> Shown:
    """Each stage, or planted one, with copies that land late and early, and threads forward and in reverse: whether the
    result is right, and what kinds of things were found."""
    rows = []
    for stage in stages:
        for schedule, asynchronous in IN_ALL_WAYS:
            run = emulated(stage, {"schedule": schedule, "asynchronous": asynchronous}, **fields)
            kinds = ", ".join(sorted({finding.kind for finding in run.report.findings}))
            rows.append([run.label, asynchronous, schedule, "right" if run.verdict.ok else "WRONG", kinds or "nothing"])
    return table(["", "copies land", "threads run", "result", "found"], rows, text_columns=5)


def ops_of(steps: Sequence[str]) -> list:
    """["copy K0", "wait", "QK0", ...] -> the steps as tools.pictures.pipeline knows them.

    Raises ValueError for a step of another form.
    """
    from tools.pictures.pipeline import Op

    made, tile = [], 0
    for step in steps:
        found = re.fullmatch(r"(?:copy ([KV])|(wait)|(QK|softmax|PV)) ?(\d*)", str(step))
        if not found or bool(found[2]) == bool(found[4]):
            raise ValueError(f"a step is {step!r}; accepted: {STEPS}, with numbers of tiles")
        if found[2]:
            made.append(Op("wait", tile))
            continue
        tile = int(found[4])
        made.append(Op("issue", tile, found[1]) if found[1] else Op(found[3], tile))
    return made


def problem_of(steps: Sequence[str], tiles: int, buffers: int) -> str:
    """What is wrong with an order, in words; "" if nothing is: then every tile is multiplied once and in turn, after
    it has come, and none is overwritten that may still be read."""
    from tools.pictures.pipeline import WORK, hazards

    ops = ops_of(steps)
    work = [(op.kind, op.tile) for op in ops if op.kind in WORK]
    wanted = [(kind, tile) for tile in range(tiles) for kind in WORK]
    for at, want in enumerate(wanted):
        if work[at : at + 1] != [want]:
            return f"the products and softmaxes should come tile by tile: {want[0]}{want[1]} is number {at + 1} of them"
    if len(work) > len(wanted):
        return f"there are {tiles} tiles; {work[len(wanted)][0]}{work[len(wanted)][1]} is one too many"
    found = hazards(ops, buffers)
    return found[0] if found else ""


def draw_order(order: Callable[[int], Sequence[str]], beside: str, tiles: int = 3) -> Picture | Shown:
    """A reader's order(tiles) as a timeline, with a stage's for comparison; or what is wrong with it."""
    from tools.pictures import pipeline

    if untouched(order):
        return Shown("no answer yet")
    steps = order(tiles)
    problem = problem_of(steps, tiles, pipeline.BUFFERS[beside])
    if problem:
        return Shown(problem)
    return show(pipeline.draw([beside, pipeline.timed(ops_of(steps), "yours")], tiles=tiles))
