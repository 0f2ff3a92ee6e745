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

SWIZZLE = (
    mutant("s21_writer", "s21", "the copies into shared memory leave every chunk in its place",
           ("cp_async_chunk(tile + tile_offset<d>(row, chunk),", "cp_async_chunk(tile + row * (d * 2) + chunk * 16,")),
    mutant("s21_k_row", "s21", "K is read with the row's number modulo 4",
           ("K_smem + tile_offset<d>(n * 16 + lane % 16, 2 * k + lane / 16)",
            "K_smem + (n * 16 + lane % 16) * (d * 2) + ((2 * k + lane / 16) ^ lane % 4) * 16")),
    mutant("s21_v_plain", "s21", "V is read without the swizzle",
           ("V_smem + tile_offset<d>(k * 16 + lane % 16, 2 * n + lane / 16)",
            "V_smem + (k * 16 + lane % 16) * (d * 2) + (2 * n + lane / 16) * 16")),
    mutant("s21_whole_row", "s21", "XOR with the whole row number leaves the row", ("chunk ^ row % 8", "chunk ^ row")),
    mutant("s21_precedence", "s21", "the remainder is taken after XOR: two chunks of a 256-byte row in one place",
           ("chunk ^ row % 8", "(chunk ^ row) % 8")),
    mutant("s21_o_plain", "s21", "O is read back without the swizzle",
           ("ld_shared_chunk(Q_smem + tile_offset<d>(warp * MMA_M + r, chunk))",
            "ld_shared_chunk(Q_smem + (warp * MMA_M + r) * (d * 2) + chunk * 16)")),
)  # fmt: skip

EAGER_WAIT = "    cp_async_wait<0>();\n"
EAGER_K_THERE = "    __syncthreads();  // K is there for all; and all are done with the last tile's V\n"
EAGER_V_THERE = "    __syncthreads();  // V is there for all; and all are done with this tile's K\n"
EAGER_NEXT_K = "    if (first_key + Bc < last_key) load_tile<d, Bc>(K_smem, K, p.k_row, first_key + Bc, p.seqlen_k);"

EAGER = (
    mutant("s22_k_early", "s22", "the next K is copied while other warps still read this one",
           (EAGER_WAIT + EAGER_V_THERE + EAGER_NEXT_K, EAGER_WAIT + EAGER_NEXT_K),
           ("// travels during P V\n    cp_async_commit();\n",
            "\n    cp_async_commit();\n    cp_async_wait<1>();\n" + EAGER_V_THERE)),
    mutant("s22_v_early", "s22", "V is copied while other warps still multiply by the last one",
           (EAGER_WAIT + EAGER_K_THERE, EAGER_WAIT),
           ("// travels during Q Kᵀ and the softmax\n    cp_async_commit();\n",
            "\n    cp_async_commit();\n" + EAGER_K_THERE)),
    mutant("s22_v_wait", "s22", "nobody waits for V", (EAGER_WAIT + EAGER_V_THERE, EAGER_V_THERE)),
    mutant("s22_k_wait", "s22", "the wait leaves K's group under way",
           (EAGER_WAIT + EAGER_K_THERE, "    cp_async_wait<1>();\n" + EAGER_K_THERE)),
    mutant("s22_v_commit", "s22", "V's copies belong to no group, and no wait is for them",
           ("// travels during Q Kᵀ and the softmax\n    cp_async_commit();\n", "\n")),
    mutant("s22_same_k", "s22", "the K that is copied ahead is this tile's once more",
           ("K_smem, K, p.k_row, first_key + Bc, p", "K_smem, K, p.k_row, first_key, p")),
)  # fmt: skip

BUFFER_THERE = "    __syncthreads();  // the tile is there for all; and all are done with the one before\n"
BUFFER_NEXT = "    load_kv(block + 1);  // travels during this iteration, all of it\n"

