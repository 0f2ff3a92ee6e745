// Adds up tiles of 64 rows of 64 elements, through a pipeline of asynchronous copies with one barrier a tile, and with
// two. Both are right; the tests plant bugs in them. Two warps, each of which reads rows that the other has loaded.
#include "ptx.cuh"

using namespace ptx;

constexpr int ROWS = 64, COLUMNS = 64, THREADS = 64;
constexpr int TILE_BYTES = ROWS * COLUMNS * sizeof(u16);

DEVICE void load_tile(u32 tile, const u16* X) {
  for (int i = threadIdx.x; i < ROWS * COLUMNS / 8; i += THREADS) cp_async_chunk(tile + i * 16, X + i * 8, true);
}

// Every lane adds up the bits that ldmatrix gives it; a warp reads one half of the rows.
DEVICE void add_tile(u32& sum, u32 tile) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int column = 0; column < COLUMNS / 8; column++) {
    u32 r[4];
    ldmatrix_x4(r, tile + ((warp * 32 + lane) * COLUMNS + column * 8) * sizeof(u16));
    for (int i = 0; i < 4; i++) sum += r[i];
  }
}

// X [tiles][64][64] -> sums [64]. One barrier a tile: it says that the tile is there, and that all are done with the
// one before it, whose buffer is filled next.
__global__ void one_barrier(const u16* X, float* sums, int tiles) {
  extern __shared__ __align__(128) unsigned char smem[];
  const u32 buffers = shared_address(smem);
  u32 sum = 0;
  load_tile(buffers, X);
  cp_async_commit();
  for (int t = 0; t < tiles; t++) {
    cp_async_wait<0>();
    __syncthreads();
    if (t + 1 < tiles) load_tile(buffers + (t + 1) % 2 * TILE_BYTES, X + (t + 1) * ROWS * COLUMNS);
    cp_async_commit();
    add_tile(sum, buffers + t % 2 * TILE_BYTES);
  }
  st_global(&sums[threadIdx.x], float(sum));
}

// The same with the next tile under way while this one is waited for, and a second barrier before its buffer is filled.
__global__ void two_barriers(const u16* X, float* sums, int tiles) {
  extern __shared__ __align__(128) unsigned char smem[];
  const u32 buffers = shared_address(smem);
  u32 sum = 0;
  load_tile(buffers, X);
  cp_async_commit();
  for (int t = 0; t < tiles; t++) {
    if (t + 1 < tiles) load_tile(buffers + (t + 1) % 2 * TILE_BYTES, X + (t + 1) * ROWS * COLUMNS);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();  // the tile is there
    add_tile(sum, buffers + t % 2 * TILE_BYTES);
    __syncthreads();  // its buffer is free
  }
  st_global(&sums[threadIdx.x], float(sum));
}
