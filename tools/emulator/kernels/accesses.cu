// Small kernels whose counters are known from arithmetic, to compare the emulator with a GPU's profiler: each does one
// kind of access, well and badly. tools/emulator/cases.py says what they are launched with.
#include "ptx.cuh"

using namespace ptx;

// ---- accesses of 4, 8 and 16 bytes a lane, under one name each --------------------------------------------------------

#ifdef __CUDACC__
DEVICE u32 load_global(const u32* p) {
  u32 v;
  asm volatile("ld.global.b32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
DEVICE Pair load_global(const Pair* p) {
  Pair v;
  asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
  return v;
}
DEVICE Chunk load_global(const Chunk* p) {
  Chunk v;
  asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}
DEVICE void store_global(u32* p, u32 v) { asm volatile("st.global.b32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
DEVICE void store_global(Pair* p, Pair v) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(p), "r"(v.x), "r"(v.y) : "memory");
}
DEVICE void store_global(Chunk* p, Chunk v) { st_global_chunk(p, v); }

DEVICE void load_shared(u32& v, u32 address) {
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
}
DEVICE void load_shared(Pair& v, u32 address) {
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
}
DEVICE void load_shared(Chunk& v, u32 address) { v = ld_shared_chunk(address); }
DEVICE void store_shared(u32 address, u32 v) { st_shared(address, v); }
DEVICE void store_shared(u32 address, Pair v) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(v.x), "r"(v.y) : "memory");
}
DEVICE void store_shared(u32 address, Chunk v) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
#else
template <typename T>
T load_global(const T* p, EMULATOR_HERE) {
  T v;
  emulator::load_global(&v, p, sizeof(T), source);
  return v;
}
template <typename T>
void store_global(T* p, T v, EMULATOR_HERE) {
  emulator::store_global(p, &v, sizeof(T), source);
}
template <typename T>
void load_shared(T& v, u32 address, EMULATOR_HERE) {
  emulator::load_shared(&v, address, sizeof(T), source);
}
template <typename T>
void store_shared(u32 address, T v, EMULATOR_HERE) {
  emulator::store_shared(address, &v, sizeof(T), source);
}
#endif

// ---- global memory --------------------------------------------------------------------------------------------------

// Y[i] = X[i] for every `stride`-th i from `first` on, an element a thread.
template <typename T>
__global__ void strided_copy(const T* X, T* Y, int stride, int first) {
  const int i = first + (blockIdx.x * blockDim.x + threadIdx.x) * stride;
  store_global(Y + i, load_global(X + i));
}

// ---- shared memory --------------------------------------------------------------------------------------------------

// X [rows][columns] -> Y [columns][rows] by tiles of 32×32, a block of 32×8 threads each. A tile's rows start PITCH words
// apart: 32 puts a column into one bank, 33 into all of them.
template <int PITCH>
__global__ void tiled_transpose(const u32* X, u32* Y, int rows, int columns) {
  extern __shared__ __align__(128) unsigned char smem[];
  const u32 tile = shared_address(smem);
  const int x = threadIdx.x, row = blockIdx.y * 32, column = blockIdx.x * 32;
  for (int y = threadIdx.y; y < 32; y += 8)
    store_shared(tile + (y * PITCH + x) * 4, load_global(X + (row + y) * columns + column + x));
  __syncthreads();
  for (int y = threadIdx.y; y < 32; y += 8) {
    u32 v;
    load_shared(v, tile + (x * PITCH + y) * 4);
    store_global(Y + (column + y) * rows + row + x, v);
  }
}

// A warp stores a T a lane, PITCH bytes apart, and loads that of the lane before. Y [32]: the sum of its words, all of them,
// because the assembler narrows a load of which a part is not used.
template <typename T, int PITCH>
__global__ void pitched_lanes(u32* Y) {
  extern __shared__ __align__(128) unsigned char smem[];
  const u32 base = shared_address(smem);
  const int lane = threadIdx.x;
  union {
    u32 words[sizeof(T) / 4];
    T value;
  } v;
  for (int w = 0; w < int(sizeof(T) / 4); w++) v.words[w] = 4 * lane + w;
  store_shared(base + lane * PITCH, v.value);
  __syncwarp();
  load_shared(v.value, base + (lane + 31) % 32 * PITCH);
  u32 sum = 0;
  for (u32 word : v.words) sum += word;
  store_global(Y + lane, sum);
}

// Fill `bytes` bytes with their own places, 4 bytes a lane.
DEVICE void fill(u32 base, int bytes) {
  for (int i = threadIdx.x * 4; i < bytes; i += blockDim.x * 4) store_shared(base + i, u32(i));
}

DEVICE void add(u32& sum, const u32 (&r)[4]) {
  for (int i = 0; i < 4; i++) sum += r[i];
}

// Each warp reads 32 rows of 128 bytes by ldmatrix; rows start PITCH bytes apart. Y [threads]: the sum of what a lane got.
template <int PITCH>
__global__ void pitched_ldmatrix(u32* Y) {
  extern __shared__ __align__(128) unsigned char smem[];
  const u32 base = shared_address(smem);
  fill(base, blockDim.x * PITCH);
  __syncthreads();
  u32 sum = 0;
  for (int chunk = 0; chunk < 8; chunk++) {
    u32 r[4];
    ldmatrix_x4(r, base + threadIdx.x * PITCH + chunk * 16);
    add(sum, r);
  }
  __syncthreads();  // nothing is stored while others still read
  store_global(Y + threadIdx.x, sum);
}

// Warps 0-3 read rows of 144 bytes, which have no bank conflicts, over and over by ldmatrix. Warps 4-7 meanwhile copy
// 32 KiB of X asynchronously to other places in shared memory, or with COPIES false do nothing.
template <bool COPIES>
__global__ void ldmatrix_beside_copies(const u32* X, u32* Y, int times) {
  extern __shared__ __align__(128) unsigned char smem[];
  constexpr int PITCH = 144, ROWS = 32, READERS = 128;
  const u32 rows = shared_address(smem), copied = rows + ROWS * PITCH;  // 4608 bytes, then 32768
  const int thread = threadIdx.x;
  fill(rows, ROWS * PITCH);
  __syncthreads();
  u32 sum = 0;
  if (thread < READERS) {
    for (int t = 0; t < times; t++) {
      u32 r[4];
      ldmatrix_x4(r, rows + thread % 32 * PITCH + t % 8 * 16);
      add(sum, r);
    }
  } else if (COPIES) {
    for (int i = 0; i < 16; i++) {
      const int chunk = i * READERS + thread - READERS;
      cp_async_chunk(copied + chunk * 16, X + blockIdx.x * 8192 + chunk * 4, true);
    }
    cp_async_commit();
    cp_async_wait<0>();
  }
  __syncthreads();
  if (thread < READERS) store_global(Y + blockIdx.x * READERS + thread, sum);
}
