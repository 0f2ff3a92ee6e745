"""Every picture with its defaults, by the name that its file has: `CATALOGUE["pipeline"]()` draws it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tools.pictures import (
    b_operand,
    bank_conflicts,
    bank_lines,
    blocks,
    budget,
    causal_tiles,
    filmstrip,
    fragment_pipeline,
    fragments,
    instruction_mix,
    lazy,
    loop_swap,
    machine_code,
    memory_wall,
    ownership,
    pipeline,
    roofline_path,
    score,
    step,
    traversal,
    walk,
)
from tools.pictures.canvas import Picture

CATALOGUE: dict[str, Callable[[], Picture]] = {
    "memory-wall": memory_wall.draw,
    "memory-wall-numpy": partial(memory_wall.draw, "host", headdim=64, itemsize=4),
    "filmstrip": filmstrip.draw,
    "blocks": blocks.draw,
    "budget": budget.draw,
    "traversal": traversal.draw,
    "traversal-causal": partial(traversal.draw, causal=True),
    "loop-swap": loop_swap.draw,
    "bank-conflicts": bank_conflicts.draw,
    "swizzle-table": bank_conflicts.draw_table,
    "bank-lines": partial(bank_lines.draw, {"s20": bank_conflicts.identity, "s21": bank_conflicts.xor}),
    "ownership": ownership.draw,
    **{f"fragment-{name.lower().replace('.', '-')}": partial(fragments.draw, name) for name in fragments.MATRICES},
    "pipeline": pipeline.draw,
    "causal-tiles": causal_tiles.draw,
    "causal-schedule": causal_tiles.draw_schedule,
    "pipeline-fragments": fragment_pipeline.draw,
    "walk": partial(walk.draw, "s24", "s25"),
    "score": partial(score.draw, "s26", "s27"),
    "b-operand": b_operand.draw,
    "machine-code": partial(machine_code.draw, "s23", "s24"),
    "roofline-path": partial(roofline_path.draw, "s21"),
    "step": partial(step.draw, "s21"),
    "instruction-mix": partial(instruction_mix.draw, "s28", "s29"),
    "lazy": lazy.draw,
}
NEEDS_COMPILER = ("bank-conflicts", *(name for name in CATALOGUE if name.startswith("fragment-")))
# Those that explain the project without a lesson around them: tools.plot may draw them into docs/plots.
FOR_DOCS = ("filmstrip", "traversal", "pipeline", "causal-tiles")
