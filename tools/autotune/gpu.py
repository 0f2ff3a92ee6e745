"""What the search asks of a GPU: the throughput of configurations at one length, each checked against the reference."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from reference import Case, check
from stages.common import cuda
from stages.common.cuda import specialise
from stages.common.record import Stage
from stages.common.tiles import Tiles, use
from tools import nvrtc
from tools.autotune.prune import MEASURED
from tools.autotune.space import Dropped, Part
from tools.bench.devices import DeviceLost
from tools.bench.measure import Effort, measure
from tools.bench.shapes import WIDTH, grid_shape
from tools.results import is_timed


@dataclass(frozen=True)
class Configured:
    """A stage with its tiles chosen, as the benchmark measures stages."""

    stage: Stage
    tiles: Tiles

    @property
    def name(self) -> str:
        return self.tiles.argument

    def attention(self, *tensors, **options):
        with use(self.tiles):
            return self.stage.attention(*tensors, **options)


class ConfigurationLost(DeviceLost):
    """The GPU was lost to one configuration. tiles: that one, or None where nobody can tell."""

    def __init__(self, problem: str, tiles: Tiles | None) -> None:
        super().__init__(problem)
        self.tiles = tiles


def throughput(
    device, part: Part, seqlen: int, candidates: Sequence[Tiles], effort: Effort, progress: Callable[[str], None]
) -> dict[Tiles, float | str]:
    """TFLOP/s of each configuration on the bench grid, in MEASURED, or what went wrong. Samples are taken in turns,
    and each result is checked before and after. Raises ConfigurationLost."""
    shape = grid_shape(seqlen, part.headdim, part.causal)
    by_name = {tiles.argument: tiles for tiles in candidates}
    stages = [Configured(part.stage, tiles) for tiles in candidates]
    try:
        with specialise("now"):
            records = measure(shape, stages, (), device, getattr(torch, MEASURED), effort, progress)
    except DeviceLost as lost:
        culprit = next((tiles for name, tiles in by_name.items() if str(lost).startswith(f"{name}:")), None)
        raise ConfigurationLost(f"{part}, seqlen {seqlen}: {lost}", culprit) from None
    return {by_name[r["name"]]: r["tflops"] if is_timed(r) else r["error"] for r in records}


# Shorter and longer than the largest tiles, ragged, both ways.
LENGTHS = ((203, 333), (333, 203), (1, 70), (256, 256))


def unsound(part: Part, tiles: Tiles, check: Callable = check) -> Dropped | None:
    """What the reference says against a configuration in any instantiation that will run; None: nothing.

    Two cases have the strides of the bench grid, for which the kernel is specialised; the others any.
    """
    attention = Configured(part.stage, tiles).attention
    for dtype in part.stage.capability.dtypes:
        for when, heads in (("now", (WIDTH // part.headdim,) * 2), ("never", (4, 2))):
            for seqlen_q, seqlen_k in LENGTHS[:2] if when == "now" else LENGTHS:
                case = Case(
                    dtype, part.headdim, seqlen_q, seqlen_k, part.causal, nheads=heads[0], nheads_k=heads[1], batch=1
                )
                with specialise(when):
                    verdict = check(part.stage, case, attention=attention)
                if not verdict.ok:
                    return Dropped(tiles, "wrong", f"{case}: {verdict}")
    return None


@contextlib.contextmanager
def machine_code_of(arch: str) -> Iterator[None]:
    """Within, launches take the machine code that was compiled by tools.nvrtc, in many processes, where otherwise CuPy
    compiles in this one."""
    from cupy_backends.cuda.api import driver

    modules = []

    @functools.cache
    def load(stage: Stage, name: str, shared_bytes: int, device: int) -> int:
        made = nvrtc.compile_for(stage, name, arch)
        module = driver.moduleLoadData(made.cubin)  # into the current context: launch has chosen the device
        modules.append(module)
        function = driver.moduleGetFunction(module, symbol(made.cubin))
        driver.funcSetAttribute(function, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)
        return function

    by_cupy, cuda._kernel = cuda._kernel, load
    try:
        yield
    finally:
        cuda._kernel = by_cupy
        with contextlib.suppress(Exception):  # the GPU may be lost, and its modules with it
            torch.cuda.synchronize()
            for module in modules:
                driver.moduleUnload(module)


def symbol(cubin: bytes) -> str:
    """The name of the one kernel in a cubin, as its section says. Raises ValueError."""
    names = set(re.findall(rb"\.text\.(\w+)\0", cubin))
    if len(names) != 1:
        raise ValueError(f"cubin holds {len(names)} kernels; accepted: one")
    return names.pop().decode()
