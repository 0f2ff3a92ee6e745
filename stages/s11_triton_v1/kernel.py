"""s11_triton_v1: FlashAttention in the order of the first paper, K/V tiles in the outer loop.

Dao et al., "FlashAttention" (2022), algorithm 1. One program a (batch, head); for each K/V tile it visits every
Q tile, and between two visits O_i, m_i and l_i live in global memory.
"""

import torch

from stages.common import interpreter  # noqa: F401  before Triton: without a GPU, kernels are interpreted
import triton
import triton.language as tl

from stages.common.contract import prepare
from stages.s11_triton_v1 import STAGE


@triton.jit
def attention_kernel(
    Q, K, V,  # [batch, seqlen, nheads, d], any strides but the last, which is 1
    Out,  # [batch, seqlen_q, nheads, d]
    Lse,  # [batch, nheads, seqlen_q]
    Acc,  # [batch, nheads, seqlen_q, d] fp32: O between two visits; rounded to 16 bits each time, it would drift
    M, L,  # [batch, nheads, seqlen_q] fp32: running maximum, running sum
    softmax_scale,
    nheads, nheads_k, seqlen_q, seqlen_k,
    q_batch, q_row, q_head,  # strides in elements
    k_batch, k_row, k_head,
    v_batch, v_row, v_head,
    o_batch, o_row, o_head,
    CAUSAL: tl.constexpr,
    d: tl.constexpr,
    Br: tl.constexpr,
    Bc: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // nheads).to(tl.int64)  # 64 bits: batch and head offsets pass 2³¹ elements first
    h = (tl.program_id(0) % nheads).to(tl.int64)
    h_k = h // (nheads // nheads_k)
    Q += b * q_batch + h * q_head
    K += b * k_batch + h_k * k_head
    V += b * v_batch + h_k * v_head
    Out += b * o_batch + h * o_head
    head = (b * nheads + h) * seqlen_q
    Lse += head
    M += head
    L += head
    Acc += head * d

    r = tl.arange(0, Br)
    c = tl.arange(0, Bc)
    x = tl.arange(0, d)
    shift = seqlen_k - seqlen_q  # key j is visible to query i iff j <= i + shift
    # input_precision="ieee" below: a float32 product would otherwise round its inputs to TF32, 10 bits, on the GPU.

    for j in range(0, seqlen_k, Bc):
        keys = j + c
        in_k = keys[:, None] < seqlen_k
        K_j = tl.load(K + keys[:, None].to(tl.int64) * k_row + x[None, :], mask=in_k, other=0.0)  # [Bc, d]
        V_j = tl.load(V + keys[:, None].to(tl.int64) * v_row + x[None, :], mask=in_k, other=0.0)  # [Bc, d]
        first_row = 0
        if CAUSAL:  # the first Q tile with a row that sees this tile's first key
            first_row = tl.maximum(j - shift, 0) // Br * Br
        # BEGIN SOLUTION inner_loop: for each Q tile load O, m, l, take this K/V tile into them, store them again
        for i in range(first_row, seqlen_q, Br):
            rows = i + r
            in_q = rows < seqlen_q
            q_offset = rows[:, None].to(tl.int64) * q_row + x[None, :]
            acc_offset = rows[:, None].to(tl.int64) * d + x[None, :]
            Q_i = tl.load(Q + q_offset, mask=in_q[:, None], other=0.0)  # [Br, d]
            O_i = tl.load(Acc + acc_offset, mask=in_q[:, None], other=0.0)  # [Br, d]
            m_i = tl.load(M + rows, mask=in_q, other=0.0)  # [Br]
            l_i = tl.load(L + rows, mask=in_q, other=0.0)  # [Br]

            S = tl.dot(Q_i, tl.trans(K_j), input_precision="ieee") * softmax_scale  # [Br, Bc]
            visible = keys[None, :] < seqlen_k
            if CAUSAL:
                visible = visible & (keys[None, :] <= rows[:, None] + shift)
            S = tl.where(visible, S, float("-inf"))

            m_new = tl.maximum(m_i, tl.max(S, axis=1))
            m_safe = tl.where(m_new == float("-inf"), 0.0, m_new)  # no key seen yet: -inf - -inf would be NaN
            P = tl.exp(S - m_safe[:, None])  # [Br, Bc]
            alpha = tl.exp(m_i - m_safe)
            l_new = alpha * l_i + tl.sum(P, axis=1)
            # The paper keeps O divided by l at all times: undo the old division, do the new one.
            l_safe = tl.where(l_new == 0.0, 1.0, l_new)
            O_i = O_i * (alpha * l_i / l_safe)[:, None]
            O_i += tl.dot(P.to(V_j.dtype), V_j, input_precision="ieee") / l_safe[:, None]

            tl.store(Acc + acc_offset, O_i, mask=in_q[:, None])
            tl.store(M + rows, m_new, mask=in_q)
            tl.store(L + rows, l_new, mask=in_q)
        # END SOLUTION
        # The next K/V tile loads what other threads of this program stored just now. Triton puts barriers between
        # threads that meet in shared memory, not in global memory: this one is ours to place.
        tl.debug_barrier()

    for i in range(0, seqlen_q, Br):
        rows = i + r
        in_q = rows < seqlen_q
        O_i = tl.load(Acc + rows[:, None].to(tl.int64) * d + x[None, :], mask=in_q[:, None], other=0.0)
        out_offset = rows[:, None].to(tl.int64) * o_row + x[None, :]
        tl.store(Out + out_offset, O_i.to(Out.dtype.element_ty), mask=in_q[:, None])
        m_i = tl.load(M + rows, mask=in_q, other=0.0)
        l_i = tl.load(L + rows, mask=in_q, other=1.0)
        l_i = tl.where(l_i == 0.0, 1.0, l_i)  # a row that saw no key: O is 0, L = -inf + log 1
        tl.store(Lse + rows, m_i + tl.log(l_i), mask=in_q)


def attention(q, k, v, *, causal=False, softmax_scale=None, out=None, lse=None):
    """The stage contract (stages/common/contract.py). Launches batch × nheads programs, however long the sequence."""
    call = prepare(STAGE, q, k, v, causal=causal, softmax_scale=softmax_scale, out=out, lse=lse)
    q, k, v, out, lse = call.q, call.k, call.v, call.out, call.lse
    tiles = STAGE.tiles
    rows = min(tiles["Br"], max(16, tiles["tile_bytes"] // (call.headdim * q.element_size())))
    acc = torch.zeros(*lse.shape, call.headdim, dtype=torch.float32, device=q.device)
    m = torch.full_like(lse, -torch.inf)
    l = torch.zeros_like(lse)
    with call.on_device():
        attention_kernel[(call.batch * call.nheads,)](
            q, k, v, out, lse, acc, m, l,
            call.softmax_scale,
            call.nheads, call.nheads_k, call.seqlen_q, call.seqlen_k,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            CAUSAL=call.causal, d=call.headdim, Br=rows, Bc=rows,
            num_warps=tiles["num_warps"], num_stages=tiles["num_stages"],
        )  # fmt: skip
    return call.finish()