DOUBLE_BUFFER = (
    mutant("s23_wait_1", "s23", "the wait leaves this tile's group under way: the next one's comes after it",
           ("    cp_async_wait<0>();\n" + BUFFER_THERE, "    cp_async_wait<1>();\n" + BUFFER_THERE)),
    mutant("s23_no_barrier", "s23", "a wait, but no barrier: other threads' copies may not be there",
           (BUFFER_THERE, "")),
    mutant("s23_early", "s23", "the next tile is asked for before all have left its buffer",
           (BUFFER_THERE + BUFFER_NEXT, BUFFER_NEXT + BUFFER_THERE)),
    mutant("s23_one_buffer", "s23", "every tile is copied into the first buffer",
           ("KV_smem + block % BUFFERS * 2 * TILE_BYTES;\n", "KV_smem;\n")),
    mutant("s23_no_turns", "s23", "every tile is copied into the first buffer and read there",
           ("KV_smem + block % BUFFERS * 2 * TILE_BYTES;\n", "KV_smem;\n"),
           ("KV_smem + block % BUFFERS * 2 * TILE_BYTES, V_smem", "KV_smem, V_smem")),
    mutant("s23_stride", "s23", "buffers a tile apart: V of one is K of the other",
           ("block % BUFFERS * 2 * TILE_BYTES;\n", "block % BUFFERS * TILE_BYTES;\n"),
           ("block % BUFFERS * 2 * TILE_BYTES, V_smem", "block % BUFFERS * TILE_BYTES, V_smem")),
    mutant("s23_next", "s23", "this tile is asked for once more, not the next", (BUFFER_NEXT, "    load_kv(block);\n")),
)  # fmt: skip

PIPELINE_K_LOADER = "load_K_frag = [&](int i) {\n      const int k = i / (Bc / 16), n = i % (Bc / 16);"

FRAGMENTS = (
    mutant("s24_one_set", "s24", "one set of registers: the next fragment of K comes before this one is used",
           ("ldmatrix_x4(K_frag[i % 2]", "ldmatrix_x4(K_frag[0]"),
           ("K_frag[i % 2][0], K_frag[i % 2][2]", "K_frag[0][0], K_frag[0][2]"),
           ("K_frag[i % 2][1], K_frag[i % 2][3]", "K_frag[0][1], K_frag[0][3]")),
    mutant("s24_other_set", "s24", "the set that has just been loaded with the next V is multiplied",
           ("V_frag[i % 2][0], V_frag[i % 2][1]", "V_frag[(i + 1) % 2][0], V_frag[(i + 1) % 2][1]"),
           ("V_frag[i % 2][2], V_frag[i % 2][3]", "V_frag[(i + 1) % 2][2], V_frag[(i + 1) % 2][3]")),
    mutant("s24_beyond", "s24", "the last step of V loads one beyond the tile",
           ("if (i + 1 < V_STEPS) load_V_frag", "load_V_frag")),
    mutant("s24_order", "s24", "loads and products of K take their steps in different orders",
           (PIPELINE_K_LOADER,
            "load_K_frag = [&](int i) {\n      const int k = i % (d / MMA_K), n = i / (d / MMA_K);")),
    mutant("s24_late", "s24", "the last fragment of K is not loaded: the loop stops asking a step early",
           ("if (i + 1 < K_STEPS) load_K_frag", "if (i + 2 < K_STEPS) load_K_frag")),
)  # fmt: skip

EVERY_ROW = "min(p.seqlen_k, first_row + 1 + shift) : p.seqlen_k;"

