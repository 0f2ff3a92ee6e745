"""A stage with a changed copy of its kernel in place of its own: what a learner looks at after an edit."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

from stages.common.record import Stage


class Edited(Stage):
    """A CUDA stage whose kernel file is another one, launched as the stage's own is."""

    kernel_file = None
    shared_bytes = None  # of a block, a function of the head dim; None: as the stage itself launches it

    @property
    def attention(self) -> Callable:
        # A second copy of the stage's host module: it launches the stage that it knows as STAGE.
        spec = importlib.util.spec_from_file_location(f"edited_{self.name}", self.folder / "stage.py")
        host = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(host)
        host.STAGE = self
        if self.shared_bytes is not None:
            host.shared_bytes = self.shared_bytes
        return host.attention


def edited(stage: Stage, kernel: Path, shared_bytes: Callable[[int], int] | None = None) -> Stage:
    """`stage`, a CUDA stage, with `kernel` for its kernel.cu. shared_bytes: of a block, by head dim, if the edit takes
    other than the stage does."""
    made = Edited(**{field.name: getattr(stage, field.name) for field in dataclasses.fields(stage)})
    object.__setattr__(made, "kernel_file", kernel.resolve())  # the record is frozen
    object.__setattr__(made, "shared_bytes", shared_bytes)
    return made
