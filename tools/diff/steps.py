"""Every stage against its parent: how large the step is, and how large it may be."""

from __future__ import annotations

from dataclasses import dataclass

from stages import STAGES, get
from stages.common.record import Stage
from tools.diff.compare import Size, compute

# Lines of code, comments not counted, that a stage may add or change: what a reader takes in at a sitting. The first
# stage of a part (new_base) starts afresh and may be as long as it is.
LIMIT = 60

# Steps that are larger, each with its reason.
LARGER = {
    "s13_triton_tuned": "all that a tuned Triton kernel adds at once: descriptors, a loop without masks, the autotuner",
    "s31_autotune": "tile sizes become template arguments, and a loop over m-tiles surrounds all that a warp owns",
}


@dataclass(frozen=True)
class Step:
    """A stage against its parent. size: None if it has none, or one in another language."""

    stage: Stage
    parent: Stage | None
    size: Size | None

    @property
    def is_too_large(self) -> bool:
        return self.size is not None and not self.stage.new_base and self.size.written > LIMIT

    @property
    def remark(self) -> str:
        """Why its size is no ordinary one; "" if it is."""
        if self.parent is None:
            return "the first"
        if self.stage.new_base:
            return "a new start" if self.size else "a new start in another language"
        return LARGER.get(self.stage.name, "")


def step(stage: Stage) -> Step:
    if stage.parent is None:
        return Step(stage, None, None)
    diff = compute(stage.parent, stage)
    return Step(stage, get(stage.parent), diff.size if diff.is_comparable else None)


def all_steps() -> list[Step]:
    """All of them, in the stages' order."""
    return [step(stage) for stage in STAGES]
