"""Loads of fragments and the products that use them, in time, as if a warp did what the source says in its order: s23
with one set of registers, s24 with two.

A model, to show the idea: what the compiler makes of it is another matter (tools.pictures.machine_code). A load takes
`load` units until its registers are filled, the products of a step `mma`; a warp begins its instructions in order, and
waits where one needs registers that are still being filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.pictures import canvas
from tools.plot import style

Order = Sequence[tuple[str, int, int]]  # ("load" or "mma", step, set of registers)
STAGES = {"s23": "one set of registers", "s24": "two sets"}


@dataclass(frozen=True)
class Span:
    what: str  # "load" or "mma"
    step: int
    registers: int
    start: float
    end: float


def order(stage: str, steps: int) -> list[tuple[str, int, int]]:
    """What the source says, in its order. Raises ValueError for a stage other than STAGES."""
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}; accepted: {', '.join(STAGES)}")
    if stage == "s23":
        return [(what, i, 0) for i in range(steps) for what in ("load", "mma")]
    made = [("load", 0, 0)] if steps else []
    for i in range(steps):
        if i + 1 < steps:
            made.append(("load", i + 1, (i + 1) % 2))
        made.append(("mma", i, i % 2))
    return made


def spans(of: Order, load: float = 3.0, mma: float = 2.0) -> list[Span]:
    """When each begins and ends. Raises ValueError where a step's mma comes without its load."""
    filled: dict[int, tuple[int, float]] = {}  # set -> step that it holds, and from when
    now = tensor_cores = 0.0
    made = []
    for what, step, registers in of:
        if what == "load":
            reading = max((s.end for s in made if s.what == "mma" and s.registers == registers), default=0.0)
            now = max(now, reading)  # nobody may still read the registers
            made.append(Span(what, step, registers, now, now + load))
            filled[registers] = step, now + load
            continue
        if filled.get(registers, (None, 0.0))[0] != step:
            raise ValueError(f"the mma of step {step} reads set {registers}, which does not hold step {step}")
        now = max(now, tensor_cores, filled[registers][1])
        tensor_cores = now + mma
        made.append(Span(what, step, registers, now, tensor_cores))
    return made


def ends(made: Sequence[Span]) -> float:
    return max((span.end for span in made), default=0.0)


COLOURS = (style.COLOURS[0], style.COLOURS[1])


@canvas.in_style
def draw(*stages: str, steps: int = 5, load: float = 3.0, mma: float = 2.0) -> canvas.Picture:
    """A timeline a stage, all on the same scale. Raises ValueError as `order`, and for no stage."""
    stages = stages or tuple(STAGES)
    plans = {stage: spans(order(stage, steps), load, mma) for stage in stages}
    last = max(map(ends, plans.values()))
    sets = {stage: sorted({span.registers for span in plan}) for stage, plan in plans.items()}
    rows = {stage: len(used) + 1 for stage, used in sets.items()}
    fig = canvas.picture(
        0.95 + sum(0.42 + 0.36 * n for n in rows.values()),
        "Fragments and products, in the order of the source",
        f"A model: a fragment travels {load:g} units, its two products take {mma:g}; a warp begins in order and waits "
        "for registers. Number: the step. Colour and hatching: the set of registers.",
        "Timelines of loads and products. "
        + "; ".join(f"{stage}, {STAGES[stage]}: {steps} steps end at {ends(plan):g}" for stage, plan in plans.items())
        + ".",
    )
    axes = fig.subplots(len(stages), 1, squeeze=False, sharex=True, height_ratios=list(rows.values()))[:, 0]
    for ax, (stage, plan) in zip(axes, plans.items()):
        canvas.bare(ax)
        ax.set_xlim(-0.05, last + 0.05)
        ax.set_ylim(rows[stage] + 0.05, -0.05)
        ax.set_xticks([])
        names = [*(f"ldmatrix → {'AB'[one]}" for one in sets[stage]), "mma"]
        ax.set_yticks([i + 0.5 for i in range(rows[stage])], names, fontsize=9)
        ax.set_title(f"{stage}: {STAGES[stage]}", loc="left", fontsize=10)
        for span in plan:
            row = sets[stage].index(span.registers) if span.what == "load" else rows[stage] - 1
            colour = canvas.tint(COLOURS[span.registers], 0.45 if span.what == "load" else 0.75)
            ax.add_patch(
                canvas.Rectangle(
                    (span.start, row + 0.08), span.end - span.start, 0.84, facecolor=colour, edgecolor="white",
                    hatch="//" if span.registers else None, linewidth=0.8, zorder=2,
                )
            )  # fmt: skip
            ax.text(
                (span.start + span.end) / 2, row + 0.52, str(span.step), ha="center", va="center", fontsize=8.5,
                zorder=4, bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0},
            )  # fmt: skip
    return fig
