// s24_fragment_pipeline: fragments are loaded one step ahead of the mma that use them, into a second set of registers.
//
// Dao, "FlashAttention-2" (2023), algorithm 1. A block owns a Q tile of one (batch, head) and walks K and V; each of its
// warps owns 16 of the tile's rows from the first load to the last store, so the softmax needs no other warp.
#include "ptx.cuh"

#include "params.cuh"

using namespace ptx;

constexpr int Br = 64, Bc = 64;  // rows of a Q tile, rows of a K/V tile
constexpr int BUFFERS = 2;  // K/V tiles in shared memory
constexpr int WARPS = 4;
constexpr int THREADS = 32 * WARPS;
constexpr int MMA_M = 16, MMA_N = 8, MMA_K = 16;
constexpr float LOG2_E = 1.4426950408889634f;

static_assert(Br == WARPS * MMA_M, "each warp owns MMA_M rows of Q");

// Where chunk `chunk` (eight elements, 16 bytes) of row `row` lies in a [rows][d] tile in shared memory, in bytes.
// A row fills the 32 banks once or twice, so chunk c of every row would lie in the same four. XOR with the row's number
// permutes the eight chunks of each 128 bytes, differently for eight rows in succession. Whoever writes and whoever
// reads asks here, so nobody else need know.
template <int d>
DEVICE u32 tile_offset(u32 row, u32 chunk) {
  return row * (d * 2) + (chunk ^ row % 8) * 16;
}

// Start copying rows [first_row, first_row + rows) of X [seqlen, d] into a tile; rows past the end become zeros.
template <int d, int rows>
DEVICE void load_tile(u32 tile, const u16* X, long long row_stride, int first_row, int seqlen) {
  constexpr int CHUNKS = d / 8;
#pragma unroll
  for (u32 i = threadIdx.x; i < rows * CHUNKS; i += THREADS) {
    const u32 row = i / CHUNKS, chunk = i % CHUNKS;
    const u16* from = X + (first_row + row) * row_stride + chunk * 8;
    cp_async_chunk(tile + tile_offset<d>(row, chunk), from, first_row + row < seqlen);
  }
}

// Two blocks a multiprocessor: so many as fit when a thread takes 255 registers, and so the compiler need not save any.
template <typename T, int d, bool CAUSAL>
__global__ void __launch_bounds__(THREADS, 2) attention_kernel(const Params p) {
  extern __shared__ __align__(128) unsigned char smem[];
  const u32 Q_smem = shared_address(smem);  // [Br][d]; O passes through it at the end
  const u32 KV_smem = Q_smem + Br * d * 2;  // [BUFFERS][K and V][Bc][d]
  constexpr u32 TILE_BYTES = Bc * d * 2;

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int batch = blockIdx.z, head = blockIdx.y, head_k = head / (p.nheads / p.nheads_k);
  const u16* Q = p.Q + batch * p.q_batch + head * p.q_head;    // [seqlen_q, d]
  const u16* K = p.K + batch * p.k_batch + head_k * p.k_head;  // [seqlen_k, d]
  const u16* V = p.V + batch * p.v_batch + head_k * p.v_head;  // [seqlen_k, d]
  u16* O = p.O + batch * p.o_batch + head * p.o_head;          // [seqlen_q, d]
  float* L = p.L + ((long long)batch * p.nheads + head) * p.seqlen_q;

  const int first_row = blockIdx.x * Br;            // of the block's Q tile
  const int shift = p.seqlen_k - p.seqlen_q;        // key j is visible to query i iff j <= i + shift
  const int quad = lane / 4, in_quad = lane % 4;    // an accumulator's row is `quad` or `quad + 8`: see mma_m16n8k16
  const int row[2] = {first_row + warp * MMA_M + quad, first_row + warp * MMA_M + quad + 8};

  load_tile<d, Br>(Q_smem, Q, p.q_row, first_row, p.seqlen_q);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  u32 Q_frag[d / MMA_K][4];  // this warp's 16 rows of Q, as A operands
#pragma unroll
  for (int k = 0; k < d / MMA_K; k++)
    ldmatrix_x4(Q_frag[k], Q_smem + tile_offset<d>(warp * MMA_M + lane % 16, 2 * k + lane / 16));

  float O_acc[d / MMA_N][4] = {};             // [16 rows, d], not yet divided by l
  float m[2] = {-INFINITY, -INFINITY};        // running maximum of the scores, one for each of the thread's two rows
  float l[2] = {0.f, 0.f};                    // running sum of exp(S - m): this thread's columns only, until the end

  int last_key = p.seqlen_k;
  if (CAUSAL) last_key = min(last_key, first_row + Br + shift);  // one past the last that the tile's last row sees

  const int blocks = last_key > 0 ? (last_key + Bc - 1) / Bc : 0;  // K/V tiles to walk

  const auto load_kv = [&](int block) {  // start copying a K/V tile, if there is one, into its buffer
    const u32 K_smem = KV_smem + block % BUFFERS * 2 * TILE_BYTES;
    if (block < blocks) {
      load_tile<d, Bc>(K_smem, K, p.k_row, block * Bc, p.seqlen_k);
      load_tile<d, Bc>(K_smem + TILE_BYTES, V, p.v_row, block * Bc, p.seqlen_k);
    }
    cp_async_commit();
  };
  load_kv(0);

  for (int block = 0; block < blocks; block++) {
    cp_async_wait<0>();
    __syncthreads();  // the tile is there for all; and all are done with the one before
    load_kv(block + 1);  // travels during this iteration, all of it
    const u32 K_smem = KV_smem + block % BUFFERS * 2 * TILE_BYTES, V_smem = K_smem + TILE_BYTES;

    // S = Q Kᵀ
    float S[Bc / MMA_N][4] = {};  // [16 rows, Bc]
    // BEGIN SOLUTION k_pipeline: two sets of registers: load step i + 1 into one, then multiply by the other
    constexpr int K_STEPS = d / MMA_K * (Bc / 16);
    u32 K_frag[2][4];  // 16 keys × 16 of d; rows of K are columns of Kᵀ, so no transpose: B operands for two n-tiles
    const auto load_K_frag = [&](int i) {
      const int k = i / (Bc / 16), n = i % (Bc / 16);
      ldmatrix_x4(K_frag[i % 2], K_smem + tile_offset<d>(n * 16 + lane % 16, 2 * k + lane / 16));
    };
    load_K_frag(0);
#pragma unroll
    for (int i = 0; i < K_STEPS; i++) {
      const int k = i / (Bc / 16), n = i % (Bc / 16);
      if (i + 1 < K_STEPS) load_K_frag(i + 1);
      mma_m16n8k16<T>(S[2 * n], Q_frag[k], K_frag[i % 2][0], K_frag[i % 2][2]);
      mma_m16n8k16<T>(S[2 * n + 1], Q_frag[k], K_frag[i % 2][1], K_frag[i % 2][3]);
    }
    // END SOLUTION

    // The online softmax, as in s02, for two rows a thread; a row's maximum is spread over the four lanes of a quad.
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float m_new = m[r];
#pragma unroll
      for (int n = 0; n < Bc / MMA_N; n++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int key = block * Bc + n * MMA_N + in_quad * 2 + e;
          const bool visible = key < p.seqlen_k && (!CAUSAL || key <= row[r] + shift);
          float& s = S[n][r * 2 + e];
          s = visible ? s * p.softmax_scale : -INFINITY;
          m_new = fmaxf(m_new, s);
        }
      }
      m_new = fmaxf(m_new, shfl_xor(m_new, 1));
      m_new = fmaxf(m_new, shfl_xor(m_new, 2));
      const float m_safe = m_new == -INFINITY ? 0.f : m_new;  // no key seen yet: -inf - -inf would be NaN
      const float alpha = ex2((m[r] - m_safe) * LOG2_E);
      m[r] = m_new;
      l[r] *= alpha;
#pragma unroll
      for (int n = 0; n < Bc / MMA_N; n++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float& s = S[n][r * 2 + e];
          s = ex2((s - m_safe) * LOG2_E);  // S becomes P
          l[r] += s;
        }
      }
