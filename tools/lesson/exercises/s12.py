"""Exercises of notebooks/s12_triton_v2."""

from __future__ import annotations

import numpy as np

from tools.bench.shapes import Shape
from tools.lesson.answers import exercise
from tools.plot import traffic


@exercise(
    "s12.bytes",
    solution=lambda seqlen, d, rows: 2 * seqlen * d * 2 + 4 * seqlen + (seqlen // rows) * 2 * seqlen * d * 2,
    wrong=(
        lambda seqlen, d, rows: 4 * seqlen * d * 2 + 4 * seqlen,
        lambda seqlen, d, rows: 2 * seqlen * d * 2 + 4 * seqlen + (seqlen // rows) * seqlen * d * 2,
        lambda seqlen, d, rows: 2 * seqlen * d * 2 + (seqlen // rows) * 2 * seqlen * d * 2,
        lambda seqlen, d, rows: (seqlen // rows) * (2 * seqlen * d * 2 + 4 * seqlen + 2 * seqlen * d * 2),
    ),
    hints=(
        "Q, O and LSE travel once: seqlen·d elements of 2 bytes, as many again, and seqlen of 4.",
        "There are seqlen // rows programs a head, and each of them reads all of K and all of V.",
    ),
)
def check_bytes(answer) -> str:
    for seqlen, d, rows in ((256, 128, 64), (4096, 128, 64), (1024, 64, 128)):
        want = traffic.v2_bytes(Shape(1, seqlen, seqlen, 1, 1, d, False), 2, rows, rows)
        got = answer(seqlen, d, rows)
        if got != want:
            return f"seqlen {seqlen}, d {d}, tiles of {rows} rows: {got:,} bytes; it is another number"
    return ""


@exercise(
    "s12.last_key",
    solution=lambda i, Br, seqlen_q, seqlen_k: min(seqlen_k, i + Br + seqlen_k - seqlen_q),
    wrong=(
        lambda i, Br, seqlen_q, seqlen_k: min(seqlen_k, i + Br),
        lambda i, Br, seqlen_q, seqlen_k: i + Br + seqlen_k - seqlen_q,
        lambda i, Br, seqlen_q, seqlen_k: min(seqlen_k, i + Br - 1 + seqlen_k - seqlen_q),
        lambda i, Br, seqlen_q, seqlen_k: min(seqlen_k, i + seqlen_k - seqlen_q),
    ),
    hints=(
        "The tile's last row, i + Br - 1, sees the most keys: those j with j <= i + Br - 1 + seqlen_k - seqlen_q.",
        "One past the last is one more than that, but there are only seqlen_k keys. Below 0 counts as 0.",
    ),
)
def check_last_key(answer) -> str:
    for Br, seqlen_q, seqlen_k in ((64, 256, 256), (64, 256, 448), (64, 448, 256), (16, 100, 130), (16, 130, 100)):
        visible = np.arange(seqlen_k)[None, :] <= np.arange(seqlen_q)[:, None] + seqlen_k - seqlen_q
        for i in range(0, seqlen_q, Br):
            seen = np.flatnonzero(visible[i : i + Br].any(axis=0))
            want = int(seen[-1]) + 1 if len(seen) else 0
            got = max(0, answer(i, Br, seqlen_q, seqlen_k))
            if got != want:
                return f"i {i}, Br {Br}, {seqlen_q} queries, {seqlen_k} keys: {got}, and not {want}"
    return ""
