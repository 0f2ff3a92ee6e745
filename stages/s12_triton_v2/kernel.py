"""s12_triton_v2: FlashAttention in the order of the second paper, Q tiles outside and K/V tiles in the loop.

Dao, "FlashAttention-2" (2023), algorithm 1. One program a (Q tile, batch, head): O_i, m_i and l_i stay in its
registers, and O_i is divided by l_i once, at the end.
"""

from stages.common import interpreter  # noqa: F401  before Triton: without a GPU, kernels are interpreted
import triton
import triton.language as tl

from stages.common.contract import prepare
from stages.s12_triton_v2 import STAGE


@triton.jit
def attention_kernel(
    Q, K, V,  # [batch, seqlen, nheads, d], any strides but the last, which is 1
    Out,  # [batch, seqlen_q, nheads, d]
    Lse,  # [batch, nheads, seqlen_q]
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
    b = tl.program_id(2).to(tl.int64)  # 64 bits: batch and head offsets pass 2³¹ elements first
    h = tl.program_id(1).to(tl.int64)
    h_k = h // (nheads // nheads_k)
    Q += b * q_batch + h * q_head
    K += b * k_batch + h_k * k_head
    V += b * v_batch + h_k * v_head
    Out += b * o_batch + h * o_head
    Lse += (b * nheads + h) * seqlen_q

    r = tl.arange(0, Br)
    c = tl.arange(0, Bc)
    x = tl.arange(0, d)
    shift = seqlen_k - seqlen_q  # key j is visible to query i iff j <= i + shift
    # input_precision="ieee" below: a float32 product would otherwise round its inputs to TF32, 10 bits, on the GPU.

    i = tl.program_id(0) * Br
    rows = i + r
    in_q = rows < seqlen_q
    Q_i = tl.load(Q + rows[:, None].to(tl.int64) * q_row + x[None, :], mask=in_q[:, None], other=0.0)  # [Br, d]
    O_i = tl.zeros([Br, d], dtype=tl.float32)
    m_i = tl.full([Br], float("-inf"), dtype=tl.float32)
    l_i = tl.zeros([Br], dtype=tl.float32)

    last_key = seqlen_k
    if CAUSAL:  # one past the last key that the tile's last row sees
        last_key = tl.minimum(seqlen_k, i + Br + shift)
    # BEGIN SOLUTION key_loop: for each K/V tile: S, the new maximum, P; rescale what there is, add this tile's share
    for j in range(0, last_key, Bc):
        keys = j + c
        in_k = keys[:, None] < seqlen_k
        K_j = tl.load(K + keys[:, None].to(tl.int64) * k_row + x[None, :], mask=in_k, other=0.0)  # [Bc, d]
        V_j = tl.load(V + keys[:, None].to(tl.int64) * v_row + x[None, :], mask=in_k, other=0.0)  # [Bc, d]

        S = tl.dot(Q_i, tl.trans(K_j), input_precision="ieee") * softmax_scale  # [Br, Bc]
        visible = keys[None, :] < seqlen_k
        if CAUSAL:
            visible = visible & (keys[None, :] <= rows[:, None] + shift)
        S = tl.where(visible, S, float("-inf"))

        m_new = tl.maximum(m_i, tl.max(S, axis=1))
        m_safe = tl.where(m_new == float("-inf"), 0.0, m_new)  # no key seen yet: -inf - -inf would be NaN
        P = tl.exp(S - m_safe[:, None])  # [Br, Bc]
        alpha = tl.exp(m_i - m_safe)
        l_i = alpha * l_i + tl.sum(P, axis=1)
        O_i = O_i * alpha[:, None]
        O_i += tl.dot(P.to(V_j.dtype), V_j, input_precision="ieee")
        m_i = m_new
    # END SOLUTION

    l_i = tl.where(l_i == 0.0, 1.0, l_i)  # a row that saw no key: O = 0 / 1, L = -inf + log 1
    O_i = O_i / l_i[:, None]
    out_offset = rows[:, None].to(tl.int64) * o_row + x[None, :]
    tl.store(Out + out_offset, O_i.to(Out.dtype.element_ty), mask=in_q[:, None])
    tl.store(Lse + rows, m_i + tl.log(l_i), mask=in_q)


def attention(q, k, v, *, causal=False, softmax_scale=None, out=None, lse=None):
    """The stage contract (stages/common/contract.py). Launches a program for every Q tile of every batch and head."""
    call = prepare(STAGE, q, k, v, causal=causal, softmax_scale=softmax_scale, out=out, lse=lse)
    q, k, v, out, lse = call.q, call.k, call.v, call.out, call.lse
    tiles = STAGE.tiles
    rows = min(tiles["Br"], max(16, tiles["tile_bytes"] // (call.headdim * q.element_size())))
    with call.on_device():
        attention_kernel[(triton.cdiv(call.seqlen_q, rows), call.nheads, call.batch)](
            q, k, v, out, lse,
            call.softmax_scale,
            call.nheads, call.nheads_k, call.seqlen_q, call.seqlen_k,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            CAUSAL=call.causal, d=call.headdim, Br=rows, Bc=rows,
            num_warps=tiles["num_warps"], num_stages=tiles["num_stages"],
        )  # fmt: skip
    return call.finish()
