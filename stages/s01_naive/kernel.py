"""s01_naive: attention as it is defined, with the whole matrix S in memory.

Vaswani et al., "Attention Is All You Need" (2017), section 3.2.1, equation 1.
"""

import numpy as np

from stages.common.contract import prepare
from stages.s01_naive import STAGE


def naive_attention(Q, K, V, softmax_scale, causal):
    """One head. Q [seqlen_q, d]; K, V [seqlen_k, d] -> O [seqlen_q, d], L [seqlen_q] = log Σⱼ exp(Sᵢⱼ)."""
    # BEGIN SOLUTION naive: softmax of a row is exp(S - max) / sum; subtract the row's maximum first, or exp overflows
    S = softmax_scale * (Q @ K.T)  # [seqlen_q, seqlen_k]: the matrix that every later stage avoids
    if causal:
        i, j = np.arange(len(Q))[:, None], np.arange(len(K))[None, :]
        S = np.where(j <= i + len(K) - len(Q), S, -np.inf)
    m = S.max(axis=1, keepdims=True)
    P = np.exp(S - np.where(m == -np.inf, 0, m))  # [seqlen_q, seqlen_k] again; -inf - -inf would be NaN
    l = P.sum(axis=1, keepdims=True)
    l = np.where(l == 0, 1, l)  # a row that sees no key: O = 0 / 1, L = -inf + log 1
    return P @ V / l, (m + np.log(l))[:, 0]
    # END SOLUTION


def attention(q, k, v, *, causal=False, softmax_scale=None, out=None, lse=None):
    """The stage contract (stages/common/contract.py): one head after the other."""
    call = prepare(STAGE, q, k, v, causal=causal, softmax_scale=softmax_scale, out=out, lse=lse)
    for b in range(call.batch):
        for h in range(call.nheads):
            h_k = h // (call.nheads // call.nheads_k)
            Q, K, V = call.q[b, :, h], call.k[b, :, h_k], call.v[b, :, h_k]
            call.out[b, :, h], call.lse[b, h] = naive_attention(Q, K, V, call.softmax_scale, call.causal)
    return call.finish()
