"""The launches by which the emulator's counters are compared with a GPU's: stages at small shapes, and kernels of one
kind of access each, in kernels/accesses.cu.

`case.prepare("cuda")` gives a function that launches the case on the GPU, `case.prepare("cpu")` one that launches the
same kernel with the same arguments in the emulator.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ACCESSES = Path(__file__).resolve().parent / "kernels" / "accesses.cu"


@dataclass(frozen=True)
class StageCase:
    """A stage at a shape. Its inputs are random: they decide no counter."""

    stage: str
    headdim: int
    seqlen_q: int
    seqlen_k: int
    batch: int = 1
    nheads: int = 2
    nheads_k: int = 2
    causal: bool = False
    dtype: str = "bfloat16"

    group = "stages"
    kernel = "attention_kernel"

    @property
    def name(self) -> str:
        """As in "s20, head dim 128, causal, 200 × 333, 4 heads of Q on 2 of K": what is usual is left out."""
        lengths = f"{self.seqlen_q}" if self.seqlen_q == self.seqlen_k else f"{self.seqlen_q} × {self.seqlen_k}"
        parts = [self.stage, f"head dim {self.headdim}", "causal" if self.causal else "", f"length {lengths}"]
        if self.nheads != self.nheads_k:
            parts.append(f"{self.nheads} heads of Q on {self.nheads_k} of K")
        return ", ".join(part for part in parts if part)

    def prepare(self, device: str) -> Callable[[], object]:
        import torch

        from stages import get

        attention = get(self.stage).attention
        generator = torch.Generator(device).manual_seed(0)

        def tensor(seqlen: int, nheads: int):
            shape = (self.batch, seqlen, nheads, self.headdim)
            return torch.randn(shape, generator=generator, device=device).to(getattr(torch, self.dtype))

        q = tensor(self.seqlen_q, self.nheads)
        k, v = tensor(self.seqlen_k, self.nheads_k), tensor(self.seqlen_k, self.nheads_k)
        return lambda: attention(q, k, v, causal=self.causal)


@dataclass(frozen=True)
class KernelCase:
    """A kernel of accesses.cu. arrays: of 4-byte words, (name, how many), the last of them for the result; numbers:
    int parameters, after the arrays. shared_bytes: of a block, dynamic."""

    name: str
    instantiation: str
    arrays: tuple[tuple[str, int], ...]
    numbers: tuple[int, ...] = ()
    grid: tuple[int, ...] = (1,)
    block: tuple[int, ...] = (32,)
    shared_bytes: int = 0

    group = "accesses"

    @property
    def kernel(self) -> str:
        return self.instantiation.partition("<")[0]

    def prepare(self, device: str) -> Callable[[], object]:
        import numpy as np
        import torch

        words = {name: torch.arange(count, dtype=torch.int32, device=device) for name, count in self.arrays}
        result = self.arrays[-1][0]
        numbers = [np.int32(number) for number in self.numbers]
        if device == "cpu":
            from tools.emulator import Array, launch

            parameters = [Array(name, tensor, writable=name == result) for name, tensor in words.items()] + numbers
            source = ACCESSES.read_text(encoding="utf-8")
            shape = {"grid": self.grid, "block": self.block, "shared_bytes": self.shared_bytes}
            return lambda: (launch(source, self.instantiation, parameters, **shape), words[result])[1]
        kernel = _compiled(self.instantiation, torch.cuda.current_device())
        parameters = (*(np.uint64(tensor.data_ptr()) for tensor in words.values()), *numbers)
        return lambda: (kernel(self.grid, self.block, parameters, shared_mem=self.shared_bytes), words[result])[1]


@functools.cache
def _compiled(instantiation: str, device: int):
    """With the stages' options."""
    import cupy

    from stages.common.cuda import COMPILE_OPTIONS, INCLUDE_DIR

    headers = hashlib.sha256((INCLUDE_DIR / "ptx.cuh").read_bytes()).hexdigest()  # CuPy's cache sees the source alone
    source = f"{ACCESSES.read_text(encoding='utf-8')}\n// headers {headers}\n"
    with cupy.cuda.Device(device):
        module = cupy.RawModule(code=source, options=COMPILE_OPTIONS, name_expressions=[instantiation])
        return module.get_function(instantiation)


Case = StageCase | KernelCase


