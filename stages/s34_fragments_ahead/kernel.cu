// s34_fragments_ahead: a fragment of K or V is loaded before the products of the one before, not before its own.
//
// Dao, "FlashAttention-2" (2023), algorithm 1. A block owns a Q tile of one (batch, head) and walks K and V; each of its
// warps owns some of the tile's rows from the first load to the last store, so the softmax needs no other warp.
#include "ptx.cuh"

#include "params.cuh"

using namespace ptx;

constexpr int MMA_M = 16, MMA_N = 8, MMA_K = 16;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float MAX_GROWTH = 8.f;  // log2 of the largest P: 256 is far from where fp16 ends, and l and O are fp32

// Rows of a Q tile and of a K/V tile, warps of a block, K/V tiles in shared memory, whether Q's fragments stay in
// registers or are loaded again for every K/V tile, and for how many blocks a multiprocessor there have to be registers.
template <int Br_, int Bc_, int WARPS_, int BUFFERS_, bool Q_IN_REGISTERS_, int BLOCKS_>
struct Tiles {
  static constexpr int Br = Br_, Bc = Bc_, WARPS = WARPS_, BUFFERS = BUFFERS_, BLOCKS = BLOCKS_;
  static constexpr int THREADS = 32 * WARPS, M = Br / (WARPS * MMA_M);  // M: m-tiles of 16 rows that a warp owns
  static constexpr bool Q_IN_REGISTERS = Q_IN_REGISTERS_;
  static_assert(Br == WARPS * M * MMA_M, "the warps share the rows of Q in m-tiles of MMA_M");
};

template <int d>  // where nothing was tuned
using DefaultTiles = Tiles<d == 64 ? 128 : 64, 64, 4, 2, true, 2>;

// Where chunk `chunk` (eight elements, 16 bytes) of row `row` lies in a [rows][d] tile in shared memory, in bytes.
// A row fills the 32 banks once or twice, so chunk c of every row would lie in the same four. XOR with the row's number
// permutes the eight chunks of each 128 bytes, differently for eight rows in succession. Whoever writes and whoever
// reads asks here, so nobody else need know.
template <int d>
DEVICE u32 tile_offset(u32 row, u32 chunk) {
  return row * (d * 2) + (chunk ^ row % 8) * 16;
}

// The place `rows` rows and `chunks` chunks on from `place`, an address or an offset. XOR goes bit by bit, so that
// (a + b) ^ r = (a ^ r) ^ b where a and b have no bit in common. With `rows` a multiple of 8, which leaves r as it was, and
// `chunks` without the bits of the chunk at `place`, the swizzle need not be computed again; tiles begin at multiples of
// their rows' length, and stay out of it. Both are constants: one XOR serves every n, and n itself is an immediate.
template <int d>
DEVICE u32 tile_step(u32 place, u32 rows, u32 chunks) {
  return (place ^ chunks * 16) + rows * (d * 2);
}

// Start copying rows [first_row, first_row + rows) of X [seqlen, d] into a tile; if RAGGED, rows past the end become zeros.
template <int d, int rows, int THREADS, bool RAGGED>
DEVICE void load_tile(u32 tile, const u16* X, long long row_stride, int first_row, int seqlen) {
  constexpr int CHUNKS = d / 8, STEP = THREADS / CHUNKS;  // chunks of a row; rows that the block copies at a time
  static_assert(STEP % 8 == 0 && rows % STEP == 0, "the swizzle is the same in every step");
  const u32 row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
  const u32 to = tile + tile_offset<d>(row, chunk);
  const u16* from = X + first_row * row_stride + (row * row_stride + chunk * 8);  // the second part is every tile's
#pragma unroll
  for (int i = 0; i < rows; i += STEP)
    cp_async_chunk(tile_step<d>(to, i, 0), from + i * row_stride, !RAGGED || first_row + row + i < seqlen);
}

template <bool b>
struct Bool {  // a compile-time argument for a function that is not a template
  static constexpr bool value = b;
};

