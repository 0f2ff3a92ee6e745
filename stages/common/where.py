"""Where a stage runs on this machine, and why not elsewhere.

| backend | with a CUDA GPU        | without                         |
| ------- | ---------------------- | ------------------------------- |
| numpy   | host                   | host                            |
| triton  | GPU, compiled          | host, Triton's interpreter      |
| cuda    | GPU, compiled by NVRTC | host, the emulator              |

On a GPU machine, too, TRITON_INTERPRET=1 in the environment sends the Triton stages to the interpreter, and
CUDA_EMULATE=1 the CUDA stages to the emulator.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass

from stages.common.record import Stage


@dataclass(frozen=True)
class Where:
    """kind: "host", "gpu", "interpreter", "emulator", or None when the stage cannot run here.
    reason: one clause, true on this machine; for None it says what is missing.
    """

    kind: str | None
    reason: str

    @property
    def device(self) -> str:
        """The torch device that the stage's tensors have to be on."""
        return "cuda" if self.kind == "gpu" else "cpu"

    def __bool__(self) -> bool:
        return self.kind is not None


_ENVIRONMENT: dict | None = getattr(os.environ, "_data", None)
_EMULATE = os.environ.encodekey("CUDA_EMULATE")


@functools.cache
def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@functools.cache
def gpu_arch() -> int | None:
    """The current CUDA GPU's compute capability as 10·major + minor; None without one."""
    if not installed("torch"):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


@functools.cache
def triton_version() -> tuple[int, int]:
    """(major, minor) of the installed Triton."""
    major, minor = importlib.metadata.version("triton").split(".")[:2]
    return int(major), int(minor)


def emulator_lacks() -> str | None:
    """What the emulator needs and this machine has not; None: it can run."""
    from tools.emulator.build import missing

    return missing()


def interpreting() -> bool:
    """Whether the Triton stages run in Triton's interpreter: asked for, or no GPU."""
    return os.environ.get("TRITON_INTERPRET", "") in ("1", "true", "on") or gpu_arch() is None


def where(stage: Stage, dtype: str | None = None) -> Where:
    """Where `stage` runs here, for inputs of `dtype` ("float16", ...; None: for some dtype that it takes)."""
    if dtype is not None and dtype not in stage.capability.dtypes:
        return Where(None, f"{stage.name} takes {', '.join(stage.capability.dtypes)}, not {dtype}")
    if not installed("torch"):
        return Where(None, "needs PyTorch, which is not installed")
    return _FIND[stage.capability.backend](stage, dtype)


def _where_numpy(stage: Stage, dtype: str | None) -> Where:
    return Where("host", "NumPy")


def _where_triton(stage: Stage, dtype: str | None) -> Where:
    if not installed("triton"):
        return Where(None, "needs Triton, which is not installed (it has builds for Linux only)")
    if triton_version() < stage.capability.min_triton:
        need, have = (".".join(map(str, v)) for v in (stage.capability.min_triton, triton_version()))
        return Where(None, f"needs Triton {need} or newer; {have} is installed")
    if interpreting():
        if dtype == "bfloat16":
            return Where(None, "Triton's interpreter computes bfloat16 products on raw bit patterns: wrong, so not run")
        return Where("interpreter", "Triton's interpreter, on the CPU")
    return _where_gpu(stage, dtype)


def _where_cuda(stage: Stage, dtype: str | None) -> Where:
    arch = gpu_arch()
    if arch is not None and arch >= stage.capability.min_arch and installed("cupy"):
        # Every call asks. What os.environ wraps says in a tenth of the time that nothing is set.
        is_set = _EMULATE in _ENVIRONMENT if _ENVIRONMENT is not None else "CUDA_EMULATE" in os.environ
        wanted = is_set and os.environ["CUDA_EMULATE"] in ("1", "true", "on")
        if not wanted or emulator_lacks() is not None:
            return _where_gpu(stage, dtype)
    lacking = emulator_lacks()
    if lacking is None:
        return Where("emulator", "the emulator, on the CPU")
    need = f"needs a CUDA GPU of compute capability {stage.capability.min_arch / 10} or newer"
    if arch is None:
        return Where(None, f"{need}, and no GPU was found; {lacking}")
    if arch < stage.capability.min_arch:
        return Where(None, f"{need}, and this one has {arch / 10}; {lacking}")
    return Where(None, f"needs CuPy, which is not installed; {lacking}")


def _where_gpu(stage: Stage, dtype: str | None) -> Where:
    arch = gpu_arch()
    if arch < stage.capability.min_arch:
        need = stage.capability.min_arch / 10
        return Where(None, f"needs compute capability {need} or newer; this GPU has {arch / 10}")
    if dtype == "bfloat16" and arch < 80:
        return Where(None, f"bfloat16 matrix products need compute capability 8.0 or newer; this GPU has {arch / 10}")
    return _ON_GPU


_ON_GPU = Where("gpu", "the GPU")  # one for all: `where` is part of every call
_FIND = {"numpy": _where_numpy, "triton": _where_triton, "cuda": _where_cuda}
