"""One launch: the arguments' memory is shared with a process that carries it out, and that may crash or hang."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from tools.emulator.build import addr2line, compiler, executable, runner
from tools.emulator.report import Finding, KernelError, Report
from tools.emulator.session import Settings, current

LARGE_BYTES = 1 << 30  # an argument that extends over more is copied to and fro element by element
ALIGNMENT = 256  # of what the GPU's allocators return: the place of a tensor relative to it decides its sectors


@dataclass(frozen=True)
class Array:
    """A kernel parameter that points to a torch tensor's or NumPy array's first element.

    The kernel may read what lies between its first and its last element, and write there if `writable`.
    """

    name: str
    tensor: torch.Tensor | np.ndarray
    writable: bool = False

    def extent(self) -> tuple[int, int, int]:
        """(address, bytes, bytes from an allocation's start to the address, modulo ALIGNMENT)."""
        t = self.tensor
        if isinstance(t, np.ndarray):
            t = torch.from_numpy(t.view(np.uint16) if t.dtype == np.uint16 else t)
        if t.device.type != "cpu":
            raise ValueError(f"{self.name} is on {t.device}; accepted: cpu")
        last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride()))
        offset = t.storage_offset() * t.element_size() + t.untyped_storage().data_ptr() % 16
        return t.data_ptr(), (last + 1) * t.element_size(), offset % ALIGNMENT


@dataclass(frozen=True)
class Struct:
    """A kernel parameter that is a struct: its bytes, and at which of them the addresses of which arrays belong."""

    packed: bytes
    pointers: Mapping[int, Array] = field(default_factory=dict)


