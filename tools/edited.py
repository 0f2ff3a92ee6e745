"""A stage with a changed copy of its kernel in place of its own: what a learner looks at after an edit."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

from stages.common.record import Stage


class Edited(Stage):
    """A stage whose kernel file is another one, launched as the stage's own is."""

    kernel_file = None
    shared_bytes = None  # of a block, a function of the head dim; None: as the stage itself launches it

    @property
    def attention(self) -> Callable:
        if self.capability.backend != "cuda":  # the kernel's file has `attention` itself
            return _load(self.kernel_file, f"edited_{self.name}_{self.kernel_file.stem}".replace("-", "_")).attention
        # A second copy of the stage's host module: it launches the stage that it knows as STAGE.
        host = _load(self.folder / "stage.py", f"edited_{self.name}")
        host.STAGE = self
        if self.shared_bytes is not None:
            host.shared_bytes = self.shared_bytes
        return host.attention


def _load(path: Path, name: str):
    """The module in `path`, a copy of its own at each call."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def edited(stage: Stage, kernel: Path, shared_bytes: Callable[[int], int] | None = None) -> Stage:
    """`stage` with `kernel` for its kernel.cu or kernel.py. shared_bytes: of a block of a CUDA stage, by head dim, if
    the edit takes other than the stage does."""
    made = Edited(**{field.name: getattr(stage, field.name) for field in dataclasses.fields(stage)})
    object.__setattr__(made, "kernel_file", kernel.resolve())  # the record is frozen
    object.__setattr__(made, "shared_bytes", shared_bytes)
    return made