CAUSAL_TILES = (
    mutant("s25_diagonal", "s25", "tiles on the diagonal count as full and are not masked",
           (EVERY_ROW, "min(p.seqlen_k, first_row + Br + shift) : p.seqlen_k;")),
    mutant("s25_round_up", "s25", "the number of full tiles is rounded up",
           ("max(every_row_sees, 0) / Bc", "(max(every_row_sees, 0) + Bc - 1) / Bc")),
    mutant("s25_one_key", "s25", "one key too many counts as seen by all rows",
           (EVERY_ROW, "min(p.seqlen_k, first_row + 2 + shift) : p.seqlen_k;")),
    mutant("s25_shift", "s25", "full tiles are counted for lengths that are equal",
           (EVERY_ROW, "min(p.seqlen_k, first_row + 1) : p.seqlen_k;")),
    mutant("s25_ragged", "s25", "not causal, so nothing to mask: the ragged tile is forgotten",
           (EVERY_ROW, "min(p.seqlen_k, first_row + 1 + shift) : p.seqlen_k + Bc - 1;")),
    mutant("s25_last_only", "s25", "only the last tile is masked, and the diagonal crosses two",
           ("if (block >= full_blocks)", "if (block == blocks - 1)")),
    mutant("s25_prefetch", "s25", "the walk goes backwards, the copies forwards",
           ("load_kv(block - 1)", "load_kv(block + 1)")),
    mutant("s25_tile_0", "s25", "the walk stops before the first keys",
           ("block = blocks - 1; block >= 0", "block = blocks - 1; block > 0")),
)  # fmt: skip

PEEL = (
    mutant("s26_always_first", "s26", "every tile is worked on as if nothing had been before it",
           ("attend(Bool<false>(), block)", "attend(Bool<true>(), block)")),
    mutant("s26_zero_O", "s26", "every tile's product with V begins at zero",
           ("V_frag[i % 2][1], FIRST && k == 0", "V_frag[i % 2][1], k == 0"),
           ("V_frag[i % 2][3], FIRST && k == 0", "V_frag[i % 2][3], k == 0")),
    mutant("s26_twice", "s26", "the loop begins with the tile that was peeled off",
           ("block = blocks - 2", "block = blocks - 1")),
    mutant("s26_no_tile", "s26", "a first tile is worked on even if there is none",
           ("if (blocks > 0) attend", "attend")),
    mutant("s26_no_keys", "s26", "Q tiles that see no key get lse 0",
           ("m[r] = -INFINITY, l[r] = 0.f", "m[r] = l[r] = 0.f")),
    mutant("s26_max_zero", "s26", "the first tile's maximum is at least 0", ("FIRST ? -INFINITY", "FIRST ? 0.f")),
    mutant("s26_masked_row", "s26", "the first tile is taken to show every row a key",
           ("m_new == -INFINITY ? 0.f", "!FIRST && m_new == -INFINITY ? 0.f")),
    mutant("s26_rescale", "s26", "the second tile does not rescale what the first has left",
           ("      if (FIRST) {\n", "      if (FIRST || block == blocks - 2) {\n        if (FIRST)\n")),
)  # fmt: skip

FP32 = (
    mutant("s27_log2e_twice", "s27", "log2(e) once in the constant and once more in the exponent",
           ("s = ex2(s * c - m_c)", "s = ex2((s * c - m_c) * LOG2_E)")),
    mutant("s27_no_log2e", "s27", "exp2 without log2(e)", ("c = p.softmax_scale * LOG2_E", "c = p.softmax_scale")),
    mutant("s27_lse_unscaled", "s27", "lse takes the maximum before scaling",
           ("m[r] * p.softmax_scale + logf", "m[r] + logf")),
    mutant("s27_lse_base", "s27", "of lse, the maximum stays in base 2",
           ("m[r] * p.softmax_scale + logf", "m[r] * c + logf")),
    mutant("s27_scaled_max", "s27", "the maximum is kept scaled, and scaled again with the next tile",
           ("      m[r] = m_new;\n", "      m[r] = m_new * p.softmax_scale;\n"),
           ("m[r] * p.softmax_scale + logf", "m[r] + logf")),
    mutant("s27_alpha", "s27", "the old maximum is unscaled when O and l are rescaled",
           ("ex2((m[r] - m_safe) * c)", "ex2((m[r] - m_safe) * LOG2_E)")),
    mutant("s27_unscaled_m", "s27", "the score is scaled, the maximum is not", ("m_c = m_safe * c", "m_c = m_safe")),
)  # fmt: skip

MOVES_ADDRESS = "key = n * 16 + lane / 16 * 8 + lane % 8, chunk = 2 * k + lane / 8 % 2;"

