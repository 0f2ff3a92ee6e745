"""Small ideas that the final kernel does without, or has and would do without: each is a piece of text to replace.

A toggle turns one of them over. tools.ablate times the kernel with it against the kernel as it is; tests/test_ablate.py
fails when a text is no longer there, and runs and compiles every one.
"""

from __future__ import annotations

from dataclasses import dataclass

from stages import Stage, get

STAGE: Stage = get("s34")


@dataclass(frozen=True)
class Toggle:
    """name: unique; idea: what the variant does, as the table has it; why: what it could bring, or cost.

    kernel, host: (old, new) pairs; each old occurs exactly once in the stage's kernel.cu, its stage.py.
    """

    name: str
    idea: str
    why: str
    kernel: tuple[tuple[str, str], ...] = ()
    host: tuple[tuple[str, str], ...] = ()


def _tiles_of(stage: str) -> tuple[tuple[str, str], ...]:
    """What a host side looks up: the tiles that were chosen for another stage."""
    imported = "from stages.common.contract import prepare\n"
    return (imported, f"from stages import get\n{imported}"), ("chosen(STAGE, call, ", f'chosen(get("{stage}"), call, ')


STORE = "st_global_chunk(O + "
COPY = "cp_async_chunk(tile_step<d>("

TOGGLES = (
    Toggle(
        "stores_streaming",
        "O is stored as data that nobody will soon read (`st.global.cs`)",
        "O is written once. In the caches it takes the place of K and V, which other blocks read.",
        kernel=((STORE, "st_global_chunk_streaming(O + "),),
    ),
    Toggle(
        "stores_no_allocate",
        "O is stored past L1 (`st.global.L1::no_allocate`)",
        "The same, for L1 alone; but cp.async goes past L1 as well, so that nothing there could be evicted.",
        kernel=((STORE, "st_global_chunk_no_allocate(O + "),),
    ),
    Toggle(
        "prefetch_128",
        "copies ask L2 for 128 bytes at a time (`cp.async…L2::128B`)",
        "A row is 128 or 256 bytes long, and a warp asks for whole rows: nothing is left to fetch ahead.",
        kernel=((COPY, "cp_async_chunk_prefetch(tile_step<d>("),),
    ),
    Toggle(
        "advancing_pointers",
        "pointers to K and V advance by a tile, in place of an index that is multiplied by the row's length",
        "Two 64-bit additions a tile for two multiplications; two more pairs of registers that live all the time.",
        kernel=(
            (
                "  const auto load_kv = [&](auto is_ragged, int block) {",
                "  const u16* K_next = K + (blocks - 1LL) * Bc * k_row;  // the next K/V tile to be copied\n"
                "  const u16* V_next = V + (blocks - 1LL) * Bc * v_row;\n"
                "  const auto load_kv = [&](auto is_ragged, int block) {",
            ),
            (
                "(K_smem, K, k_row, block * Bc, p.seqlen_k);",
                "(K_smem, K_next, k_row, 0, p.seqlen_k - block * Bc);",
            ),
            (
                "(K_smem + TILE_BYTES, V, v_row, block * Bc, p.seqlen_k);\n",
                "(K_smem + TILE_BYTES, V_next, v_row, 0, p.seqlen_k - block * Bc);\n"
                "      K_next -= Bc * k_row, V_next -= Bc * v_row;\n",
            ),
        ),
    ),
    Toggle(
        "divide_by_l",
        "O is divided by l, in place of multiplied by 1/l",
        "d divisions a row for one, each of which takes a handful of instructions; at the end, once.",
        kernel=(
            (
                "pack<T>(O_acc[i][n][r * 2] * inv_l, O_acc[i][n][r * 2 + 1] * inv_l)",
                "pack<T>(O_acc[i][n][r * 2] / sum, O_acc[i][n][r * 2 + 1] / sum)",
            ),
            ("      const float inv_l = 1.f / sum;", ""),
        ),
    ),
    Toggle(
        "headdim_panels",
        "P V by panels of 16 columns of the head dim: all keys for one panel, then the next",
        "Two accumulators stay in use for the whole of a panel; but each mma waits for the one before it, and all of P "
        "has to be packed first. Q Kᵀ goes by panels of 16 as it is.",
        kernel=(
            (
                "    for (int k = 0; k < Bc / MMA_K; k++) {\n      u32 P_frag[M][4];\n",
                "    for (int k = 0; k < Bc / MMA_K; k++) {\n      auto& P_frag = P_frags[k];\n",
            ),
            ("    // O += P V\n", "    // O += P V\n    u32 P_frags[Bc / MMA_K][M][4];\n"),
            (
                "#pragma unroll\n      for (int n = 0; n < d / 16; n++) {\n        const int step = k * (d / 16) + n;",
                "    }\n"
                "#pragma unroll\n    for (int n = 0; n < d / 16; n++) {\n"
                "#pragma unroll\n      for (int k = 0; k < Bc / MMA_K; k++) {\n"
                "        const auto& P_frag = P_frags[k];\n"
                "        const int step = n * (Bc / MMA_K) + k;",
            ),
            (
                "      const int k = step / (d / 16), n = step % (d / 16);\n",
                "      const int k = step % (Bc / MMA_K), n = step / (Bc / MMA_K);\n",
            ),
        ),
    ),
    Toggle(
        "no_min_blocks",
        "launch bounds without the number of blocks a multiprocessor should hold",
        "The compiler may take all the registers it likes; then fewer blocks fit.",
        kernel=(("__launch_bounds__(TILES::THREADS, TILES::BLOCKS)", "__launch_bounds__(TILES::THREADS)"),),
    ),
    Toggle(
        "overlap_q",
        "the first K/V tile is asked for before Q is there",
        "One trip to memory a block less to wait for; it counts where a block walks few tiles.",
        kernel=(
            ("  cp_async_commit();\n  cp_async_wait<0>();\n  __syncthreads();\n", "  cp_async_commit();\n"),
            (
                "  if (TILES::Q_IN_REGISTERS) {\n#pragma unroll\n"
                "    for (int k = 0; k < d / MMA_K; k++) load_Q_frag(k);\n  }\n",
                "",
            ),
            (
                "  for (int i = 2; i < BUFFERS; i++) load_kv(Bool<false>(), blocks - i);\n",
                "  for (int i = 2; i < BUFFERS; i++) load_kv(Bool<false>(), blocks - i);\n"
                "  cp_async_wait<BUFFERS - 1>();  // Q's group is the oldest\n"
                "  __syncthreads();\n"
                "  if (TILES::Q_IN_REGISTERS) {\n#pragma unroll\n"
                "    for (int k = 0; k < d / MMA_K; k++) load_Q_frag(k);\n  }\n",
            ),
        ),
    ),
    Toggle(
        "fragments_in_place",
        "fragments of K and V are loaded right before their products, as in s33",
        "What s34 brings: the compiler orders unrolled loops itself, but not where it is short of registers.",
        kernel=(
            ("    load_K_frag(0);\n", ""),
            ("        if (step + 1 < K_STEPS) load_K_frag(step + 1);\n", "        load_K_frag(step);\n"),
            ("    load_V_frag(0);\n", ""),
            ("        if (step + 1 < V_STEPS) load_V_frag(step + 1);\n", "        load_V_frag(step);\n"),
        ),
    ),
    Toggle(
        "q_ahead",
        "fragments of Q, too, are loaded a step ahead where they are loaded for every K/V tile",
        "A product waits for the later of its two operands; but it takes 8 registers more, and there are none left.",
        kernel=(
            (
                "  u32 Q_frag[TILES::Q_IN_REGISTERS ? d / MMA_K : 1][M][4];",
                "  u32 Q_frag[TILES::Q_IN_REGISTERS ? d / MMA_K : 2][M][4];",
            ),
            ("Q_frag[TILES::Q_IN_REGISTERS ? k : 0]; };", "Q_frag[TILES::Q_IN_REGISTERS ? k : k % 2]; };"),
            ("    load_K_frag(0);\n", "    load_K_frag(0);\n    if (!TILES::Q_IN_REGISTERS) load_Q_frag(0);\n"),
            (
                "      if (!TILES::Q_IN_REGISTERS) load_Q_frag(k);\n",
                "      if (!TILES::Q_IN_REGISTERS && k + 1 < d / MMA_K) load_Q_frag(k + 1);\n",
            ),
        ),
    ),
    Toggle(
        "v_before_softmax",
        "the first fragment of V is loaded before the softmax, in place of after it",
        "The first product of P V need not wait for it; 4 registers more are taken all the while.",
        kernel=(
            (
                "    constexpr int V_STEPS = Bc / MMA_K * (d / 16);\n"
                "    u32 V_frag[2][4];  // 16 keys × 16 of d, transposed on the way: B operands for two n-tiles\n"
                "    const auto load_V_frag = [&](int step) {\n"
                "      const int k = step / (d / 16), n = step % (d / 16);\n"
                "      ldmatrix_x4_trans(V_frag[step % 2], tile_step<d>(V_smem + lane_offset, k * 16, 2 * n));\n"
                "    };\n"
                "    load_V_frag(0);\n",
                "",
            ),
            (
                "    if (block >= full_blocks) {\n",
                "    constexpr int V_STEPS = Bc / MMA_K * (d / 16);\n"
                "    u32 V_frag[2][4];\n"
                "    const auto load_V_frag = [&](int step) {\n"
                "      const int k = step / (d / 16), n = step % (d / 16);\n"
                "      ldmatrix_x4_trans(V_frag[step % 2], tile_step<d>(V_smem + lane_offset, k * 16, 2 * n));\n"
                "    };\n"
                "    load_V_frag(0);\n"
                "    if (block >= full_blocks) {\n",
            ),
        ),
    ),
    Toggle(
        "interleaved_exp",
        "the exponentials of 16 keys right before their part of P V, in place of all of them first",
        "While the tensor cores multiply by one slice of P, the other units could compute the next.",
        kernel=(
            ("    float m_new[M][2];  // of this", "    float m_c[M][2];\n    float m_new[M][2];  // of this"),
            (
                "        const float m_c = m[i][r] == -INFINITY ? 0.f : m[i][r] * c;"
                "  // no key seen yet: -inf - -inf would be NaN\n"
                "#pragma unroll\n"
                "        for (int n = 0; n < Bc / MMA_N; n++) {\n"
                "#pragma unroll\n"
                "          for (int e = 0; e < 2; e++) {\n"
                "            float& s = S[i][n][r * 2 + e];\n"
                "            s = ex2(s * c - m_c);  // S becomes P, at most 2^MAX_GROWTH: one FFMA and one MUFU\n"
                "            l[i][r] += s;\n"
                "          }\n"
                "        }\n",
                "        m_c[i][r] = m[i][r] == -INFINITY ? 0.f : m[i][r] * c;\n",
            ),
            (
                "      u32 P_frag[M][4];\n",
                "#pragma unroll\n"
                "      for (int i = 0; i < M; i++) {\n"
                "#pragma unroll\n"
                "        for (int e = 0; e < 8; e++) {\n"
                "          float& s = S[i][2 * k + e / 4][e % 4];\n"
                "          s = ex2(s * c - m_c[i][e / 2 % 2]);\n"
                "          l[i][e / 2 % 2] += s;\n"
                "        }\n"
                "      }\n"
                "      u32 P_frag[M][4];\n",
            ),
        ),
    ),
    Toggle(
        "always_rescale",
        "O and l are rescaled at every K/V tile",
        "What s33 saves: d/4 + 1 multiplications a row and thread, and the exponential of the factor.",
        kernel=(("constexpr float MAX_GROWTH = 8.f;", "constexpr float MAX_GROWTH = -1.f;"),),
    ),
    Toggle(
        "exact_rescale",
        "O and l are rescaled whenever a maximum grows at all, so that m is the maximum",
        "How much of s33's gain comes from the maxima that stay, and how much from letting them grow a little.",
        kernel=(("constexpr float MAX_GROWTH = 8.f;", "constexpr float MAX_GROWTH = 0.f;"),),
    ),
    Toggle(
        "tiles_of_s32",
        "the tiles that were chosen for s32",
        "How much of s33's gain is rescaling less, and how much are the tiles that fit without it.",
        host=_tiles_of("s32"),
    ),
    Toggle(
        "tiles_of_s33",
        "the tiles that were chosen for s33",
        "How much of s34's gain is loading fragments ahead, and how much are tiles that are faster with it.",
        host=_tiles_of("s33"),
    ),
    Toggle(
        "row_maximum",
        "a quad shares its maxima at every K/V tile, as in s32, in place of only where the warp rescales",
        "What s33 saves besides: nobody needs the row's maximum until O is rescaled. Two shuffles a row, and waits.",
        kernel=(
            (
                "          m_new[i][r] = fmaxf(m_new[i][r], shfl_xor(m_new[i][r], 1));\n"
                "          m_new[i][r] = fmaxf(m_new[i][r], shfl_xor(m_new[i][r], 2));\n",
                "",
            ),
            (
                "        // Any m does in",
                "        m_new[i][r] = fmaxf(m_new[i][r], shfl_xor(m_new[i][r], 1));\n"
                "        m_new[i][r] = fmaxf(m_new[i][r], shfl_xor(m_new[i][r], 2));\n"
                "        // Any m does in",
            ),
        ),
    ),
    Toggle(
        "guessed_maximum",
        "no maxima of full tiles but the first: a tile whose sums exceed 256 is done again, with maxima",
        "A lane's sum of a row, which is there anyway, says whether an exponential was large: "
        "one FMNMX less for each score, and no shuffles. A tile that is done again costs Q Kᵀ twice.",
        kernel=(
            (
                "    // S = Q Kᵀ\n    float S[M][Bc / MMA_N][4];  // [M · 16 rows, Bc]\n",
                "    float S[M][Bc / MMA_N][4], l_tile[M][2];\n    const auto scores = [&] {\n",
            ),
            (
                "    if (block >= full_blocks) {\n",
                "    };\n"
                "    const auto exponentials = [&](auto may_see_none) {  // S becomes P; is some of it above 256?\n"
                "      bool large = false;\n"
                "#pragma unroll\n"
                "      for (int i = 0; i < M; i++) {\n"
                "#pragma unroll\n"
                "        for (int r = 0; r < 2; r++) {\n"
                "          const bool none = decltype(may_see_none)::value && m[i][r] == -INFINITY;\n"
                "          const float m_c = none ? 0.f : m[i][r] * c;\n"
                "#pragma unroll\n"
                "          for (int n = 0; n < Bc / MMA_N; n++) {\n"
                "#pragma unroll\n"
                "            for (int e = 0; e < 2; e++) {\n"
                "              float& s = S[i][n][r * 2 + e];\n"
                "              s = ex2(s * c - m_c);\n"
                "              l_tile[i][r] = n == 0 && e == 0 ? s : l_tile[i][r] + s;\n"
                "            }\n"
                "          }\n"
                "          large |= !(l_tile[i][r] <= 256.f);\n"
                "        }\n"
                "      }\n"
                "      return large;\n"
                "    };\n"
                "    bool guessed = !FIRST && block < full_blocks - 1;  // every row has seen a key\n"
                "    if (guessed) {\n"
                "      scores();\n"
                "      guessed = !vote_any(exponentials(Bool<false>()));\n"
                "    }\n"
                "    if (!guessed) {\n"
                "      scores();\n"
                "    if (block >= full_blocks) {\n",
            ),
            (
                "#pragma unroll\n    for (int i = 0; i < M; i++) {\n"
                "#pragma unroll\n      for (int r = 0; r < 2; r++) {\n"
                "        const float m_c = m[i][r] == -INFINITY ? 0.f : m[i][r] * c;"
                "  // no key seen yet: -inf - -inf would be NaN\n"
                "#pragma unroll\n        for (int n = 0; n < Bc / MMA_N; n++) {\n"
                "#pragma unroll\n          for (int e = 0; e < 2; e++) {\n"
                "            float& s = S[i][n][r * 2 + e];\n"
                "            s = ex2(s * c - m_c);  // S becomes P, at most 2^MAX_GROWTH: one FFMA and one MUFU\n"
                "            l[i][r] += s;\n          }\n        }\n      }\n    }\n",
                "      exponentials(Bool<true>());\n"
                "    }\n"
                "#pragma unroll\n"
                "    for (int i = 0; i < M; i++) l[i][0] += l_tile[i][0], l[i][1] += l_tile[i][1];\n",
            ),
        ),
    ),
    Toggle(
        "m_tiles_forward",
        "a warp's m-tiles always in the same order, in place of to and fro",
        "Going back, the first mma finds Q's fragment, or P's, where the last had it. One m-tile a warp: no change.",
        kernel=(
            (
                "const int i = n % 2 ? M - 1 - j : j;\n          mma_m16n8k16<T>(S[",
                "const int i = j;\n          mma_m16n8k16<T>(S[",
            ),
            (
                "const int i = n % 2 ? M - 1 - j : j;\n          mma_m16n8k16<T>(O_acc[",
                "const int i = j;\n          mma_m16n8k16<T>(O_acc[",
            ),
        ),
    ),
    Toggle(
        "general_strides",
        "row strides come with the parameters, in place of compiled in",
        "What s30's specialisation still brings in the final kernel.",
        host=(("special=(*strides, tiles.argument) if strides else None", "special=None"),),
    ),
    Toggle(
        "one_head",
        "the Q tiles of one head start before the next head's, in place of all heads side by side",
        "K and V of a few heads stay in L2 for certain; but under the causal mask long blocks start until the end.",
        kernel=(
            ("CAUSAL ? gridDim.z - 1 - blockIdx.z : blockIdx.y;", "CAUSAL ? gridDim.x - 1 - blockIdx.x : blockIdx.x;"),
            ("batch = CAUSAL ? blockIdx.y : blockIdx.z, head = blockIdx.x,", "batch = blockIdx.z, head = blockIdx.y,"),
        ),
        host=(
            (
                "grid=(call.nheads, call.batch, q_tiles) if call.causal else (call.nheads, q_tiles, call.batch)",
                "grid=(q_tiles, call.nheads, call.batch)",
            ),
        ),
    ),
    Toggle(
        "first_tile_first",
        "Q tiles start from the first under the causal mask too, in place of the last",
        "Under the causal mask the last tiles have the most keys: those who start last with the most to do end alone.",
        kernel=(("CAUSAL ? gridDim.z - 1 - blockIdx.z : blockIdx.y;", "CAUSAL ? blockIdx.z : blockIdx.y;"),),
    ),
)  # fmt: skip
