"""Planted bugs, each of which the suite has to notice: mistakes that people make when they write these kernels.

A mutant is its stage's kernel file with pieces of text replaced. tests/test_mutants.py runs the quick grid on each
until a case fails; one that survives fails the run, and so does one whose text is no longer in the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """name: unique; stage: the name of the stage, as `stages.get` takes it; what: the mistake, in a few words.

    replace: (old, new) pairs; each old occurs exactly once in the kernel file.
    crashes: True where an exception counts as being noticed. Elsewhere it does not: a mutant that does not even
             run shows nothing about the reference.
    """

    name: str
    stage: str
    what: str
    replace: tuple[tuple[str, str], ...]
    crashes: bool = False


def mutant(name: str, stage: str, what: str, *replace: tuple[str, str], crashes: bool = False) -> Mutant:
    return Mutant(name, stage, what, replace, crashes)


NUMPY_MASK = "j <= i + len(K) - len(Q)"
NUMPY_HEAD = "h // (call.nheads // call.nheads_k)"

NAIVE = (
    mutant("s01_top_left", "s01", "causal mask aligned top-left", (NUMPY_MASK, "j <= i")),
    mutant("s01_strict", "s01", "causal mask off by one: a query does not see itself",
           (NUMPY_MASK, "j < i + len(K) - len(Q)")),
    mutant("s01_no_max", "s01", "softmax without subtracting the maximum",
           ("P = np.exp(S - np.where(m == -np.inf, 0, m))", "P = np.exp(S)"), ("(m + np.log(l))[", "np.log(l)[")),
    mutant("s01_nan_row", "s01", "rows that see no key subtract -inf from -inf",
           ("np.where(m == -np.inf, 0, m)", "m")),
    mutant("s01_zero_row", "s01", "rows that see no key get lse 0",
           ("(m + np.log(l))[", "(np.where(m == -np.inf, 0, m) + np.log(l))[")),
    mutant("s01_scale", "s01", "the caller's softmax_scale is ignored",
           ("S = softmax_scale *", "S = Q.shape[1] ** -0.5 *")),
    mutant("s01_undivided", "s01", "O is not divided by l", ("P @ V / l,", "P @ V,")),
    mutant("s01_heads", "s01", "query heads take turns over the key/value heads", (NUMPY_HEAD, "h % call.nheads_k")),
)  # fmt: skip

ONLINE = (
    mutant("s02_rescale_O", "s02", "O is not rescaled when the maximum grows",
           ("O = alpha[:, None] * O +", "O = O +")),
    mutant("s02_rescale_l", "s02", "l is not rescaled when the maximum grows", ("l = alpha * l +", "l = l +")),
    mutant("s02_alpha", "s02", "the rescaling factor is upside down",
           ("alpha = np.exp(m - m_safe)", "alpha = np.exp(np.where(m == -np.inf, m, m_safe - m))")),
    mutant("s02_max_zero", "s02", "the running maximum starts at 0",
           ("np.full(len(Q_i), -np.inf, Q.dtype)", "np.zeros(len(Q_i), Q.dtype)")),
    mutant("s02_max_tiny", "s02", "the running maximum starts at a tiny positive float, rows without keys set right",
           ("np.full(len(Q_i), -np.inf, Q.dtype)", "np.full(len(Q_i), np.finfo(Q.dtype).tiny, Q.dtype)"),
           ("L[i : i + Br] = m_i +", "L[i : i + Br] = np.where(O_i.any(1), m_i, -np.inf) +")),
    mutant("s02_tail", "s02", "the ragged last K/V tile is dropped",
           ("range(0, seqlen_k, Bc)", "range(0, seqlen_k // Bc * Bc or seqlen_k, Bc)")),
    mutant("s02_break_early", "s02", "the causal loop stops a key early",
           ("j > rows[-1] + seqlen_k", "j >= rows[-1] + seqlen_k")),
    mutant("s02_break_first", "s02", "the causal loop stops where the tile's first row does",
           ("j > rows[-1] + seqlen_k", "j > rows[0] + seqlen_k")),
    mutant("s02_mask_tile", "s02", "the mask counts keys from the start of the tile",
           ("np.arange(j, j + len(K_j))", "np.arange(len(K_j))")),
    mutant("s02_batch", "s02", "every batch reads the keys of the first",
           ("call.k[b, :, h_k]", "call.k[0, :, h_k]")),
    mutant("s02_log2", "s02", "lse takes a logarithm in base 2", ("m_i + np.log(l_i)", "m_i + np.log2(l_i)")),
)  # fmt: skip

TRITON_MASK = "keys[None, :] <= rows[:, None] + shift"
TRITON_VISIBLE = "visible = keys[None, :] < seqlen_k"
TRITON_HEAD = "h_k = h // (nheads // nheads_k)"

TRITON_V1 = (
    mutant("s11_top_left", "s11", "causal mask aligned top-left", (TRITON_MASK, "keys[None, :] <= rows[:, None]")),
    mutant("s11_tail", "s11", "keys past the end count as scores of 0",
           (TRITON_VISIBLE, "visible = keys[None, :] >= 0")),
    mutant("s11_rescale_O", "s11", "O is put back under the new l, but not under the new maximum",
           ("(alpha * l_i / l_safe)[:, None]", "(l_i / l_safe)[:, None]")),
    mutant("s11_rescale_l", "s11", "l is not rescaled when the maximum grows",
           ("l_new = alpha * l_i +", "l_new = l_i +")),
    mutant("s11_max_lost", "s11", "the new maximum is not stored",
           ("            tl.store(M + rows, m_new, mask=in_q)\n", "")),
    mutant("s11_first_tile", "s11", "causal: the Q tile that the diagonal enters is skipped",
           ("tl.maximum(j - shift, 0) // Br * Br", "tl.cdiv(tl.maximum(j - shift, 0), Br) * Br")),
    mutant("s11_statistics", "s11", "all batches share one set of statistics",
           ("head = (b * nheads + h) * seqlen_q", "head = h * seqlen_q")),
    mutant("s11_lse_max", "s11", "lse without the maximum", ("m_i + tl.log(l_i)", "m_i * 0 + tl.log(l_i)")),
    mutant("s11_nan_row", "s11", "rows that have seen no key yet subtract -inf from -inf",
           ('tl.where(m_new == float("-inf"), 0.0, m_new)', "m_new")),
)  # fmt: skip

TRITON_V2 = (
    mutant("s12_strict", "s12", "causal mask off by one: a query does not see itself",
           (TRITON_MASK, "keys[None, :] < rows[:, None] + shift")),
    mutant("s12_rescale_O", "s12", "O is not rescaled when the maximum grows",
           ("        O_i = O_i * alpha[:, None]\n", "")),
    mutant("s12_rescale_l", "s12", "l is not rescaled when the maximum grows", ("l_i = alpha * l_i +", "l_i = l_i +")),
    mutant("s12_max_zero", "s12", "the running maximum starts at 0, rows without keys set right",
           ('m_i = tl.full([Br], float("-inf"), dtype=tl.float32)', "m_i = tl.zeros([Br], dtype=tl.float32)"),
           ("    l_i = tl.where(l_i == 0.0",
            '    m_i = tl.where(rows + shift < (0 if CAUSAL else shift), float("-inf"), m_i)\n'
            "    l_i = tl.where(l_i == 0.0")),
    mutant("s12_key_offset", "s12", "K/V tiles start one key late", ("keys = j + c", "keys = j + c + 1")),
    mutant("s12_v_offset", "s12", "every V tile is the first one",
           ("V + keys[:, None].to(tl.int64) * v_row", "V + c[:, None].to(tl.int64) * v_row")),
    mutant("s12_seqlens", "s12", "the key loop runs to seqlen_q", ("last_key = seqlen_k\n", "last_key = seqlen_q\n")),
    mutant("s12_last_tile", "s12", "causal: the key loop ends one key early",
           ("tl.minimum(seqlen_k, i + Br + shift)", "tl.minimum(seqlen_k, i + Br + shift - 1)")),
    mutant("s12_scale", "s12", "the scale is that of the padded head dim",
           ("    call = prepare(STAGE, q, k, v, causal=causal, softmax_scale=softmax_scale, out=out, lse=lse)\n",
            "    call = prepare(STAGE, q, k, v, causal=causal, softmax_scale=softmax_scale, out=out, lse=lse)\n"
            "    if softmax_scale is None:\n        call.softmax_scale = call.headdim**-0.5\n")),
    mutant("s12_lse_scale", "s12", "lse takes the maximum before scaling",
           ("m_i + tl.log(l_i)", "m_i / softmax_scale + tl.log(l_i)")),
    mutant("s12_lse_log2", "s12", "lse in base 2", ("m_i + tl.log(l_i)", "(m_i + tl.log(l_i)) * 1.4426950408889634")),
    mutant("s12_heads", "s12", "query heads take turns over the key/value heads", (TRITON_HEAD, "h_k = h % nheads_k")),
    mutant("s12_batch", "s12", "every batch reads the values of the first",
           ("V += b * v_batch +", "V += 0 * v_batch +")),
    mutant("s12_out_tail", "s12", "rows past the end are written",
           ("tl.store(Lse + rows, m_i + tl.log(l_i), mask=in_q)",
            "tl.store(Lse + rows, m_i + tl.log(l_i), mask=rows < seqlen_q + 1)")),
    mutant("s12_grid", "s12", "the ragged last Q tile is not launched",
           ("triton.cdiv(call.seqlen_q, rows)", "max(call.seqlen_q // rows, 1)")),
    mutant("s12_v_head", "s12", "V is read with the strides of K",
           ("V += b * v_batch + h_k * v_head", "V += b * k_batch + h_k * k_head"),
           ("*q.stride()[:3], *k.stride()[:3], *v.stride()[:3],",
            "*q.stride()[:3], *k.stride()[:3], *(v := v.transpose(1, 2).contiguous().transpose(1, 2)).stride()[:3],")),
)  # fmt: skip

TRITON_TUNED = (
    mutant("s13_full", "s13", "tiles on the diagonal count as full and are not masked",
           ("tl.minimum(seqlen_k, i + 1 + shift)", "tl.minimum(seqlen_k, i + Br + shift)")),
    mutant("s13_full_up", "s13", "the number of full tiles is rounded up",
           ("full = full // Bc * Bc", "full = tl.cdiv(full, Bc) * Bc")),
    mutant("s13_full_row", "s13", "one key too many counts as seen by all rows",
           ("tl.minimum(seqlen_k, i + 1 + shift)", "tl.minimum(seqlen_k, i + 2 + shift)")),
    mutant("s13_even", "s13", "every length counts as a multiple of the tile",
           ('"EVEN": call.seqlen_k % 128 == 0', '"EVEN": True')),
    mutant("s13_log2e", "s13", "exp2 without log2(e) in the scale",
           ("scale_log2 = softmax_scale * LOG2_E", "scale_log2 = softmax_scale")),
    mutant("s13_lse", "s13", "lse stays in base 2", ("(m_i + tl.log2(l_i)) / LOG2_E", "m_i + tl.log2(l_i)")),
    mutant("s13_lse_half", "s13", "of lse, only the sum is put back to base e",
           ("(m_i + tl.log2(l_i)) / LOG2_E", "m_i + tl.log2(l_i) / LOG2_E")),
    mutant("s13_max", "s13", "the maximum is taken before scaling",
           ("tl.max(S, axis=1) * scale_log2", "tl.max(S, axis=1)")),
    mutant("s13_alpha", "s13", "O is rescaled by exp, not exp2",
           ("O_i = O_i * alpha[:, None]", "O_i = O_i * tl.exp(m_i - m_safe)[:, None]")),
    mutant("s13_order", "s13", "causal: the Q tiles' order is turned round one off",
           ("(tl.num_programs(0) - 1) * Br - i", "tl.num_programs(0) * Br - i")),
    mutant("s13_nan_row", "s13", "rows that see no key subtract -inf from -inf",
           ('tl.where(m_new == float("-inf"), 0.0, m_new)', "m_new")),
    mutant("s13_head", "s13", "V is read from the query's head number",
           ("V.load([b, j, h_k, 0])", "V.load([b, j, 0, 0])")),
)  # fmt: skip

MMA = (
    mutant("s20_top_left", "s20", "causal mask aligned top-left", ("key <= row[r] + shift", "key <= row[r]")),
    mutant("s20_tail", "s20", "keys past the end count as scores of 0",
           ("key < p.seqlen_k && (!CAUSAL || key <= row[r] + shift)", "(!CAUSAL || key <= row[r] + shift)")),
    mutant("s20_last_tile", "s20", "causal: the key loop ends where the tile's first row does",
           ("first_row + Br + shift", "first_row + 1 + shift")),
    mutant("s20_rows", "s20", "the accumulator's second row is taken for the next one",
           ("warp * MMA_M + quad, first_row + warp * MMA_M + quad + 8}",
            "warp * MMA_M + quad, first_row + warp * MMA_M + quad + 1}")),
    mutant("s20_quad", "s20", "the row's maximum is shared by two lanes, not four",
           ("      m_new = fmaxf(m_new, shfl_xor(m_new, 2));\n", "")),
    mutant("s20_sum", "s20", "the row's sum is that of two lanes, not four", ("    l[r] += shfl_xor(l[r], 2);\n", "")),
    mutant("s20_rescale_O", "s20", "half of O is not rescaled", ("        O_acc[n][r * 2 + 1] *= alpha;\n", "")),
    mutant("s20_rescale_l", "s20", "l is not rescaled", ("      l[r] *= alpha;\n", "")),
    mutant("s20_exp2", "s20", "exp2 without log2(e)",
           ("s = ex2((s - m_safe) * LOG2_E);", "s = ex2(s - m_safe);")),
    mutant("s20_nan_row", "s20", "rows that see no key subtract -inf from -inf",
           ("m_new == -INFINITY ? 0.f : m_new", "m_new")),
    mutant("s20_k_fragment", "s20", "K's fragments paired as V's are",
           ("Q_frag[k], K_frag[0], K_frag[2]", "Q_frag[k], K_frag[0], K_frag[1]"),
           ("Q_frag[k], K_frag[1], K_frag[3]", "Q_frag[k], K_frag[2], K_frag[3]")),
    mutant("s20_v_trans", "s20", "V is loaded without the transpose",
           ("ldmatrix_x4_trans(V_frag", "ldmatrix_x4(V_frag")),
    mutant("s20_heads", "s20", "query heads take turns over the key/value heads",
           ("head / (p.nheads / p.nheads_k)", "head % p.nheads_k")),
    mutant("s20_batch", "s20", "every batch reads the keys of the first", ("p.K + batch * p.k_batch +", "p.K +")),
    mutant("s20_out_tail", "s20", "rows of O past the end are written",
           ("if (out_row < p.seqlen_q)", "if (out_row < p.seqlen_q + 1)")),
)  # fmt: skip

MUTANTS = (*NAIVE, *ONLINE, *TRITON_V1, *TRITON_V2, *TRITON_TUNED, *MMA)
