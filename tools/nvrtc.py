"""Compile a CUDA stage for a GPU that need not be there: NVRTC asks for neither a GPU nor a driver.

Machine code is kept in build/cubin, under a name made of everything that the compiler was given.
"""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from stages.common.record import STAGES_DIR, Stage

ROOT = STAGES_DIR.parent
CACHE_DIR = ROOT / "build" / "cubin"
ARCHES = ("80", "89", "90a")

# What CuPy adds to a RawModule's own options (cupy/cuda/compiler.py).
CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")


class CompileError(Exception):
    """The kernel does not compile. The message is the compiler's."""


@dataclass(frozen=True)
class Job:
    """What the compiler is given for one instantiation, as plain data: a job can go to another process.

    instantiation: "attention_kernel<bf16, 128, true>"; arch: "80", "89", "90a"; file: what messages call the source.
    """

    stage: str
    file: str
    source: str
    instantiation: str
    arch: str
    options: tuple[str, ...]

    @property
    def command(self) -> tuple[str, ...]:
        return (*self.options, f"-arch=sm_{self.arch}", "--ptxas-options=-v")

    def __str__(self) -> str:
        return f"{self.stage}, {self.instantiation}, sm_{self.arch}"


@dataclass(frozen=True)
class Compiled:
    """One instantiation: the machine code, and what the compiler said."""

    cubin: bytes
    log: str

    @property
    def registers(self) -> int:
        """A thread."""
        return self._number(r"Used (\d+) registers")

    @property
    def barriers(self) -> int:
        """Barriers of a block, named ones included."""
        return self._number(r"used (\d+) barriers", 0)

    @property
    def static_shared(self) -> int:
        """Bytes of shared memory a block, without those that the launch adds."""
        return self._number(r"(\d+) bytes smem", 0)

    @property
    def stack(self) -> int:
        """Bytes of local memory a thread: spills, and arrays that are indexed at run time."""
        return max((int(n) for n in re.findall(r"(\d+) bytes stack frame", self.log)), default=0)

    @property
    def spilled(self) -> int:
        """Bytes of the instructions that store registers to local memory and load them back."""
        return sum(int(n) for n in re.findall(r"(\d+) bytes spill", self.log))

    @property
    def warnings(self) -> list[str]:
        """The compiler's warnings, and what it calls a "Potential Performance Loss" without calling it a warning."""
        lines = (line.strip().replace(f"{ROOT}/", "") for line in self.log.splitlines())
        return [line for line in lines if re.search(r"\bwarning\b|Potential Performance Loss", line, re.IGNORECASE)]

    def _number(self, pattern: str, default: int | None = None) -> int:
        found = re.search(pattern, self.log)
        if found:
            return int(found[1])
        assert default is not None, self.log
        return default


def job(stage: Stage, instantiation: str, arch: str) -> Job:
    """With the options that NVRTC gets from CuPy when the stage is launched."""
    from stages.common.cuda import COMPILE_OPTIONS, source

    file = stage.kernel_file
    name = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)
    return Job(stage.name, name, source(stage), instantiation, arch, (*COMPILE_OPTIONS, *CUPY_OPTIONS))


def compile_for(stage: Stage, instantiation: str, arch: str) -> Compiled:
    """Compile `instantiation` ("attention_kernel<bf16, 128, true>") of a CUDA stage for `arch` ("80", "89", "90a").

    With the options that CuPy gives when it compiles the stage for a launch. Raises CompileError.
    """
    return run(job(stage, instantiation, arch))


def compiler_version() -> str:
    """NVRTC's, as exactly as there is a package that says it: "13.0.88", or "13.0"."""
    from cupy_backends.cuda.libs import nvrtc

    from tools.machine import version

    loaded = ".".join(map(str, nvrtc.getVersion()))
    package = version("nvrtc")
    return package if package and package.startswith(f"{loaded}.") else loaded


def run(job: Job) -> Compiled:
    """Do a job, or fetch what it gave before. Raises CompileError."""
    from cupy_backends.cuda.libs import nvrtc

    given = (job.source, job.file, job.instantiation, job.command, nvrtc.getVersion())
    stem = hashlib.sha256(repr(given).encode()).hexdigest()[:32]
    cubin, log = CACHE_DIR / f"{stem}.cubin", CACHE_DIR / f"{stem}.log"
    with suppress(OSError):
        return Compiled(cubin.read_bytes(), log.read_text(encoding="utf-8"))
    made = _compile(job)
    with suppress(OSError):  # somewhere that cannot be written to: compiled again next time
        from tools.results import write_bytes

        CACHE_DIR.mkdir(parents=True, exist_ok=True)
        write_bytes(log, made.log.encode())
        write_bytes(cubin, made.cubin)  # last: with it the entry is whole
    return made


def _compile(job: Job) -> Compiled:
    from cupy_backends.cuda.libs import nvrtc

    # With a driver, NVRTC keeps a cache of its own, and what comes from that comes without the assembler's report.
    command = (*job.command, "--no-cache") if nvrtc.getVersion() >= (13, 0) else job.command
    program = nvrtc.createProgram(job.source, job.file, (), ())
    try:
        nvrtc.addNameExpression(program, job.instantiation)
        try:
            nvrtc.compileProgram(program, command)
        except nvrtc.NVRTCError as error:
            raise CompileError(f"{job}: {nvrtc.getProgramLog(program)}") from error
        log = nvrtc.getProgramLog(program).rstrip("\0 \n")
        if "registers" not in log:
            raise CompileError(f"{job}: the compiler reported no registers: {log}")
        return Compiled(nvrtc.getCUBIN(program) + b"\0", log)  # CuPy drops the last byte, a zero
    finally:
        nvrtc.destroyProgram(program)


@contextmanager
def processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool to compile in: NVRTC compiles one at a time in each process. What has not begun at the end is dropped."""
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=signal.signal,  # Ctrl-C is the parent's to answer
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def in_processes(function, arguments, workers: int = 2):
    """function(argument) of each, in order, as soon as it is there."""
    arguments = list(arguments)
    if workers == 1 or len(arguments) < 2:
        yield from map(function, arguments)
        return
    with processes(min(workers, len(arguments))) as pool:
        yield from pool.map(function, arguments)


def source_hash(stage: Stage) -> str:
    """Of the kernel and of the headers that it includes, directly or not."""
    digest, seen = hashlib.sha256(), set()

    def add(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        digest.update(f"{path.name}\n{text}".encode())
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE):
            header = STAGES_DIR / "common" / name
            if name not in seen and header.exists():
                seen.add(name)
                add(header)

    add(stage.kernel_file)
    return digest.hexdigest()
