"""s13_triton_tuned: s12 with what a tuned Triton kernel adds.

1. exp2 instead of exp, with log2(e) folded into the scale: one multiply-add and one hardware exponential an element.
2. The K/V tiles that every row sees go through a loop without masks; only the diagonal and the ragged end have one.
3. Tiles are fetched by tensor descriptors: the copy engine of Hopper computes addresses and bounds, no thread does.
4. Under a causal mask the programs with the most K/V tiles start first, so that none is left over at the end.
5. Tile shape, warps and pipeline depth are tried on the GPU at hand, once for each kind of call.

Dao, "FlashAttention-2" (2023), sections 3.1 and 3.2; for the copy engine Shah et al., "FlashAttention-3" (2024),
section 2.2.
"""

from stages.common import interpreter  # before Triton: without a GPU, kernels are interpreted
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from stages.common.contract import prepare
from stages.s13_triton_tuned import STAGE

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def attend(
    O_i, m_i, l_i,  # [Br, d], [Br], [Br] fp32: the running result; m in units of log2
    Q_i,  # [Br, d]
    K, V,  # descriptors [batch, seqlen_k, nheads_k, d], blocks [1, Bc, 1, d]
    b, h_k, rows, first_key, last_key, seqlen_k, shift,
    scale_log2,
    MASKED: tl.constexpr,
    CAUSAL: tl.constexpr,
    d: tl.constexpr,
    Bc: tl.constexpr,
):  # fmt: skip
    """Take the K/V tiles of keys [first_key, last_key) into the running result of a Q tile."""
    # BEGIN SOLUTION attend: exp2(S·scale_log2 - m), and a mask only where MASKED: -inf - -inf meets you only there
    for j in tl.range(first_key, last_key, Bc):
        K_j = K.load([b, j, h_k, 0]).reshape(Bc, d)
        S = tl.dot(Q_i, K_j.T, input_precision="ieee")  # [Br, Bc], not yet scaled
        if MASKED:
            keys = j + tl.arange(0, Bc)
            visible = keys[None, :] < seqlen_k
            if CAUSAL:
                visible = visible & (keys[None, :] <= rows[:, None] + shift)
            S = tl.where(visible, S, float("-inf"))
        m_new = tl.maximum(m_i, tl.max(S, axis=1) * scale_log2)  # the scale is positive: max commutes with it
        m_safe = m_new
        if MASKED:
            m_safe = tl.where(m_new == float("-inf"), 0.0, m_new)  # no key seen yet: -inf - -inf would be NaN
        P = tl.exp2(S * scale_log2 - m_safe[:, None])
        alpha = tl.exp2(m_i - m_safe)
        l_i = alpha * l_i + tl.sum(P, axis=1)
        O_i = O_i * alpha[:, None]
        V_j = V.load([b, j, h_k, 0]).reshape(Bc, d)
        O_i = tl.dot(P.to(V_j.dtype), V_j, O_i, input_precision="ieee")
        m_i = m_new
    # END SOLUTION
    return O_i, m_i, l_i


