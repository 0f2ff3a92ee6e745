// The PTX instructions that the kernels use, each as a small function.
//
// Every access to shared memory, every warp-wide instruction and every store of a result goes through here, so that the
// same kernel source can run elsewhere: a host compiler includes the emulator's version of these functions instead.
// Names follow the PTX ISA; shapes are those of its figures for m16n8k16 and m8n8 fragments.
#pragma once
#ifndef __CUDACC__
#include "emulator.hpp"
#else

#define DEVICE __device__ __forceinline__

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define INFINITY __int_as_float(0x7f800000)  // NVRTC has no <math.h>

// A pack of eight 16-bit elements: what one thread moves at a time.
struct __align__(16) Chunk {
  u32 x, y, z, w;
};

// The element types. Memory holds their bits as u16; arithmetic names the type.
struct f16 {};
struct bf16 {};

namespace ptx {

// ---- shared and global memory ---------------------------------------------------------------------------------------

// The 32-bit address that the shared-memory instructions take.
DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

DEVICE void st_shared(u32 address, u32 value) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

DEVICE Chunk ld_shared_chunk(u32 address) {
  Chunk v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address) : "memory");
  return v;
}

// One 16-byte store; a plain struct assignment may be split into four.
DEVICE void st_global_chunk(void* pointer, Chunk v) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(pointer), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

DEVICE void st_global(float* pointer, float v) { asm volatile("st.global.f32 [%0], %1;" ::"l"(pointer), "f"(v) : "memory"); }

// ---- asynchronous copies, global to shared (sm_80) ------------------------------------------------------------------

// Copy 16 bytes; where `valid` is false nothing is read and zeros are written.
DEVICE void cp_async_chunk(u32 to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

// Close the group of copies that this thread has issued since the last commit.
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait until at most N of this thread's groups are still under way. Other threads' copies need a barrier as well.
template <int N>
DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- matrix fragments -----------------------------------------------------------------------------------------------

// Four 8×8 matrices of 16-bit elements. Lane i gives the address of row i % 8 of matrix i / 8; it receives, of each
// matrix, the elements 2·(i % 4) and 2·(i % 4) + 1 of row i / 4.
DEVICE void ldmatrix_x4(u32 (&r)[4], u32 row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row_address)
               : "memory");
}

// The same, each matrix transposed on the way.
DEVICE void ldmatrix_x4_trans(u32 (&r)[4], u32 row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row_address)
               : "memory");
}

// D += A·B with A 16×16, B 16×8, D 16×8 in fp32. Lane i holds of D: row i / 4, columns 2·(i % 4) and the next, and the same of
// row i / 4 + 8.
template <typename T>
DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);

template <>
DEVICE void mma_m16n8k16<f16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
DEVICE void mma_m16n8k16<bf16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same where `zero`: D = A·B, whatever D was. The constant C costs no register and no instruction that clears D.
template <typename T>
DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, bool zero);

template <>
DEVICE void mma_m16n8k16<f16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, bool zero) {
  if (!zero) return mma_m16n8k16<f16>(d, a, b0, b1);
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
}

template <>
DEVICE void mma_m16n8k16<bf16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, bool zero) {
  if (!zero) return mma_m16n8k16<bf16>(d, a, b0, b1);
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

// Two floats rounded to T and packed, `low` in the lower half.
template <typename T>
DEVICE u32 pack(float low, float high);

template <>
DEVICE u32 pack<f16>(float low, float high) {
  u32 packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

template <>
DEVICE u32 pack<bf16>(float low, float high) {
  u32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

DEVICE float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

DEVICE float shfl_xor(float value, int lane_mask) { return __shfl_xor_sync(0xffffffffu, value, lane_mask); }

// Whether any of the warp's 32 lanes says so.
DEVICE bool vote_any(bool predicate) { return __any_sync(0xffffffffu, predicate); }

}  // namespace ptx
#endif  // __CUDACC__
