"""The backward pass of attention, a tile at a time, for one head.

Dao et al., "FlashAttention" (2022), appendix B.2 and algorithm 4; Dao, "FlashAttention-2" (2023), algorithm 2, whose
loop order this is: K/V tiles outside, Q tiles inside.
"""

import numpy as np


def backward(Q, K, V, O, L, dO, softmax_scale, causal=False, Br=64, Bc=64):
    """Q, O, dO [seqlen_q, d]; K, V [seqlen_k, d]; L [seqlen_q], the log-sum-exp -> dQ, dK, dV, shaped as Q, K, V."""
    seqlen_q, seqlen_k = len(Q), len(K)
    dQ, dK, dV = np.zeros_like(Q), np.zeros_like(K), np.zeros_like(V)
    D = (dO * O).sum(axis=1)  # [seqlen_q]: each row's Σⱼ Pᵢⱼ dPᵢⱼ, without P
    L = np.where(np.isneginf(L), np.inf, L)  # a row that saw no key: exp(S - ∞) = 0, and -∞ + ∞ never arises
    for j in range(0, seqlen_k, Bc):
        K_j, V_j = K[j : j + Bc], V[j : j + Bc]
        dK_j, dV_j = np.zeros_like(K_j), np.zeros_like(V_j)  # stay here while the Q tiles go by
        for i in range(0, seqlen_q, Br):
            rows = slice(i, i + Br)
            S = softmax_scale * (Q[rows] @ K_j.T)  # [Br, Bc], once more
            if causal:
                query, key = np.arange(i, i + len(S))[:, None], np.arange(j, j + len(K_j))[None, :]
                S = np.where(key <= query + seqlen_k - seqlen_q, S, -np.inf)
            P = np.exp(S - L[rows, None])  # already divided by l: no second normalisation, no maximum
            dV_j += P.T @ dO[rows]
            dP = dO[rows] @ V_j.T
            dS = P * (dP - D[rows, None])
            dQ[rows] += softmax_scale * (dS @ K_j)  # several K/V tiles add to the same rows
            dK_j += softmax_scale * (dS.T @ Q[rows])
        dK[j : j + Bc], dV[j : j + Bc] = dK_j, dV_j
    return dQ, dK, dV
