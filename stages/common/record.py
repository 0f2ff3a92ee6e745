"""The record that every stage keeps about itself, and the registry's way of finding it.

Nothing here imports a backend: `from stages import STAGES` works on a machine without Triton, CuPy or a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

STAGES_DIR = Path(__file__).resolve().parent.parent

BACKENDS = ("numpy", "triton", "cuda")
COMPILER_FAULTS = ("spill", "performance loss")


class StageUnavailable(RuntimeError):
    """A stage cannot run on this machine (no GPU, no Triton, ...). The message says what it needs."""


class Unsupported(ValueError):
    """A stage was asked for something outside its capability record. The message says what it takes."""


@dataclass(frozen=True)
class Capability:
    """What a stage can do; the suite reads this, and `prepare` enforces it.

    backend:   "numpy", "triton" or "cuda".
    dtypes:    names of the input dtypes it takes.
    headdims:  the head dims it has an instantiation for, ascending; others are zero-padded up to the next one.
               Empty: any head dim, no padding.
    min_arch:  smallest CUDA compute capability, as 10·major + minor (0: no GPU needed at all).
    min_triton: oldest Triton that has what the stage uses, as (major, minor).
    """

    backend: str
    dtypes: tuple[str, ...]
    headdims: tuple[int, ...] = ()
    min_arch: int = 0
    min_triton: tuple[int, int] = (3, 0)

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"backend is {self.backend!r}; accepted: {', '.join(BACKENDS)}")
        if list(self.headdims) != sorted(set(self.headdims)):
            raise ValueError(f"headdims is {self.headdims}; accepted: ascending, without repeats")

    @property
    def max_headdim(self) -> int | None:
        return self.headdims[-1] if self.headdims else None

    def padded_headdim(self, headdim: int) -> int:
        """The instantiated head dim that serves `headdim`."""
        if not self.headdims:
            return headdim
        for padded in self.headdims:
            if headdim <= padded:
                return padded
        raise Unsupported(f"headdim is {headdim}; accepted: 1 to {self.max_headdim}")


@dataclass(frozen=True, eq=False)  # compared and hashed as the one object it is
class Stage:
    """One stage: what it is called, what it teaches, what it can do.

    parent:       the name of the stage it is diffed against, or None.
    tiles:        its tile configuration. The suite asserts that it equals the parent's
                  except for `idea_fields`: otherwise nobody can tell what made the difference.
    idea_fields:  the fields of `tiles` that are this stage's idea.
    new_base:     True for the first stage of a part: its diff and tiles start afresh.
    compiler_faults: what the compiler does to this stage that no other may suffer, of COMPILER_FAULTS; its card
                  says why. The suite fails on what is not declared, and on what is declared and does not happen.
    """

    number: int
    name: str
    title: str
    idea: str
    parent: str | None
    capability: Capability
    tiles: Mapping[str, object] = field(default_factory=dict)
    idea_fields: tuple[str, ...] = ()
    new_base: bool = False
    compiler_faults: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for fault in self.compiler_faults:
            if fault not in COMPILER_FAULTS:
                raise ValueError(f"compiler_faults has {fault!r}; accepted: {', '.join(COMPILER_FAULTS)}")
        if not self.name.startswith(f"s{self.number:02d}_"):
            raise ValueError(f"name is {self.name!r}; accepted: s{self.number:02d}_<technique>")
        object.__setattr__(self, "tiles", MappingProxyType(dict(self.tiles)))

    @property
    def short(self) -> str:
        """The number alone, as it is typed on the command line: "s12"."""
        return f"s{self.number:02d}"

    @property
    def folder(self) -> Path:
        return STAGES_DIR / self.name

    @property
    def kernel_file(self) -> Path:
        """The file that the lesson is about."""
        return self.folder / ("kernel.cu" if self.capability.backend == "cuda" else "kernel.py")

    @property
    def entry_module(self) -> str:
        """The module that defines `attention`; importing it may need a backend."""
        return f"stages.{self.name}." + ("stage" if self.capability.backend == "cuda" else "kernel")

    def tile_rows(self, headdim: int, itemsize: int) -> int:
        """Rows of a Q tile at this head dim and element size: Br, fewer where a tile would pass `tile_bytes`."""
        rows, limit = self.tiles.get("Br", 64), self.tiles.get("tile_bytes")
        return min(rows, max(16, limit // (self.capability.padded_headdim(headdim) * itemsize))) if limit else rows

    @property
    def attention(self) -> Callable:
        """The stage's `attention(q, k, v, *, causal, softmax_scale, out, lse) -> (out, lse)`.

        Imported on first use. Raises StageUnavailable when what it needs is not installed.
        """
        try:
            module = importlib.import_module(self.entry_module)
        except ModuleNotFoundError as missing:
            package = (missing.name or "").partition(".")[0]
            if package in ("stages", "reference", "tools"):
                raise
            raise StageUnavailable(
                f"{self.name} needs the package {package!r}, which is not installed; `make doctor` says how to get it"
            ) from missing
        return module.attention


def discover() -> dict[str, Stage]:
    """Every stage by name, in order: one a folder `sNN_technique` with a `STAGE` in its `__init__.py`."""
    stages: dict[str, Stage] = {}
    for folder in sorted(STAGES_DIR.glob("s[0-9][0-9]_*")):
        if not (folder / "__init__.py").exists():  # what a removed stage leaves behind: only __pycache__
            continue
        stage = importlib.import_module(f"stages.{folder.name}").STAGE
        if stage.name != folder.name:
            raise ValueError(f"stages/{folder.name}: its record says {stage.name!r}; accepted: the folder's name")
        stages[stage.name] = stage
    for stage in stages.values():
        if stage.parent is not None and stage.parent not in stages:
            raise ValueError(f"{stage.name}: parent is {stage.parent!r}; accepted: {', '.join(stages)} or None")
    return stages
