"""Elements that one head moves between slow and fast memory, counted by walking the loops.

Dao et al., "FlashAttention" (2022), theorem 2. Fast memory holds M elements; N queries, N keys, head dim d.
"""

import math


def standard(N, d):
    """S and P go to slow memory and back: read Q, K; write S; read S, write P; read P, V; write O."""
    return 4 * N * d + 4 * N * N


def tiles(d, M):
    """FlashAttention's tile sizes: as many rows of Q, K, V and O as fit together. -> Br, Bc"""
    Bc = math.ceil(M / (4 * d))
    return min(Bc, d), Bc


def flash1(N, d, M):
    """K/V tiles outside, Q tiles inside: O, m and l travel at each visit."""
    Br, Bc = tiles(d, M)
    moved = 0
    for j in range(0, N, Bc):
        moved += 2 * min(Bc, N - j) * d  # K and V, once
        for i in range(0, N, Br):
            rows = min(Br, N - i)
            moved += rows * d + 2 * rows * (d + 2)  # Q in; O, m and l in and out
    return moved