MOVES = (
    mutant("s28_old_pairs", "s28", "the addresses are permuted, the operands are not",
           ("K_frag[i % 2][0], K_frag[i % 2][1]", "K_frag[i % 2][0], K_frag[i % 2][2]"),
           ("K_frag[i % 2][2], K_frag[i % 2][3]", "K_frag[i % 2][1], K_frag[i % 2][3]")),
    mutant("s28_old_addresses", "s28", "the operands are permuted, the addresses are not",
           (MOVES_ADDRESS, "key = n * 16 + lane % 16, chunk = 2 * k + lane / 16;")),
    mutant("s28_swapped", "s28", "the two n-tiles change places",
           ("(S[2 * n + 1], Q_frag", "(S[2 * n + 0], Q_frag"), ("(S[2 * n], Q_frag", "(S[2 * n + 1], Q_frag")),
    mutant("s28_v_too", "s28", "V's operands are permuted as well: its transpose has done that",
           ("V_frag[i % 2][0], V_frag[i % 2][1]", "V_frag[i % 2][0], V_frag[i % 2][2]"),
           ("V_frag[i % 2][2], V_frag[i % 2][3]", "V_frag[i % 2][1], V_frag[i % 2][3]")),
    mutant("s28_rows", "s28", "lanes 8 to 15 read the next keys, not the next chunk",
           (MOVES_ADDRESS, "key = n * 16 + lane / 8 * 8 % 16 + lane % 8, chunk = 2 * k + lane / 8 % 2;")),
)  # fmt: skip

STEP_SUM = "return (place ^ chunks * 16) + rows * (d * 2);"

ADDRESS = (
    mutant("s29_plus", "s29", "the step along a row is added: it runs into the swizzle's bits",
           (STEP_SUM, "return place + chunks * 16 + rows * (d * 2);")),
    mutant("s29_one_row", "s29", "a step of one row keeps the first one's swizzle",
           ("warp * MMA_M + 8 * r, n)", "warp * MMA_M + r, n)")),
    mutant("s29_one_offset", "s29", "K's fragments are read at the lane's offset for V",
           ("K_smem + K_lane_offset", "K_smem + lane_offset")),
    mutant("s29_first_ragged", "s29", "the tile that is walked first counts as whole",
           ("load_kv(Bool<true>(), blocks - 1)", "load_kv(Bool<false>(), blocks - 1)")),
    mutant("s29_q_ragged", "s29", "Q's last tile counts as whole",
           ("load_tile<d, Br, true>", "load_tile<d, Br, false>")),
    mutant("s29_bound", "s29", "rows are held against the length at the first step only",
           ("first_row + row + i < seqlen", "first_row + row < seqlen")),
    mutant("s29_heads_between", "s29", "steps in global memory forget the other heads between two rows",
           ("from + i * row_stride", "from + i * d")),
    mutant("s29_chunk_0", "s29", "the chunk of a lane's place is added after the swizzle",
           ("const u32 lane_offset = tile_offset<d>(lane % 16, lane / 16);",
            "const u32 lane_offset = tile_offset<d>(lane % 16, 0) + lane / 16 * 16;")),
)  # fmt: skip

STATIC = "k_row = KV_ROW ? KV_ROW : p.k_row, v_row = KV_ROW ? KV_ROW : p.v_row;"

STRIDE = (
    mutant("s30_q_for_k", "s30", "K's and V's rows are as far apart as Q's, grouped heads or not",
           (STATIC, "k_row = KV_ROW ? KV_ROW : p.q_row, v_row = KV_ROW ? KV_ROW : p.q_row;")),
    mutant("s30_k_for_q", "s30", "Q's rows are as far apart as K's",
           ("Q_ROW ? Q_ROW : p.q_row", "Q_ROW ? Q_ROW : p.k_row")),
    mutant("s30_default", "s30", "the general kernel is compiled for one head, contiguous",
           ("int KV_ROW = 0>", "int KV_ROW = d>")),
    mutant("s30_head", "s30", "heads are taken to lie side by side, since the rows' stride is known",
           ("head_k * p.v_head", "head_k * d")),
    mutant("s30_batch", "s30", "a batch is taken to be seqlen rows",
           ("batch * p.q_batch", "batch * p.seqlen_q * p.q_row")),
)  # fmt: skip