#pragma unroll
      for (int n = 0; n < d / MMA_N; n++) {
        O_acc[n][r * 2] *= alpha;
        O_acc[n][r * 2 + 1] *= alpha;
      }
    }

    // O += P V
    // BEGIN SOLUTION v_pipeline: the same for V, whose steps walk d within 16 keys
    constexpr int V_STEPS = Bc / MMA_K * (d / 16);
    u32 V_frag[2][4];  // 16 keys × 16 of d, transposed on the way: B operands for two n-tiles
    const auto load_V_frag = [&](int i) {
      const int k = i / (d / 16), n = i % (d / 16);
      ldmatrix_x4_trans(V_frag[i % 2], V_smem + tile_offset<d>(k * 16 + lane % 16, 2 * n + lane / 16));
    };
    load_V_frag(0);
#pragma unroll
    for (int i = 0; i < V_STEPS; i++) {
      const int k = i / (d / 16), n = i % (d / 16);
      if (i + 1 < V_STEPS) load_V_frag(i + 1);
      // Two accumulators side by side lie in the registers as an A operand does: P goes from one product to the next as it is.
      const u32 P_frag[4] = {pack<T>(S[2 * k][0], S[2 * k][1]), pack<T>(S[2 * k][2], S[2 * k][3]),
                             pack<T>(S[2 * k + 1][0], S[2 * k + 1][1]), pack<T>(S[2 * k + 1][2], S[2 * k + 1][3])};
      mma_m16n8k16<T>(O_acc[2 * n], P_frag, V_frag[i % 2][0], V_frag[i % 2][1]);
      mma_m16n8k16<T>(O_acc[2 * n + 1], P_frag, V_frag[i % 2][2], V_frag[i % 2][3]);
    }
    // END SOLUTION
  }

  // O / l, by way of shared memory so that it leaves in whole 16-byte chunks, in the place of the warp's own rows of Q.
  __syncwarp();  // every lane has read them
#pragma unroll
  for (int r = 0; r < 2; r++) {
    l[r] += shfl_xor(l[r], 1);
    l[r] += shfl_xor(l[r], 2);
    if (l[r] == 0.f) l[r] = 1.f;  // a row that saw no key: O = 0 / 1, L = -inf + log 1
#pragma unroll
    for (int n = 0; n < d / MMA_N; n++)
      st_shared(Q_smem + tile_offset<d>(warp * MMA_M + quad + 8 * r, n) + in_quad * 4,
                pack<T>(O_acc[n][r * 2] / l[r], O_acc[n][r * 2 + 1] / l[r]));
    if (in_quad == 0 && row[r] < p.seqlen_q) st_global(&L[row[r]], m[r] + logf(l[r]));
  }
  __syncwarp();
  constexpr int CHUNKS = d / 8;
#pragma unroll
  for (int i = lane; i < MMA_M * CHUNKS; i += 32) {
    const int r = i / CHUNKS, chunk = i % CHUNKS, out_row = first_row + warp * MMA_M + r;
    if (out_row < p.seqlen_q)
      st_global_chunk(O + out_row * p.o_row + chunk * 8, ld_shared_chunk(Q_smem + tile_offset<d>(warp * MMA_M + r, chunk)));
  }
}
