// Tells what lies where in a warp's registers by having the instructions do it: tools/emulator/fragments.py chooses the
// operands so that the registers' contents name their place. One warp; matrices are row-major.
#include "ptx.cuh"

using namespace ptx;

// Copy `rows` rows of 8 elements, 16 bytes each, to shared memory.
DEVICE void fill(u32 to, const u16* from, int rows) {
  for (int i = threadIdx.x; i < rows; i += 32) cp_async_chunk(to + i * 16, from + i * 8, true);
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
}

// X [32][8], four matrices one below the other -> what each lane receives, r [32 lanes][4 registers].
template <bool TRANSPOSED>
__global__ void load(const u16* X, u32* r) {
  extern __shared__ __align__(128) unsigned char smem[];
  const u32 X_smem = shared_address(smem);
  const int lane = threadIdx.x;
  fill(X_smem, X, 32);
  u32 X_frag[4];
  if (TRANSPOSED)
    ldmatrix_x4_trans(X_frag, X_smem + lane * 16);
  else
    ldmatrix_x4(X_frag, X_smem + lane * 16);
  for (int i = 0; i < 4; i++) r[lane * 4 + i] = X_frag[i];
}

// A [16][16], Bt [8][16] (the columns of B) -> the operands as ldmatrix gives them, a [32][4] and b [32][2], and the
// accumulator of their product, c [32][4].
template <typename T>
__global__ void multiply(const u16* A, const u16* Bt, u32* a, u32* b, float* c) {
  extern __shared__ __align__(128) unsigned char smem[];
  const u32 A_smem = shared_address(smem), Bt_smem = A_smem + 16 * 16 * sizeof(u16);
  const int lane = threadIdx.x;
  fill(A_smem, A, 32);
  fill(Bt_smem, Bt, 16);
  u32 A_frag[4], B_frag[4];  // of B two matrices are enough: lanes 16 to 31 ask for them once more
  ldmatrix_x4(A_frag, A_smem + (lane % 16) * 32 + lane / 16 * 16);
  ldmatrix_x4(B_frag, Bt_smem + (lane % 8) * 32 + lane / 8 % 2 * 16);
  float C_acc[4] = {};
  mma_m16n8k16<T>(C_acc, A_frag, B_frag[0], B_frag[1]);
  for (int i = 0; i < 4; i++) a[lane * 4 + i] = A_frag[i];
  for (int i = 0; i < 2; i++) b[lane * 2 + i] = B_frag[i];
  for (int i = 0; i < 4; i++) st_global(&c[lane * 4 + i], C_acc[i]);
}