TILES = (
    mutant("s31_to_and_fro", "s31", "the m-tiles' turn is reversed for Q, but not for S",
           ("mma_m16n8k16<T>(S[i][2 * n], Q_at", "mma_m16n8k16<T>(S[j][2 * n], Q_at")),
    mutant("s31_p", "s31", "every m-tile of O is multiplied by the first one's P",
           ("O_acc[i][2 * n + 1], P_frag[i]", "O_acc[i][2 * n + 1], P_frag[0]")),
    mutant("s31_q_rows", "s31", "every m-tile reads the first one's rows of Q",
           ("warp_row + i * MMA_M, 2 * k", "warp_row, 2 * k")),
    mutant("s31_mask_rows", "s31", "every m-tile is masked as the first one",
           ("key <= row(i, e / 2) + shift", "key <= row(0, e / 2) + shift")),
    mutant("s31_warp_rows", "s31", "warps are 16 rows apart, and own 32", ("warp * M * MMA_M", "warp * MMA_M")),
    mutant("s31_out_rows", "s31", "only the first m-tile of O is stored",
           ("i < M * MMA_M * CHUNKS", "i < MMA_M * CHUNKS")),
    mutant("s31_wait", "s31", "the wait leaves this tile's group under way",
           ("cp_async_wait<BUFFERS - 2>", "cp_async_wait<BUFFERS - 1>")),
    mutant("s31_ahead", "s31", "one tile further ahead than there are buffers",
           ("block - (BUFFERS - 1)", "block - BUFFERS")),
    mutant("s31_br", "s31", "causal: the walk ends where a tile of 64 rows would",
           ("first_row + Br + shift", "first_row + Bc + shift")),
)  # fmt: skip

SCHEDULE = (
    mutant("s32_one_off", "s32", "the Q tiles' order is turned round one off",
           ("gridDim.z - 1 - blockIdx.z", "gridDim.z - blockIdx.z")),
    mutant("s32_half_turned", "s32", "the walk's end is that of the tile before the order was turned round",
           ("min(last_key, first_row + Br + shift)", "min(last_key, int(blockIdx.z) * Br + Br + shift)")),
    mutant("s32_wrong_axis", "s32", "the Q tiles are counted on the axis of the heads",
           ("gridDim.z - 1", "gridDim.x - 1")),
    mutant("s32_swapped", "s32", "batch and head have changed axes in the kernel only",
           ("batch = CAUSAL ? blockIdx.y : blockIdx.z, head = blockIdx.x",
            "batch = blockIdx.x, head = CAUSAL ? blockIdx.y : blockIdx.z")),
    mutant("s32_one_order", "s32", "the kernel has the causal grid's axes without the mask, too",
           ("batch = CAUSAL ? blockIdx.y : blockIdx.z", "batch = blockIdx.y")),
    mutant("s32_lse", "s32", "L's place is counted with the axis that was the heads'",
           ("(long long)batch * p.nheads + head", "(long long)batch * gridDim.y + head")),
)  # fmt: skip

GROWTH = "rescale |= (m_new[i][r] - m[i][r]) * c > MAX_GROWTH;"
LAZY_ALPHA = "m_new[i][r] == -INFINITY ? 1.f : ex2((m[i][r] - m_new[i][r]) * c)"
LAZY_M_C = "m_c = m[i][r] == -INFINITY ? 0.f : m[i][r] * c"

