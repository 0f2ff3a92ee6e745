// Every function of ptx.cuh, once and in its order: for compilers to read.
#include "ptx.cuh"

using namespace ptx;

__global__ void every_function(u16* halves, u32* words, int* integers, float* floats, const void* from, void* to, int n) {
  extern __shared__ __align__(128) unsigned char smem[];
  const u32 base = shared_address(smem);

  u32 sum = ld_shared_u16(base) + ld_shared(base + 4);
  float x = ld_shared_f32(base + 8);
  Pair pair = ld_shared_pair(base + 16);
  Chunk chunk = ld_shared_chunk(base + 32);
  st_shared_u16(base + 48, u16(sum));
  st_shared(base + 52, sum);
  st_shared_f32(base + 56, x);
  st_shared_pair(base + 64, pair);
  st_shared_chunk(base + 80, chunk);
  sum += ld_global(halves) + ld_global(words);
  x += ld_global(floats);
  pair = ld_global_pair(static_cast<const Chunk*>(from) + 1);
  chunk = ld_global_chunk(from);
  st_global(halves, u16(sum));
  st_global(words, sum);
  st_global(floats, x);
  st_global_pair(to, pair);
  st_global_chunk(to, chunk);
  st_global_chunk_streaming(to, chunk);
  st_global_chunk_no_allocate(to, chunk);

  sum += atom_add(words, 1u) + atom_max(words, 2u) + atom_max(integers, n) + atom_cas(words, 3u, 4u) + atom_exch(words, 5u);
  x += atom_add(floats, 1.f);

  cp_async_chunk(base, from, n > 0);
  cp_async_chunk_prefetch(base + 16, from, n > 1);
  cp_async_ca<4>(base + 32, from, n > 2);
  cp_async_ca<8>(base + 48, from, n > 3);
  cp_async_ca<16>(base + 64, from, n > 4);
  cp_async_commit();
  cp_async_wait<0>();

  u32 r1, r2[2], r4[4];
  ldmatrix_x1(r1, base);
  ldmatrix_x2(r2, base);
  ldmatrix_x4(r4, base);
  sum += r1 + r2[0] + r2[1] + r4[0] + r4[1] + r4[2] + r4[3];
  ldmatrix_x1_trans(r1, base);
  ldmatrix_x2_trans(r2, base);
  ldmatrix_x4_trans(r4, base);
  float d[4] = {x, x, x, x};
  mma_m16n8k16<f16>(d, r4, r2[0], r1);
  mma_m16n8k16<bf16>(d, r4, r2[1], r1);
  float e[4];
  mma_m16n8k16<f16>(e, r4, r2[0], r1, true);
  mma_m16n8k16<bf16>(e, r4, r2[1], r1, n > 8);
  x += e[0] + e[1] + e[2] + e[3];

  sum += pack<f16>(d[0], d[1]) + pack<bf16>(d[2], d[3]);
  x = ex2(x);

  x = shfl_idx(shfl_down(shfl_up(shfl_xor(x, 1), 2), 3), 4);
  sum = shfl_idx(shfl_down(shfl_up(shfl_xor(sum, 1, 16), 2, 8), 3, 4), 4, 2);
  sum += vote_any(n > 5) + vote_all(n > 6) + vote_ballot(n > 7);

  bar_sync(3, 64);
  bar_arrive(7, 64);
  words[threadIdx.x] = sum;
  floats[threadIdx.x] = x;
}