def launch(
    source: str,
    kernel: str,
    parameters: Sequence,
    *,
    grid: Sequence[int],
    block: int | Sequence[int],
    shared_bytes: int = 0,
    defines: tuple[str, ...] = (),
) -> Report:
    """Run `kernel` of the CUDA source text `source` with `parameters`: Array, Struct, ctypes or NumPy scalars.

    Writable arrays are changed in place; the report is also left in the current session.
    Raises CompileError for a kernel that does not compile, KernelError for one with findings.
    """
    session = current()
    program = executable(source, kernel, defines)
    arrays: list[Array] = []
    lines = [
        f"grid {_three(grid)}",
        f"block {_three([block] if isinstance(block, int) else block)}",
        f"shared {shared_bytes}",
        *_settings_lines(session.settings),
    ]
    for i, parameter in enumerate(parameters):
        packed, pointers = _packed(parameter)
        lines.append(f"parameter {packed.hex()}")
        for offset, array in pointers.items():
            lines.append(f"pointer {i} {offset} {len(arrays)}")
            arrays.append(array)
    with _shared_file() as memory, _shared_file() as report_file:
        extents, total = [], 0
        for array in arrays:
            address, size, skip = array.extent()
            extents.append((address, size, total + skip))
            lines.append(f"array {array.name} {total} {skip} {size} {int(array.writable)}")
            total += -(-(skip + size) // mmap.PAGESIZE) * mmap.PAGESIZE
        with _mapped(memory, total) as base:
            for array, (address, size, offset) in zip(arrays, extents):
                _copy(array, base + offset, address, size)
            start = time.perf_counter()
            ended, stderr = _run(program, memory, report_file, "\n".join(lines) + "\n", session.settings.limit_s)
            seconds = time.perf_counter() - start
            for array, (address, size, offset) in zip(arrays, extents):
                if array.writable:
                    _copy(array, address, base + offset, size)
        os.lseek(report_file, 0, os.SEEK_SET)
        text = b""
        while piece := os.read(report_file, 1 << 20):
            text += piece
    if text:
        report = Report.from_json(
            text.decode(), kernel=kernel, seconds=seconds, line_of=lambda counters: _line_of(program, counters)
        )
    else:
        finding = Finding("crash", f"{ended}. {stderr}".strip(), (), (), (0, 0, 0), 1)
        report = Report(kernel, (), (finding,), 0, seconds)
    session.reports.append(report)
    if report.findings and session.raises:
        raise KernelError(report)
    return report


def _copy(array: Array, to: int, source: int, size: int) -> None:
    """Copy what `array` extends over, `size` bytes, from one address to another.

    Past LARGE_BYTES only its elements, so that a few of them, far apart, take no memory for what lies between; what a
    kernel writes there is then lost.
    """
    if size <= LARGE_BYTES:
        ctypes.memmove(to, source, size)
        return
    t = array.tensor if isinstance(array.tensor, torch.Tensor) else torch.from_numpy(array.tensor)
    item = t.element_size()
    strides = [stride * item for stride in t.stride()]
    of, at = (
        np.ndarray(tuple(t.shape), f"V{item}", (ctypes.c_char * size).from_address(address), strides=strides)
        for address in (source, to)
    )
    np.copyto(at, of)


def _three(numbers: Sequence[int]) -> str:
    return " ".join(str(n) for n in (*numbers, 1, 1)[:3])


def _settings_lines(settings: Settings) -> list[str]:
    return [
        f"early {int(settings.asynchronous == 'early')}",
        f"schedule {settings.schedule}",
        f"seed {settings.seed}",
        f"races {int(settings.races)}",
        f"counters {int(settings.counters)}",
        f"trace {settings.trace}",
        f"limit {settings.limit_s}",
    ]


def _packed(parameter) -> tuple[bytes, Mapping[int, Array]]:
    if isinstance(parameter, Array):
        return bytes(8), {0: parameter}
    if isinstance(parameter, Struct):
        return parameter.packed, parameter.pointers
    if isinstance(parameter, np.generic):
        return parameter.tobytes(), {}
    if isinstance(parameter, ctypes._SimpleCData):
        return bytes(parameter), {}
    raise TypeError(f"a kernel parameter is {parameter!r}; accepted: Array, Struct, a NumPy or ctypes scalar")


@contextlib.contextmanager
def _shared_file():
    """The descriptor of a file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("emulator")
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryFile() as file:
            yield file.fileno()


@contextlib.contextmanager
def _mapped(descriptor: int, size: int):
    """The address at which `size` bytes of a file are mapped here."""
    if not size:
        yield 0
        return
    os.ftruncate(descriptor, size)
    with mmap.mmap(descriptor, size) as memory:
        view = ctypes.c_char.from_buffer(memory)
        try:
            yield ctypes.addressof(view)
        finally:
            del view  # or the mapping cannot be closed


def _run(program: Path, memory: int, report: int, request: str, limit_s: float) -> tuple[str, str]:
    """Run the worker; how it ended, in words, and what it said on standard error.

    It limits its own CPU time; should it be stuck where it cannot notice, it is killed from here.
    """
    wall_s = 10 * limit_s + 30
    try:
        run = subprocess.run(
            [*runner(compiler()), str(program), str(memory), str(report)],
            input=request.encode(),
            stderr=subprocess.PIPE,
            pass_fds=(memory, report),
            timeout=wall_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the kernel did not end within {wall_s:g} s", ""
    how = f"signal {-run.returncode}" if run.returncode < 0 else f"exit code {run.returncode}"
    return f"the kernel's process ended with {how} and no report", run.stderr.decode(errors="replace")[-2000:]


def _line_of(program: Path, counters: list[int]) -> int | None:
    """The first line of kernel.cu that is at one of the program counters; None: all are elsewhere, or there is no
    addr2line (of binutils or LLVM) to ask."""
    tool = addr2line(compiler())
    if not tool:
        return None
    command = [tool, "-e", str(program), *map(hex, counters)]
    for answer in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        file, _, line = answer.partition(" ")[0].rpartition(":")
        if Path(file).name == "kernel.cu" and line.isdigit():
            return int(line)
    return None
