"""What a CUDA kernel calls: asked of the linker's table, which no way of writing it can deceive.

In the emulator a kernel is C++ for the host, so the host's library would be at hand: to read a file, to write a report.
On a GPU there is none of it.
"""

from __future__ import annotations

import functools
import itertools
import shutil
import subprocess
import tempfile
from pathlib import Path

from stages import Stage
from tools.emulator.build import COMMON, CPP, STANDARD, compiler, missing

ELEMENTS = {"float16": "f16", "bfloat16": "bf16"}
EMULATOR = {
    "shuffle", "vote_ballot", "mma_m16n8k16", "ldmatrix", "cp_async", "cp_async_wait", "pack", "load_shared",
    "store_shared", "load_global", "store_global", "begin_atomic", "thread_index", "block_index", "block_size",
    "grid_size",
}  # fmt: skip
PTX = {"shared_address", "cp_async_commit", "ex2", "bar_sync", "bar_arrive"}
HOST = {"smem", "__syncthreads", "__syncwarp", "_GLOBAL_OFFSET_TABLE_", "memcpy", "memset", "memmove", "memcmp"}
COMPILERS_OWN = ("__stack_chk_fail", "__cxa_guard", "__gxx_personality", "_Unwind_Resume", "TLS ")
MATHS = {
    "exp", "exp2", "expm1", "exp10", "log", "log2", "log10", "log1p", "sqrt", "cbrt", "pow", "fmax", "fmin", "fabs",
    "fma", "fmod", "floor", "ceil", "round", "rint", "nearbyint", "trunc", "ldexp", "copysign", "tanh", "erf", "sin",
    "cos", "abs", "frexp", "scalbn", "lrint", "lround", "hypot",
}  # fmt: skip


@functools.lru_cache(maxsize=64)
def foreign(stage: Stage, source: str) -> tuple[str, ...]:
    """What `source`, as the stage's kernel, calls that is neither its own nor the course's nor mathematics.

    Empty where there is no compiler to say so, and for what does not compile: running it says that better.
    """
    if missing() or not shutil.which("nm"):
        return ()
    kinds = itertools.product(stage.capability.dtypes, stage.capability.headdims, ("false", "true"))
    names = set()
    for dtype, headdim, causal in kinds:
        kernel = f"attention_kernel<{ELEMENTS[dtype]}, {headdim}, {causal}>"
        names.update(_undefined(f"{source}\nEMULATOR_KERNEL({kernel})\n"))
    return tuple(sorted(name for name in names if not _known(name)))


def _undefined(unit: str) -> set[str]:
    """The names, without arguments, that an object file of `unit` leaves to be linked."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernel.cu").write_text(unit, encoding="utf-8")
        options = (*STANDARD, "-O0", "-w", f"-I{COMMON}", f"-I{CPP}", "-x", "c++", "-c", "kernel.cu", "-o", "kernel.o")
        run = subprocess.run([*compiler(), *options], cwd=folder, capture_output=True, check=False)
        if run.returncode:
            return set()
        said = subprocess.run(["nm", "-u", "-C", "kernel.o"], cwd=folder, capture_output=True, text=True, check=False)
    return {line.partition("U ")[2].partition("(")[0] for line in said.stdout.splitlines() if "U " in line}


def _known(name: str) -> bool:
    space, _, last = name.rpartition("::")
    if space:
        return last in {"emulator": EMULATOR, "ptx": PTX}.get(space, ())
    maths = name.removesuffix("f") in MATHS or name in MATHS
    return name in HOST or maths or name.startswith(COMPILERS_OWN)
