"""s02_online_softmax: attention a tile at a time, with a softmax that is never finished until the end.

Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018), algorithm 3;
Dao, "FlashAttention-2" (2023), section 2.3 and algorithm 1, whose symbols are used here.
"""

import numpy as np

from stages.common.contract import prepare
from stages.s02_online_softmax import STAGE

Br, Bc = STAGE.tiles["Br"], STAGE.tiles["Bc"]  # rows of a Q tile, rows of a K/V tile


def online_softmax_step(O, m, l, S, V_j):
    """Take one K/V tile into the running result of a Q tile: (O, m, l) over the keys so far -> with this tile's keys.

    O [Br, d], not yet divided by l; m [Br] the largest score so far; l [Br] = Σ exp(S - m) so far;
    S [Br, Bc] this tile's scores, -inf where a key is masked; V_j [Bc, d].
    """
    # BEGIN SOLUTION online_softmax_step: when m grows, the old sums are too large by exp(m_new - m); m may be -inf
    m_new = np.maximum(m, S.max(axis=1))
    m_safe = np.where(m_new == -np.inf, 0, m_new)  # no key seen yet: -inf - -inf would be NaN
    P = np.exp(S - m_safe[:, None])  # [Br, Bc]: all that is ever held of the S×S matrix
    alpha = np.exp(m - m_safe)  # how much the past has to shrink
    l = alpha * l + P.sum(axis=1)
    O = alpha[:, None] * O + P @ V_j
    return O, m_new, l
    # END SOLUTION


def tiled_attention(Q, K, V, softmax_scale, causal):
    """One head. Q [seqlen_q, d]; K, V [seqlen_k, d] -> O [seqlen_q, d], L [seqlen_q] = m + log l."""
    seqlen_q, seqlen_k = len(Q), len(K)
    O, L = np.empty_like(Q), np.empty_like(Q[:, 0])
    for i in range(0, seqlen_q, Br):
        Q_i = Q[i : i + Br]  # the last tile of a ragged length is simply shorter
        rows = np.arange(i, i + len(Q_i))
        O_i = np.zeros_like(Q_i)
        m_i = np.full(len(Q_i), -np.inf, Q.dtype)
        l_i = np.zeros(len(Q_i), Q.dtype)
        for j in range(0, seqlen_k, Bc):
            if causal and j > rows[-1] + seqlen_k - seqlen_q:
                break  # the tile's first key is already in the future of the last row
            K_j, V_j = K[j : j + Bc], V[j : j + Bc]
            S = softmax_scale * (Q_i @ K_j.T)
            if causal:
                keys = np.arange(j, j + len(K_j))
                S = np.where(keys[None, :] <= rows[:, None] + seqlen_k - seqlen_q, S, -np.inf)
            O_i, m_i, l_i = online_softmax_step(O_i, m_i, l_i, S, V_j)
        l_i = np.where(l_i == 0, 1, l_i)  # a row that saw no key: O = 0 / 1, L = -inf + log 1
        O[i : i + Br] = O_i / l_i[:, None]
        L[i : i + Br] = m_i + np.log(l_i)
    return O, L


def merge(O_a, L_a, O_b, L_b):
    """Attention over two disjoint sets of keys, from the attention over each: the rule behind split-KV and ring
    attention.

    O_a, O_b [seqlen_q, d]; L_a, L_b [seqlen_q] -> O, L of the union. A side that saw no key (L = -inf) changes nothing.
    """
    L = np.logaddexp(L_a, L_b)
    with np.errstate(invalid="ignore"):  # -inf - -inf where neither side saw a key: weight 0
        w_a, w_b = (np.where(np.isneginf(L), 0, np.exp(part - L))[:, None] for part in (L_a, L_b))
    return w_a * O_a + w_b * O_b, L


def attention(q, k, v, *, causal=False, softmax_scale=None, out=None, lse=None):
    """The stage contract (stages/common/contract.py): one head after the other."""
    call = prepare(STAGE, q, k, v, causal=causal, softmax_scale=softmax_scale, out=out, lse=lse)
    for b in range(call.batch):
        for h in range(call.nheads):
            h_k = h // (call.nheads // call.nheads_k)
            Q, K, V = call.q[b, :, h], call.k[b, :, h_k], call.v[b, :, h_k]
            call.out[b, :, h], call.lse[b, h] = tiled_attention(Q, K, V, call.softmax_scale, call.causal)
    return call.finish()
