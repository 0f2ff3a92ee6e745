"""Theoretical occupancy: how many blocks of a kernel a multiprocessor holds, and what stops it from holding more.

Limits of an architecture are those of the CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"
(threads, blocks, registers, shared memory). How they are handed out is in cuda_occupancy.h of the CUDA toolkit:
registers to a warp in units of 256, from four partitions; shared memory to a block in units of 128 bytes, after 1 KiB
that the system keeps for each block (since sm_80); barriers, counted from sm_90 on, two for each block that may
be resident.
"""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32
PARTITIONS = 4
REGISTER_UNIT = 256  # registers, to a warp
SHARED_UNIT = 128  # bytes, to a block
RESERVED_SHARED = 1024  # bytes a block
MAX_REGISTERS = 255  # a thread


@dataclass(frozen=True)
class Limits:
    """What a multiprocessor has. shared: bytes; shared_block: the most that a block gets, the reserved KiB apart."""

    warps: int
    blocks: int
    registers: int
    shared: int
    shared_block: int
    barriers: int | None  # None: not counted


LIMITS = {
    "80": Limits(warps=64, blocks=32, registers=65536, shared=164 * 1024, shared_block=163 * 1024, barriers=None),
    "89": Limits(warps=48, blocks=24, registers=65536, shared=100 * 1024, shared_block=99 * 1024, barriers=None),
    "90a": Limits(warps=64, blocks=32, registers=65536, shared=228 * 1024, shared_block=227 * 1024, barriers=64),
}


@dataclass(frozen=True)
class Occupancy:
    """blocks, warps: resident on a multiprocessor. limited_by: the resources that run out first ("registers", "shared
    memory", "threads", "blocks", "barriers"); fraction: of the warps that it can hold."""

    blocks: int
    warps: int
    fraction: float
    limited_by: tuple[str, ...]


def occupancy(arch: str, *, registers: int, shared: int, threads: int, barriers: int = 1) -> Occupancy:
    """Of a kernel with `registers` a thread; `shared` bytes (static and dynamic), `threads` and `barriers` a block.

    0 blocks: the kernel cannot be launched on `arch`, for the reasons in limited_by.
    """
    if arch not in LIMITS:
        raise ValueError(f"arch is {arch!r}; accepted: {', '.join(LIMITS)}")
    if threads < 1:
        raise ValueError(f"threads is {threads}; accepted: 1 or more")
    limits = LIMITS[arch]
    warps = -(-threads // WARP)
    fits = {
        "registers": _by_registers(limits, registers, warps),
        "shared memory": _by_shared(limits, shared),
        "threads": limits.warps // warps if threads <= 1024 else 0,
        "blocks": limits.blocks,
    }
    if limits.barriers and barriers:
        fits["barriers"] = limits.barriers // barriers
    blocks = min(fits.values())
    limited_by = tuple(resource for resource, count in fits.items() if count == blocks)
    return Occupancy(blocks, blocks * warps, blocks * warps / limits.warps, limited_by)


def _by_registers(limits: Limits, registers: int, warps: int) -> int:
    if registers == 0:
        return limits.blocks
    a_warp = _round_up(registers * WARP, REGISTER_UNIT)
    if registers > MAX_REGISTERS or a_warp * _round_up(warps, PARTITIONS) > limits.registers:
        return 0
    return limits.registers // PARTITIONS // a_warp * PARTITIONS // warps


def _by_shared(limits: Limits, shared: int) -> int:
    if shared > limits.shared_block:
        return 0
    return limits.shared // _round_up(shared + RESERVED_SHARED, SHARED_UNIT)


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