def _stage_cases() -> list[StageCase]:
    return [
        StageCase(stage, **shape)
        for stage in ("s20", "s21")
        for shape in (
            {"headdim": 128, "seqlen_q": 256, "seqlen_k": 256},
            {"headdim": 128, "seqlen_q": 256, "seqlen_k": 256, "causal": True},
            {"headdim": 64, "seqlen_q": 512, "seqlen_k": 512},
            {"headdim": 64, "seqlen_q": 200, "seqlen_k": 333, "causal": True},
            {"headdim": 128, "seqlen_q": 200, "seqlen_k": 333, "nheads": 4},
        )
    ]


def _copies() -> list[KernelCase]:
    """128 threads; the strided ones leave every other element out."""
    made = []
    for element, size in (("u32", 4), ("Pair", 8), ("Chunk", 16)):
        for stride, first in ((1, 0), (1, 1), (2, 1)):
            words = (first + 128 * stride) * size // 4
            what = {(1, 0): "", (1, 1): ", one element late", (2, 1): ", every other element"}[stride, first]
            made.append(
                KernelCase(
                    name=f"copy of {size} bytes a lane{what}",
                    instantiation=f"strided_copy<{element}>",
                    arrays=(("X", words), ("Y", words)),
                    numbers=(stride, first),
                    grid=(2,),
                    block=(64,),
                )
            )
    return made


def _transposes() -> list[KernelCase]:
    return [
        KernelCase(
            name=f"transpose by 32×32 tiles, {what}",
            instantiation=f"tiled_transpose<{pitch}>",
            arrays=(("X", 64 * 96), ("Y", 96 * 64)),
            numbers=(64, 96),
            grid=(3, 2),
            block=(32, 8),
            shared_bytes=32 * pitch * 4,
        )
        for pitch, what in ((32, "not padded"), (33, "padded by a word"))
    ]


def _lanes() -> list[KernelCase]:
    return [
        KernelCase(
            name=f"shared memory, {size} bytes a lane, {pitch} apart",
            instantiation=f"pitched_lanes<{element}, {pitch}>",
            arrays=(("Y", 32),),
            shared_bytes=32 * pitch,
        )
        for element, size, pitches in (("u32", 4, (4, 8, 128)), ("Pair", 8, (8, 16)), ("Chunk", 16, (16, 32, 144)))
        for pitch in pitches
    ]


def _ldmatrix() -> list[KernelCase]:
    return [
        KernelCase(
            name=f"ldmatrix, rows {pitch} bytes apart",
            instantiation=f"pitched_ldmatrix<{pitch}>",
            arrays=(("Y", 64),),
            block=(64,),
            shared_bytes=64 * pitch,
        )
        for pitch in (128, 192, 160, 144)
    ] + [
        KernelCase(
            name=f"ldmatrix over and over, {'beside asynchronous copies' if copies else 'alone'}",
            instantiation=f"ldmatrix_beside_copies<{str(copies).lower()}>",
            arrays=(("X", 8 * 8192), ("Y", 8 * 128)),
            numbers=(512,),
            grid=(8,),
            block=(256,),
            shared_bytes=32 * 144 + 32768,
        )
        for copies in (False, True)
    ]


CASES: tuple[Case, ...] = (*_stage_cases(), *_copies(), *_transposes(), *_lanes(), *_ldmatrix())


def find(name: str) -> Case:
    """The case of that name. Raises KeyError saying what it was."""
    for case in CASES:
        if case.name == name:
            return case
    raise KeyError(f"case is {name!r}; accepted: those of tools/emulator/cases.py")


def described(case: Case) -> dict:
    """What a record says of its case."""
    fields = {key: value for key, value in asdict(case).items() if key != "name"}
    return {"case": case.name, "group": case.group, "kernel": case.kernel, "launch": fields}


@contextlib.contextmanager
def _emulating():
    """The CUDA stages run in the emulator, on a machine with a GPU too."""
    before = os.environ.get("CUDA_EMULATE")
    os.environ["CUDA_EMULATE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_EMULATE"]
        else:
            os.environ["CUDA_EMULATE"] = before


def emulated(case: Case, **settings) -> dict[str, int]:
    """What the emulator counts in one launch, by the names of the profiler's counters. settings: of `emulate`.

    Raises KernelError if it finds something wrong with the kernel.
    """
    from tools.emulator import emulate

    with _emulating(), emulate(**settings) as session:
        case.prepare("cpu")()
    return session.reports[-1].as_profiled()