// Q_ROW, KV_ROW: the row strides of Q and of K and V in elements, or 0: then they come with the parameters.
template <typename T, int d, bool CAUSAL, int Q_ROW = 0, int KV_ROW = 0, typename TILES = DefaultTiles<d>>
__global__ void __launch_bounds__(TILES::THREADS, TILES::BLOCKS) attention_kernel(const Params p) {
  constexpr int Br = TILES::Br, Bc = TILES::Bc, BUFFERS = TILES::BUFFERS, M = TILES::M, THREADS = TILES::THREADS;
  extern __shared__ __align__(256) unsigned char smem[];
  const u32 Q_smem = shared_address(smem);  // [Br][d]; O passes through it at the end
  const u32 KV_smem = Q_smem + Br * d * 2;  // [BUFFERS][K and V][Bc][d]
  constexpr u32 TILE_BYTES = Bc * d * 2;

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int q_tile = CAUSAL ? gridDim.z - 1 - blockIdx.z : blockIdx.y;
  const int batch = CAUSAL ? blockIdx.y : blockIdx.z, head = blockIdx.x, head_k = head / (p.nheads / p.nheads_k);
  const u16* Q = p.Q + batch * p.q_batch + head * p.q_head;    // [seqlen_q, d]
  const u16* K = p.K + batch * p.k_batch + head_k * p.k_head;  // [seqlen_k, d]
  const u16* V = p.V + batch * p.v_batch + head_k * p.v_head;  // [seqlen_k, d]
  u16* O = p.O + batch * p.o_batch + head * p.o_head;          // [seqlen_q, d]
  float* L = p.L + ((long long)batch * p.nheads + head) * p.seqlen_q;

  const long long q_row = Q_ROW ? Q_ROW : p.q_row, k_row = KV_ROW ? KV_ROW : p.k_row, v_row = KV_ROW ? KV_ROW : p.v_row;

  const int first_row = q_tile * Br;                // of the block's Q tile
  const int shift = p.seqlen_k - p.seqlen_q;        // key j is visible to query i iff j <= i + shift
  const int quad = lane / 4, in_quad = lane % 4;    // an accumulator's row is `quad` or `quad + 8`: see mma_m16n8k16
  const int warp_row = warp * M * MMA_M;            // of the tile: the first that this warp owns
  const auto row = [&](int i, int r) { return first_row + warp_row + i * MMA_M + quad + 8 * r; };

  load_tile<d, Br, THREADS, true>(Q_smem, Q, q_row, first_row, p.seqlen_q);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  // Where this lane's row of an ldmatrix lies in the first 16×16 elements of a tile; for K, in its fragments' order.
  const u32 lane_offset = tile_offset<d>(lane % 16, lane / 16);
  const u32 K_lane_offset = tile_offset<d>(lane / 16 * 8 + lane % 8, lane / 8 % 2);

  u32 Q_frag[TILES::Q_IN_REGISTERS ? d / MMA_K : 1][M][4];  // this warp's rows of Q, as A operands
  const auto Q_at = [&](int k) -> u32 (&)[M][4] { return Q_frag[TILES::Q_IN_REGISTERS ? k : 0]; };
  const auto load_Q_frag = [&](int k) {
#pragma unroll
    for (int i = 0; i < M; i++) ldmatrix_x4(Q_at(k)[i], Q_smem + tile_step<d>(lane_offset, warp_row + i * MMA_M, 2 * k));
  };
  if (TILES::Q_IN_REGISTERS) {
#pragma unroll
    for (int k = 0; k < d / MMA_K; k++) load_Q_frag(k);
  }

  float O_acc[M][d / MMA_N][4];  // [M · 16 rows, d], not yet divided by l
  float m[M][2];                 // a recent maximum of Q Kᵀ, not yet scaled, for each of the thread's rows
  float l[M][2];                 // running sum of exp2((Q Kᵀ - m)·c): this thread's columns only, until the end

  const float c = p.softmax_scale * LOG2_E;  // exp(softmax_scale·x) = exp2(c·x)

  int last_key = p.seqlen_k;
  if (CAUSAL) last_key = min(last_key, first_row + Br + shift);  // one past the last that the tile's last row sees

  const int blocks = last_key > 0 ? (last_key + Bc - 1) / Bc : 0;  // K/V tiles to walk: those that some row sees
  const int every_row_sees = CAUSAL ? min(p.seqlen_k, first_row + 1 + shift) : p.seqlen_k;  // as many keys as the first row
  const int full_blocks = max(every_row_sees, 0) / Bc;  // of `blocks`, the first so many need no mask

  const auto load_kv = [&](auto is_ragged, int block) {  // start copying a K/V tile, if there is one, into its buffer
    constexpr bool RAGGED = decltype(is_ragged)::value;
    const u32 K_smem = KV_smem + block % BUFFERS * 2 * TILE_BYTES;
    if (block >= 0) {
      load_tile<d, Bc, THREADS, RAGGED>(K_smem, K, k_row, block * Bc, p.seqlen_k);
      load_tile<d, Bc, THREADS, RAGGED>(K_smem + TILE_BYTES, V, v_row, block * Bc, p.seqlen_k);
    }
    cp_async_commit();
  };
  load_kv(Bool<true>(), blocks - 1);  // the only one that may reach past the end
#pragma unroll
  for (int i = 2; i < BUFFERS; i++) load_kv(Bool<false>(), blocks - i);

  const auto attend = [&](auto is_first, int block) {  // work on one K/V tile
    constexpr bool FIRST = decltype(is_first)::value;
    cp_async_wait<BUFFERS - 2>();
    __syncthreads();  // the tile is there for all; and all are done with the one before
    load_kv(Bool<false>(), block - (BUFFERS - 1));  // travels during this iteration and the next BUFFERS - 2
    const u32 K_smem = KV_smem + block % BUFFERS * 2 * TILE_BYTES, V_smem = K_smem + TILE_BYTES;

    // S = Q Kᵀ
    float S[M][Bc / MMA_N][4];  // [M · 16 rows, Bc]
    // BEGIN SOLUTION k_ahead: two sets of registers: load the next step into one, then multiply by the other
    constexpr int K_STEPS = d / MMA_K * (Bc / 16);
    u32 K_frag[2][4];  // 16 keys × 16 of d; rows of K are columns of Kᵀ, so no transpose: B operands for two n-tiles
    const auto load_K_frag = [&](int step) {
      const int k = step / (Bc / 16), n = step % (Bc / 16);
      // An mma reads B from two registers side by side: matrices 0 and 1 are those of one n-tile, 2 and 3 of the next.
      ldmatrix_x4(K_frag[step % 2], tile_step<d>(K_smem + K_lane_offset, n * 16, 2 * k));
    };
    load_K_frag(0);
#pragma unroll
    for (int k = 0; k < d / MMA_K; k++) {
      if (!TILES::Q_IN_REGISTERS) load_Q_frag(k);
#pragma unroll
      for (int n = 0; n < Bc / 16; n++) {
        const int step = k * (Bc / 16) + n;
        if (step + 1 < K_STEPS) load_K_frag(step + 1);
        const u32(&B)[4] = K_frag[step % 2];
#pragma unroll
        for (int j = 0; j < M; j++) {
          const int i = n % 2 ? M - 1 - j : j;
          mma_m16n8k16<T>(S[i][2 * n], Q_at(k)[i], B[0], B[1], k == 0);
          mma_m16n8k16<T>(S[i][2 * n + 1], Q_at(k)[i], B[2], B[3], k == 0);
        }
      }
    }
    // END SOLUTION

    if (block >= full_blocks) {
#pragma unroll
      for (int i = 0; i < M; i++) {
#pragma unroll
        for (int n = 0; n < Bc / MMA_N; n++) {
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const int key = block * Bc + n * MMA_N + in_quad * 2 + e % 2;
            const bool visible = key < p.seqlen_k && (!CAUSAL || key <= row(i, e / 2) + shift);
            if (!visible) S[i][n][e] = -INFINITY;
          }
        }
      }
    }

    // The online softmax, as in s02, for two rows a thread and m-tile; a row's maximum is spread over four lanes, a quad.
    float m_new[M][2];  // of this thread's columns; of the row where O is rescaled
    bool rescale = FIRST;
#pragma unroll
    for (int i = 0; i < M; i++) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        m_new[i][r] = FIRST ? -INFINITY : m[i][r];
#pragma unroll
        for (int n = 0; n < Bc / MMA_N; n++) {
#pragma unroll
          for (int e = 0; e < 2; e++) {
            m_new[i][r] = fmaxf(m_new[i][r], S[i][n][r * 2 + e]);  // the scale is positive: maximum and scaling commute
          }
        }
        // Any m does in exp2(S·c - m·c), if only no P overflows; and NaN > 8, from -inf - -inf, is false.
        if (!FIRST) rescale |= (m_new[i][r] - m[i][r]) * c > MAX_GROWTH;
      }
    }
    // One vote of the warp, so that no lane goes another way; a quad shares its maxima only here.
    if (FIRST || vote_any(rescale)) {
#pragma unroll
      for (int i = 0; i < M; i++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
          m_new[i][r] = fmaxf(m_new[i][r], shfl_xor(m_new[i][r], 1));
          m_new[i][r] = fmaxf(m_new[i][r], shfl_xor(m_new[i][r], 2));
          if (FIRST) {
            l[i][r] = 0.f;
          } else {
            const float alpha = m_new[i][r] == -INFINITY ? 1.f : ex2((m[i][r] - m_new[i][r]) * c);
            l[i][r] *= alpha;
#pragma unroll
            for (int n = 0; n < d / MMA_N; n++) {
              O_acc[i][n][r * 2] *= alpha;
              O_acc[i][n][r * 2 + 1] *= alpha;
            }
          }
          m[i][r] = m_new[i][r];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < M; i++) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const float m_c = m[i][r] == -INFINITY ? 0.f : m[i][r] * c;  // no key seen yet: -inf - -inf would be NaN
#pragma unroll
        for (int n = 0; n < Bc / MMA_N; n++) {
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float& s = S[i][n][r * 2 + e];
            s = ex2(s * c - m_c);  // S becomes P, at most 2^MAX_GROWTH: one FFMA and one MUFU
            l[i][r] += s;
          }
        }
      }
    }

    // O += P V
    // BEGIN SOLUTION v_ahead: the same for V, whose steps walk d within 16 keys
    constexpr int V_STEPS = Bc / MMA_K * (d / 16);
    u32 V_frag[2][4];  // 16 keys × 16 of d, transposed on the way: B operands for two n-tiles
    const auto load_V_frag = [&](int step) {
      const int k = step / (d / 16), n = step % (d / 16);
      ldmatrix_x4_trans(V_frag[step % 2], tile_step<d>(V_smem + lane_offset, k * 16, 2 * n));
    };
    load_V_frag(0);
