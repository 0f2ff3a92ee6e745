"""What attention is, in float64 and plain tensor operations; and how well plain PyTorch does in a given dtype."""

from __future__ import annotations

import torch

CHUNK_BYTES = 1 << 28  # of scores held at a time, so that 16k × 16k fits


def oracle(q, k, v, *, causal=False, softmax_scale=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in float64, a chunk of queries at a time.

    q [batch, seqlen_q, nheads, headdim]; k, v [batch, seqlen_k, nheads_k, headdim], any float dtype, one device
    -> out [batch, seqlen_q, nheads, headdim], lse [batch, nheads, seqlen_q], both float64 on that device.
    Causal is aligned bottom-right; a row that sees no key gives out 0 and lse -inf.
    """
    scale = q.shape[3] ** -0.5 if softmax_scale is None else softmax_scale
    batch, seqlen_q, nheads, _ = q.shape
    out = torch.empty(q.shape, dtype=torch.float64, device=q.device)
    lse = torch.empty(batch, nheads, seqlen_q, dtype=torch.float64, device=q.device)
    for b, h, rows in _chunks(q, k, bytes_per_score=8):
        K, V = (_kv_head(t, b, h, nheads).double() for t in (k, v))
        S = scale * (q[b, rows, h].double() @ K.T)
        if causal:
            S.masked_fill_(_future(rows, seqlen_q, k.shape[1], q.device), -torch.inf)
        m = S.amax(dim=1, keepdim=True)
        m.masked_fill_(m == -torch.inf, 0)
        P = S.sub_(m).exp_()
        total = P.sum(dim=1, keepdim=True)
        out[b, rows, h] = (P @ V) / total.masked_fill(total == 0, 1)
        lse[b, h, rows] = (m + total.log())[:, 0]
    return out, lse


def plain(q, k, v, *, causal=False, softmax_scale=None) -> torch.Tensor:
    """Plain PyTorch attention in the inputs' own dtype -> out, the yardstick for the error a kernel may make.

    P and O are rounded to the dtype, as any kernel has to round them for its second matrix product and its result. S
    is not: no kernel here rounds S to 16 bits, and a yardstick that does is off by whole units where logits are
    large, so it would pass almost anything there. Shapes as in `oracle`; out has the inputs' dtype.
    """
    scale = q.shape[3] ** -0.5 if softmax_scale is None else softmax_scale
    nheads, dtype = q.shape[2], q.dtype
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for b, h, rows in _chunks(q, k, bytes_per_score=4):
        K, V = (_kv_head(t, b, h, nheads) for t in (k, v))
        S = scale * (q[b, rows, h].to(compute) @ K.to(compute).T)
        if causal:
            S.masked_fill_(_future(rows, q.shape[1], k.shape[1], q.device), -torch.inf)
        P = torch.softmax(S, dim=1).nan_to_num_(nan=0.0).to(dtype)
        out[b, rows, h] = (P.to(compute) @ V.to(compute)).to(dtype)
    return out


def _chunks(q, k, bytes_per_score: int):
    """(batch, head, slice of query rows), each small enough that its scores stay under CHUNK_BYTES."""
    rows = max(1, CHUNK_BYTES // (bytes_per_score * k.shape[1]))
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            for start in range(0, q.shape[1], rows):
                yield b, h, slice(start, min(start + rows, q.shape[1]))


def _kv_head(t, b: int, h: int, nheads: int):
    return t[b, :, h // (nheads // t.shape[2])]


def _future(rows: slice, seqlen_q: int, seqlen_k: int, device) -> torch.Tensor:
    """[rows, seqlen_k], True where key j lies in the future of query i: j > i + seqlen_k - seqlen_q."""
    i = torch.arange(rows.start, rows.stop, device=device)[:, None]
    j = torch.arange(seqlen_k, device=device)[None, :]
    return j > i + seqlen_k - seqlen_q