@triton.jit
def attention_kernel(
    Q, K, V, Out,  # descriptors [batch, seqlen, nheads, d], blocks [1, Br, 1, d] and [1, Bc, 1, d]
    Lse,  # [batch, nheads, seqlen_q]
    softmax_scale,
    nheads, nheads_k, seqlen_q, seqlen_k,
    EVEN: tl.constexpr,  # seqlen_k is a multiple of every Bc
    CAUSAL: tl.constexpr,
    DTYPE: tl.constexpr,
    d: tl.constexpr,
    Br: tl.constexpr,
    Bc: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(2)
    h = tl.program_id(1)
    h_k = h // (nheads // nheads_k)
    i = tl.program_id(0) * Br
    if CAUSAL:  # the last Q tile sees the most keys: it starts first
        i = (tl.num_programs(0) - 1) * Br - i
    rows = i + tl.arange(0, Br)
    shift = seqlen_k - seqlen_q  # key j is visible to query i iff j <= i + shift
    scale_log2 = softmax_scale * LOG2_E

    Q_i = Q.load([b, i, h, 0]).reshape(Br, d)
    O_i = tl.zeros([Br, d], dtype=tl.float32)
    m_i = tl.full([Br], float("-inf"), dtype=tl.float32)
    l_i = tl.zeros([Br], dtype=tl.float32)

    last_key = seqlen_k  # one past the last key that some row of the tile sees
    full = seqlen_k  # one past the last key that all its rows see, down to a whole number of tiles
    if CAUSAL:
        last_key = tl.minimum(seqlen_k, i + Br + shift)
        full = tl.maximum(tl.minimum(seqlen_k, i + 1 + shift), 0)
    full = full // Bc * Bc
    O_i, m_i, l_i = attend(
        O_i, m_i, l_i, Q_i, K, V, b, h_k, rows, 0, full, seqlen_k, shift, scale_log2, False, CAUSAL, d, Bc
    )
    # Where no tile needs a mask the second loop is left out. Not where Bc equals d: the first loop by itself is then
    # miscompiled by Triton 3.6 for sm_90 (every output wrong; its intermediate code is the same).
    if CAUSAL or not EVEN or Bc == d:
        O_i, m_i, l_i = attend(
            O_i, m_i, l_i, Q_i, K, V, b, h_k, rows, full, last_key, seqlen_k, shift, scale_log2, True, CAUSAL, d, Bc
        )

    l_i = tl.where(l_i == 0.0, 1.0, l_i)  # a row that saw no key: O = 0 / 1, L = -inf + log 1
    Out.store([b, i, h, 0], (O_i / l_i[:, None]).to(DTYPE).reshape(1, Br, 1, d))
    L_i = (m_i + tl.log2(l_i)) / LOG2_E
    tl.store(Lse + (b.to(tl.int64) * nheads + h) * seqlen_q + rows, L_i, mask=rows < seqlen_q)


def _set_blocks(args):
    """The descriptors' blocks follow the configuration that is about to be launched."""
    for name, rows in (("Q", "Br"), ("K", "Bc"), ("V", "Bc"), ("Out", "Br")):
        args[name].block_shape = [1, args[rows], 1, args["d"]]


def config(Br: int, Bc: int, warps: int, stages: int) -> triton.Config:
    return triton.Config({"Br": Br, "Bc": Bc}, num_warps=warps, num_stages=stages, pre_hook=_set_blocks)


# Br, Bc, warps, pipeline stages. The first is what tuning picked on an H200 at head dims 64 and 128; the others serve
# smaller shared memories, older tensor cores and head dim 256.
CANDIDATES = [
    config(64, 64, 4, 3),
    config(64, 64, 4, 2),
    config(128, 64, 4, 3),
    config(128, 64, 8, 3),
    config(128, 128, 8, 2),
    config(64, 32, 4, 2),
]
WORTH_TUNING = 2**26  # scores; a smaller call is over before it matters


def legal_configs(candidates, args, **constants) -> list[triton.Config]:
    """The candidates whose Q tile and pipelined K and V tiles fit this GPU's shared memory, or one that fits
    everywhere.

    float32 has no tensor-core product that is exact enough, and small head dims are not what anyone waits for: one
    configuration each, by the tile rule of s12.
    """
    d, itemsize = constants["d"], constants["DTYPE"].primitive_bitwidth // 8
    tiles = STAGE.tiles
    rows = min(tiles["Br"], max(16, tiles["tile_bytes"] // (d * itemsize)))
    everywhere = config(rows, rows, tiles["num_warps"], 1 if itemsize == 4 else 2)
    if interpreter.INTERPRETING or itemsize == 4 or d < 64:
        return [everywhere]
    limit = torch.cuda.get_device_properties(torch.cuda.current_device()).shared_memory_per_block_optin
    fits = [c for c in candidates if (c.kwargs["Br"] + 2 * c.num_stages * c.kwargs["Bc"]) * d * itemsize <= limit]
    return fits or [everywhere]


tuned_kernel = triton.autotune(
    CANDIDATES,
    key=["d", "CAUSAL", "EVEN", "DTYPE"],
    prune_configs_by={"early_config_prune": legal_configs},
)(attention_kernel)


def attention(q, k, v, *, causal=False, softmax_scale=None, out=None, lse=None):
    """The stage contract (stages/common/contract.py). A program for every Q tile of every batch and head."""
    call = prepare(STAGE, q, k, v, causal=causal, softmax_scale=softmax_scale, out=out, lse=lse, aligned=True)
    with call.on_device():
        launch(call)
    return call.finish()


def launch(call, only: triton.Config | None = None) -> None:
    """Launch the kernel in configuration `only`; without it, in the best of the legal ones."""
    d = call.headdim
    args = {
        name: TensorDescriptor(t, t.shape, t.stride(), [1, 1, 1, d])
        for name, t in (("Q", call.q), ("K", call.k), ("V", call.v), ("Out", call.out))
    }
    args["Lse"] = call.lse
    args["softmax_scale"] = call.softmax_scale
    args |= {name: getattr(call, name) for name in ("nheads", "nheads_k", "seqlen_q", "seqlen_k")}
    constants = {
        "EVEN": call.seqlen_k % 128 == 0,
        "CAUSAL": call.causal,
        "DTYPE": {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}[call.q.dtype],
        "d": d,
    }

    def grid(meta):
        return (triton.cdiv(call.seqlen_q, meta["Br"]), call.nheads, call.batch)

    legal = [only] if only else legal_configs(CANDIDATES, args, **constants)
    if len(legal) > 1 and call.batch * call.nheads * call.seqlen_q * call.seqlen_k >= WORTH_TUNING:
        tuned_kernel[grid](**args, **constants)
        return
    chosen = legal[0]
    _set_blocks(args | constants | chosen.kwargs)
    attention_kernel[grid](
        **args, **constants, **chosen.kwargs, num_warps=chosen.num_warps, num_stages=chosen.num_stages
    )
