"""What a launch reports: counters of every line, and what was found wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """One kind of instruction on one line of the source.

    op: "ldmatrix", "ldmatrix.trans", "mma", "cp.async", "ld.shared", "st.shared", "ld.global", "st.global",
        "atom.global", "shfl", "vote", "__syncwarp", "__syncthreads", "bar.sync" or "bar.arrive".
    instructions: how often a warp executed it; lanes: how often a lane did.
    passes, wavefronts: over shared memory, without and with its bank conflicts; ways: the most wavefronts of a pass.
    bytes, sectors, ideal_sectors: of global memory; a sector is 32 bytes.
    """

    op: str
    file: str
    line: int
    bytes_per_lane: int
    instructions: int
    lanes: int
    passes: int
    wavefronts: int
    ways: int
    bytes: int
    sectors: int
    ideal_sectors: int

    @property
    def conflicts(self) -> int:
        """Wavefronts that are there only because lanes wanted different words of one bank."""
        return self.wavefronts - self.passes


@dataclass(frozen=True)
class Pass:
    """What is served of an instruction over shared memory at once, or were it not for bank conflicts. lanes: whose."""

    lanes: tuple[int, ...]
    wavefronts: int


@dataclass(frozen=True)
class Trace:
    """One execution of an instruction over shared memory by one warp.

    addresses: of each of the 32 lanes, in bytes from the start of the block's shared memory; None: it took no part.
    """

    op: str
    file: str
    line: int
    block: tuple[int, int, int]
    warp: int
    bytes_per_lane: int
    addresses: tuple[int | None, ...]
    passes: tuple[Pass, ...]


@dataclass(frozen=True)
class Finding:
    """Something wrong with the kernel.

    kind: "race", "uninitialised", "unfinished copy", "out of bounds", "read-only", "misaligned", "deadlock",
          "divergence", "barrier", "operand", "hang", "stack overflow", "crash", "launch" or "limit".
    lines: of kernel.cu, that of the instruction to blame first; threads: their numbers in the block; count: how
    often the same was found.
    """

    kind: str
    message: str
    lines: tuple[int, ...]
    threads: tuple[int, ...]
    block: tuple[int, int, int]
    count: int

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" + (f" ({self.count} times)" if self.count > 1 else "")


@dataclass(frozen=True)
class Report:
    """One launch. kernel: its name; sites: in the order of their lines; seconds: that the process took;
    traces: as many as Settings.trace asked for."""

    kernel: str
    sites: tuple[Site, ...]
    findings: tuple[Finding, ...]
    switches: int
    seconds: float
    traces: tuple[Trace, ...] = ()

    def at(self, line: int) -> tuple[Site, ...]:
        """What is counted on one line of kernel.cu."""
        return tuple(site for site in self.sites if site.line == line)

    def total(self, counter: str, ops: str | Iterable[str] | None = None) -> int:
        """The sum of a counter over all lines, of instructions `ops` (None: of all)."""
        ops = (ops,) if isinstance(ops, str) else ops
        return sum(getattr(site, counter) for site in self.sites if ops is None or site.op in ops)

    def as_profiled(self) -> dict[str, int]:
        """The totals that a GPU's profiler would read for the launch, by the names of tools.profile.COUNTERS; after
        them those that it counts an instruction at a time: wavefronts and conflicts of ldmatrix and cp.async alone."""
        matrix, copy = ("ldmatrix", "ldmatrix.trans"), "cp.async"
        loads = (*matrix, "ld.shared")
        return {
            "shared_load_wavefronts": self.total("wavefronts", loads),
            "shared_load_conflicts": self.total("conflicts", loads),
            "shared_store_wavefronts": self.total("wavefronts", "st.shared"),
            "shared_store_conflicts": self.total("conflicts", "st.shared"),
            "global_load_sectors": self.total("sectors", ("ld.global", copy)),
            "global_store_sectors": self.total("sectors", "st.global"),
            "ldmatrix": self.total("instructions", matrix),
            "cp_async": self.total("instructions", copy),
            "ldmatrix_wavefronts": self.total("wavefronts", matrix),
            "ldmatrix_conflicts": self.total("conflicts", matrix),
            "cp_async_wavefronts": self.total("wavefronts", copy),
            "cp_async_conflicts": self.total("conflicts", copy),
        }

    @classmethod
    def from_json(cls, text: str, *, kernel: str, seconds: float, line_of) -> Report:
        """Read what the worker wrote. line_of(program counters): the first line of
        kernel.cu at one of them, or None."""
        data = json.loads(text)
        sites = [Site(file=s["source"][0], line=s["source"][1], **_without(s, "source")) for s in data["sites"]]
        sites.sort(key=lambda site: (site.file, site.line, site.op))
        findings = tuple(_finding(f, line_of) for f in data["findings"])
        traces = tuple(map(_trace, data["traces"]))
        return cls(kernel, tuple(sites), findings, data["switches"], seconds, traces)


def _without(record: dict, name: str) -> dict:
    return {key: value for key, value in record.items() if key != name}


def _trace(t: dict) -> Trace:
    passes = tuple(
        Pass(tuple(lane for lane in range(32) if mask >> lane & 1), wavefronts) for mask, wavefronts in t["passes"]
    )
    (file, line), block, addresses = t["source"], tuple(t["block"]), tuple(t["addresses"])
    return Trace(t["op"], file, line, block, t["warp"], t["bytes_per_lane"], addresses, passes)


def _finding(f: dict, line_of) -> Finding:
    lines = [line for _, line in f["sources"] if line]
    message = f["message"]
    if "program_counters" in f:  # a signal: they know better than the last instruction seen
        line = line_of(f["program_counters"])
        if line is not None:
            lines, message = [line], f"kernel.cu:{line}: {message}"
        elif lines:
            message = f"kernel.cu:{lines[0]} or after: {message}"
    return Finding(f["kind"], message, tuple(lines), tuple(f["threads"]), tuple(f["block"]), f["count"])


class KernelError(RuntimeError):
    """The emulator found something wrong. findings: all of it; report: of the launch, as far as it went."""

    def __init__(self, report: Report):
        self.report = report
        self.findings = report.findings
        super().__init__("\n".join(f"{report.kernel}: {finding}" for finding in report.findings))