LAZY = (
    mutant("s33_never", "s33", "nothing is ever large enough to rescale", ("MAX_GROWTH = 8.f", "MAX_GROWTH = 1e30f")),
    mutant("s33_wrong_way", "s33", "the growth is taken the wrong way round: it is never positive",
           (GROWTH, "rescale |= (m[i][r] - m_new[i][r]) * c > MAX_GROWTH;")),
    mutant("s33_last_row", "s33", "only the last of a lane's rows has a say", (GROWTH, GROWTH.replace("|=", "="))),
    mutant("s33_last_tile", "s33", "the growth is counted from the last tile's maximum, not from the reference",
           ("  float l[M][2]; ", "  float m_last[M][2];\n  float l[M][2]; "),
           ("m_new[i][r] = FIRST ? -INFINITY : m[i][r];", "m_new[i][r] = FIRST ? -INFINITY : m_last[i][r];"),
           (GROWTH, GROWTH.replace("- m[", "- m_last[")),
           (LAZY_M_C, "m_c = (m_last[i][r] = m_new[i][r], m[i][r] == -INFINITY) ? 0.f : m[i][r] * c")),
    mutant("s33_new_max", "s33", "P is taken under the new maximum, though O and l are under the old one",
           (LAZY_M_C, LAZY_M_C.replace("m[i]", "m_new[i]"))),
    mutant("s33_stale_m", "s33", "O and l are rescaled, m stays what it was",
           ("          m[i][r] = m_new[i][r];\n", "          if (FIRST) m[i][r] = m_new[i][r];\n")),
    mutant("s33_alpha", "s33", "rows that have seen no key are rescaled by -inf - -inf when another row is",
           (LAZY_ALPHA, "ex2((m[i][r] - m_new[i][r]) * c)")),
    mutant("s33_no_key", "s33", "rows that have seen no key subtract -inf from -inf", (LAZY_M_C, "m_c = m[i][r] * c")),
    mutant("s33_quad", "s33", "half a quad shares its maxima",
           ("          m_new[i][r] = fmaxf(m_new[i][r], shfl_xor(m_new[i][r], 2));\n", "")),
    mutant("s33_l", "s33", "l is not rescaled", ("            l[i][r] *= alpha;\n", "")),
    mutant("s33_half_O", "s33", "half of O is not rescaled", ("              O_acc[i][n][r * 2 + 1] *= alpha;\n", "")),
)  # fmt: skip

AHEAD_K, AHEAD_V = "const u32(&B)[4] = K_frag[step % 2];", "const u32(&B)[4] = V_frag[step % 2];"

AHEAD = (
    mutant("s34_one_set", "s34", "one set of registers: the next fragment of K comes before this one is used",
           ("ldmatrix_x4(K_frag[step % 2]", "ldmatrix_x4(K_frag[0]"), (AHEAD_K, AHEAD_K.replace("step % 2", "0"))),
    mutant("s34_other_set", "s34", "the set that is loaded with the next V is multiplied",
           (AHEAD_V, AHEAD_V.replace("step % 2", "(step + 1) % 2"))),
    mutant("s34_beyond", "s34", "the last step of V loads one beyond the tile",
           ("if (step + 1 < V_STEPS) load_V_frag", "load_V_frag")),
    mutant("s34_each_row", "s34", "no fragment of K is loaded ahead for the first step of the next k",
           ("if (step + 1 < K_STEPS) load_K_frag", "if (n + 1 < Bc / 16) load_K_frag")),
    mutant("s34_late", "s34", "the last fragment of K is not loaded: the loop stops asking a step early",
           ("if (step + 1 < K_STEPS) load_K_frag", "if (step + 2 < K_STEPS) load_K_frag")),
    mutant("s34_keys", "s34", "V's steps are taken apart as K's are: right at head dim 64 only",
           ("const int k = step / (d / 16), n = step % (d / 16);",
            "const int k = step / (Bc / 16), n = step % (Bc / 16);")),
    mutant("s34_behind", "s34", "this step's fragment of V is loaded once more, not the next",
           ("load_V_frag(step + 1);", "load_V_frag(step);")),
)  # fmt: skip

LADDER = (
    *SWIZZLE, *EAGER, *DOUBLE_BUFFER, *FRAGMENTS, *CAUSAL_TILES, *PEEL, *FP32, *MOVES, *ADDRESS, *STRIDE, *TILES,
    *SCHEDULE, *LAZY, *AHEAD,
)  # fmt: skip

MUTANTS = (*NAIVE, *ONLINE, *TRITON_V1, *TRITON_V2, *TRITON_TUNED, *MMA, *LADDER)