#pragma unroll
    for (int k = 0; k < Bc / MMA_K; k++) {
      u32 P_frag[M][4];
#pragma unroll
      for (int i = 0; i < M; i++) {
        // Two accumulators side by side lie in the registers as an A operand does: P goes from product to product as it is.
#pragma unroll
        for (int e = 0; e < 4; e++) P_frag[i][e] = pack<T>(S[i][2 * k + e / 2][e % 2 * 2], S[i][2 * k + e / 2][e % 2 * 2 + 1]);
      }
#pragma unroll
      for (int n = 0; n < d / 16; n++) {
        const int step = k * (d / 16) + n;
        if (step + 1 < V_STEPS) load_V_frag(step + 1);
        const u32(&B)[4] = V_frag[step % 2];
#pragma unroll
        for (int j = 0; j < M; j++) {
          const int i = n % 2 ? M - 1 - j : j;
          mma_m16n8k16<T>(O_acc[i][2 * n], P_frag[i], B[0], B[1], FIRST && k == 0);
          mma_m16n8k16<T>(O_acc[i][2 * n + 1], P_frag[i], B[2], B[3], FIRST && k == 0);
        }
      }
    }
    // END SOLUTION
  };
  if (blocks > 0) attend(Bool<true>(), blocks - 1);
  for (int block = blocks - 2; block >= 0; block--) attend(Bool<false>(), block);  // masked tiles have come first
  if (blocks == 0) {
#pragma unroll
    for (int i = 0; i < M; i++) {
      m[i][0] = m[i][1] = -INFINITY, l[i][0] = l[i][1] = 0.f;
#pragma unroll
      for (int n = 0; n < d / MMA_N; n++) O_acc[i][n][0] = O_acc[i][n][1] = O_acc[i][n][2] = O_acc[i][n][3] = 0.f;
    }
  }

  // O / l, by way of shared memory so that it leaves in whole 16-byte chunks, in the place of the warp's own rows of Q.
  __syncwarp();  // every lane has read them
  const u32 O_lane = Q_smem + tile_offset<d>(quad, 0) + in_quad * 4;
