"""Tile configurations of the CUDA stages that take them as template arguments: what is legal, and which is used.

A configuration is chosen for a device once, by tools.autotune, and kept as data in docs/results/autotune; a device
without an entry gets the stage's default. The emulator and the views of the source use the default as well.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.common.contract import Call
from stages.common.record import STAGES_DIR, Stage

TABLES = STAGES_DIR.parent / "docs" / "results" / "autotune"

REGISTERS = 65536  # of a multiprocessor, 32 bits each (CUDA C++ Programming Guide, "Compute Capabilities")
MAX_REGISTERS = 255  # of a thread
SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10}  # a block may have, by compute capability


@dataclass(frozen=True)
class Tiles:
    """Br, Bc: rows of a Q tile and of a K/V tile. num_warps: of a block; each owns Br / num_warps rows of Q.
    buffers: K/V tiles in shared memory. q_in_registers: Q's fragments are loaded once, not once a K/V tile.
    blocks: for how many blocks a multiprocessor the compiler has to leave registers.
    """

    Br: int
    Bc: int
    num_warps: int
    buffers: int
    q_in_registers: bool
    blocks: int

    @functools.cached_property
    def argument(self) -> str:
        """As a template argument of the kernel."""
        fields = (self.Br, self.Bc, self.num_warps, self.buffers, str(self.q_in_registers).lower(), self.blocks)
        return f"Tiles<{', '.join(map(str, fields))}>"

    @property
    def threads(self) -> int:
        return 32 * self.num_warps

    def shared_bytes(self, headdim: int) -> int:
        """A block's dynamic shared memory: a tile of Q and `buffers` tiles each of K and V, 2 bytes an element."""
        return (self.Br + 2 * self.buffers * self.Bc) * headdim * 2

    def registers(self, headdim: int) -> int:
        """A thread's registers that hold O, S, Q's fragments, m and l: a lower bound on what the compiler needs."""
        rows = self.Br // self.num_warps
        fragments = headdim if self.q_in_registers else 16
        return rows * (headdim + self.Bc) // 32 + rows * fragments // 64 + rows // 4

    def why_not(self, headdim: int, arch: int = 80) -> str | None:
        """Why this cannot run at `headdim` on compute capability `arch` (10·major + minor); None: it can."""
        found = self.obstacle(headdim, arch)
        return found and found[1]

    def obstacle(self, headdim: int, arch: int = 80) -> tuple[str, str] | None:
        """What `why_not` finds, with its kind before it: "warps", "mma", "copies", "buffers", "shared memory" or
        "registers"."""
        step = self.threads * 8 // headdim  # rows that the block copies at a time
        shared = SHARED_BYTES.get(arch, min(SHARED_BYTES.values()))
        own, needed = self.shared_bytes(headdim), self.registers(headdim)
        allowed = min(MAX_REGISTERS, REGISTERS // (self.threads * self.blocks) // 8 * 8)
        if self.Br % (16 * self.num_warps):
            return "warps", f"{self.Br} rows of Q are not shared evenly by {self.num_warps} warps in m-tiles of 16"
        if self.Bc % 16:
            return "mma", f"{self.Bc} keys are not a multiple of 16, the depth of an mma"
        if step % 8 or self.Br % step or self.Bc % step:
            text = f"{self.threads} threads copy {step} rows at a time, which does not divide the tiles, or the swizzle"
            return "copies", text
        if self.buffers < 2:
            return "buffers", "one buffer: the next tile would be copied onto the one that is worked on"
        if own > shared:
            return "shared memory", f"{own:,} bytes of shared memory; a block may have {shared:,}"
        if self.blocks * (own + 1024) > shared + 1024:  # the system takes 1 KiB a block
            text = f"{self.blocks} blocks take more shared memory than the {shared + 1024:,} bytes of a multiprocessor"
            return "shared memory", text
        if needed >= allowed:
            return "registers", f"O, S and Q alone take {needed} registers a thread; {allowed} are there"
        return None

    def resident(self, headdim: int, registers: int, arch: int = 80) -> int:
        """How many blocks a multiprocessor holds at once if a thread takes `registers`."""
        shared = SHARED_BYTES.get(arch, min(SHARED_BYTES.values())) + 1024
        by_registers = REGISTERS // (-(-registers // 8) * 8 * self.threads)
        return min(by_registers, shared // (self.shared_bytes(headdim) + 1024))


_forced: contextvars.ContextVar[Tiles | None] = contextvars.ContextVar("tiles", default=None)


@contextlib.contextmanager
def use(tiles: Tiles):
    """Within, every stage that takes its tiles as an argument takes these."""
    token = _forced.set(tiles)
    try:
        yield tiles
    finally:
        _forced.reset(token)


def chosen(stage: Stage, call: Call, default: Tiles) -> Tiles:
    """The configuration for a call: the one that `use` asks for, or the one recorded for the GPU, or `default`."""
    forced = _forced.get()
    if forced is not None:
        return forced
    if call.where.kind != "gpu":
        return default
    return _table(_device_name(call.q.device.index)).get((stage.name, call.headdim, call.causal), default)


@functools.cache
def _device_name(index: int) -> str:
    return torch.cuda.get_device_name(index)


@functools.cache
def _table(device: str) -> dict[tuple[str, int, bool], Tiles]:
    path = table_file(device)
    if not path.exists():
        return {}
    entries = json.loads(path.read_text(encoding="utf-8"))["chosen"]
    return {(e["stage"], e["headdim"], e["causal"]): Tiles(**e["tiles"]) for e in entries}


def table_file(device: str) -> Path:
    """Where the choice for a device is kept: "NVIDIA H200" in docs/results/autotune/nvidia-h200.json."""
    return TABLES / f"{'-'.join(device.lower().split())}.json"
