"""In which order the blocks of a CUDA stage start."""

from __future__ import annotations

import functools

import torch

from stages.common.contract import Call

L2_SHARE = 0.5  # of the L2 cache for K and V; Q, O and what is on its way out take the rest


@functools.cache
def _l2_bytes(index: int) -> int:
    return torch.cuda.get_device_properties(index).L2_cache_size


def heads_at_a_time(call: Call, l2_bytes: int | None = None) -> int:
    """How many query heads, of all batches, to work on at a time so that their K and V stay in the L2 cache.

    At least the heads that share one head of K and V, and a divisor of batch · nheads, so that all groups are alike.
    l2_bytes: the cache's size (None: the device's; in the emulator, 32 MiB).
    """
    if l2_bytes is None:
        l2_bytes = _l2_bytes(call.q.device.index) if call.where.kind == "gpu" else 32 << 20
    kv_bytes = 2 * call.seqlen_k * call.headdim * call.k.element_size()
    fit = max(1, int(L2_SHARE * l2_bytes / kv_bytes))
    total = call.batch * call.nheads_k
    return _largest_divisor(total, fit) * (call.nheads // call.nheads_k)


@functools.lru_cache(4096)
def _largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of n that is at most `limit`."""
    return next(divisor for divisor in range(min(limit, n), 0, -1) if n % divisor == 0)