#pragma unroll
  for (int i = 0; i < M; i++) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float sum = l[i][r];
      sum += shfl_xor(sum, 1);
      sum += shfl_xor(sum, 2);
      if (sum == 0.f) sum = 1.f;  // a row that saw no key: O = 0 / 1, L = -inf + log 1
      const float inv_l = 1.f / sum;  // one division for a row, not one for each of its elements
#pragma unroll
      for (int n = 0; n < d / MMA_N; n++)
        st_shared(tile_step<d>(O_lane, warp_row + i * MMA_M + 8 * r, n),
                  pack<T>(O_acc[i][n][r * 2] * inv_l, O_acc[i][n][r * 2 + 1] * inv_l));
      if (in_quad == 0 && row(i, r) < p.seqlen_q) st_global(&L[row(i, r)], m[i][r] * p.softmax_scale + logf(sum));
    }
  }
  __syncwarp();
  constexpr int CHUNKS = d / 8;
#pragma unroll
  for (int i = lane; i < M * MMA_M * CHUNKS; i += 32) {
    const int r = warp_row + i / CHUNKS, chunk = i % CHUNKS, out_row = first_row + r;
    if (out_row < p.seqlen_q)
      st_global_chunk(O + out_row * p.o_row + chunk * 8, ld_shared_chunk(Q_smem + tile_offset<d>(r, chunk)));
  }
}
