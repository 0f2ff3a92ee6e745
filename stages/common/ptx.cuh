// The PTX instructions that the kernels use, each as a small function.
//
// Every access to shared memory, every warp-wide instruction and every store of a result goes through here, so that the
// same kernel source can run elsewhere: a host compiler includes the emulator's version of these functions instead
// (tools/emulator/cpp/ptx.hpp, function for function). Names follow the PTX ISA; shapes are those of its figures for
// m16n8k16 and m8n8 fragments. Addresses are multiples of the bytes that are moved.
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

// Half of one.
struct __align__(8) Pair {
  u32 x, y;
};

// The element types. Memory holds their bits as u16; arithmetic names the type.
struct f16 {};
struct bf16 {};

namespace ptx {

// ---- shared and global memory ---------------------------------------------------------------------------------------

// The 32-bit address that the shared-memory instructions take.
DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

DEVICE u16 ld_shared_u16(u32 address) {
  u16 v;
  asm volatile("ld.shared.b16 %0, [%1];" : "=h"(v) : "r"(address) : "memory");
  return v;
}

DEVICE u32 ld_shared(u32 address) {
  u32 v;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}

DEVICE float ld_shared_f32(u32 address) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
  return v;
}

DEVICE Pair ld_shared_pair(u32 address) {
  Pair v;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
  return v;
}

DEVICE Chunk ld_shared_chunk(u32 address) {
  Chunk v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address) : "memory");
  return v;
}

DEVICE void st_shared_u16(u32 address, u16 value) {
  asm volatile("st.shared.b16 [%0], %1;" ::"r"(address), "h"(value) : "memory");
}

DEVICE void st_shared(u32 address, u32 value) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

DEVICE void st_shared_f32(u32 address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

DEVICE void st_shared_pair(u32 address, Pair v) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(v.x), "r"(v.y) : "memory");
}

DEVICE void st_shared_chunk(u32 address, Chunk v) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

DEVICE u16 ld_global(const u16* pointer) {
  u16 v;
  asm volatile("ld.global.b16 %0, [%1];" : "=h"(v) : "l"(pointer) : "memory");
  return v;
}

DEVICE u32 ld_global(const u32* pointer) {
  u32 v;
  asm volatile("ld.global.b32 %0, [%1];" : "=r"(v) : "l"(pointer) : "memory");
  return v;
}

DEVICE float ld_global(const float* pointer) {
  float v;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"(pointer) : "memory");
  return v;
}

DEVICE Pair ld_global_pair(const void* pointer) {
  Pair v;
  asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(pointer) : "memory");
  return v;
}

DEVICE Chunk ld_global_chunk(const void* pointer) {
  Chunk v;
  asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(pointer) : "memory");
  return v;
}

DEVICE void st_global(u16* pointer, u16 value) {
  asm volatile("st.global.b16 [%0], %1;" ::"l"(pointer), "h"(value) : "memory");
}

DEVICE void st_global(u32* pointer, u32 value) {
  asm volatile("st.global.b32 [%0], %1;" ::"l"(pointer), "r"(value) : "memory");
}

DEVICE void st_global(float* pointer, float value) {
  asm volatile("st.global.f32 [%0], %1;" ::"l"(pointer), "f"(value) : "memory");
}

DEVICE void st_global_pair(void* pointer, Pair v) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(pointer), "r"(v.x), "r"(v.y) : "memory");
}

// One 16-byte store; a plain struct assignment may be split into four.
DEVICE void st_global_chunk(void* pointer, Chunk v) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(pointer), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// The same for what nobody will soon read: first to leave the caches.
DEVICE void st_global_chunk_streaming(void* pointer, Chunk v) {
  asm volatile("st.global.cs.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(pointer), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// The same past L1, which keeps its room for what is loaded.
DEVICE void st_global_chunk_no_allocate(void* pointer, Chunk v) {
  asm volatile("st.global.L1::no_allocate.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(pointer), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}

// ---- atomics on global memory: what was there before comes back -------------------------------------------------------

DEVICE u32 atom_add(u32* pointer, u32 value) {
  u32 old;
  asm volatile("atom.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(pointer), "r"(value) : "memory");
  return old;
}

DEVICE float atom_add(float* pointer, float value) {
  float old;
  asm volatile("atom.global.add.f32 %0, [%1], %2;" : "=f"(old) : "l"(pointer), "f"(value) : "memory");
  return old;
}

DEVICE u32 atom_max(u32* pointer, u32 value) {
  u32 old;
  asm volatile("atom.global.max.u32 %0, [%1], %2;" : "=r"(old) : "l"(pointer), "r"(value) : "memory");
  return old;
}

DEVICE int atom_max(int* pointer, int value) {
  int old;
  asm volatile("atom.global.max.s32 %0, [%1], %2;" : "=r"(old) : "l"(pointer), "r"(value) : "memory");
  return old;
}

// `value` takes the place of what equals `compare`.
DEVICE u32 atom_cas(u32* pointer, u32 compare, u32 value) {
  u32 old;
  asm volatile("atom.global.cas.b32 %0, [%1], %2, %3;" : "=r"(old) : "l"(pointer), "r"(compare), "r"(value) : "memory");
  return old;
}

DEVICE u32 atom_exch(u32* pointer, u32 value) {
  u32 old;
  asm volatile("atom.global.exch.b32 %0, [%1], %2;" : "=r"(old) : "l"(pointer), "r"(value) : "memory");
  return old;
}

// ---- asynchronous copies, global to shared (sm_80) ------------------------------------------------------------------

// Copy 16 bytes; where `valid` is false nothing is read and zeros are written.
DEVICE void cp_async_chunk(u32 to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

// The same, and L2 fetches the whole 128 bytes that these are part of.
DEVICE void cp_async_chunk_prefetch(u32 to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

// 4, 8 or 16 bytes, through L1; only whole chunks can go past it.
template <int BYTES>
DEVICE void cp_async_ca(u32 to, const void* from, bool valid) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(BYTES), "r"(valid ? BYTES : 0) : "memory");
}

// Close the group of copies that this thread has issued since the last commit.
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait until at most N of this thread's groups are still under way. Other threads' copies need a barrier as well. Before a
// thread ends, all of its copies have to be waited for.
template <int N>
DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- matrix fragments -----------------------------------------------------------------------------------------------

// One, two or four 8×8 matrices of 16-bit elements. Lane i gives the address of row i % 8 of matrix i / 8, if there is one;
// it receives, of each matrix, the elements 2·(i % 4) and 2·(i % 4) + 1 of row i / 4.
DEVICE void ldmatrix_x1(u32& r, u32 row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(r)
               : "r"(row_address)
               : "memory");
}

DEVICE void ldmatrix_x2(u32 (&r)[2], u32 row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row_address)
               : "memory");
}

DEVICE void ldmatrix_x4(u32 (&r)[4], u32 row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row_address)
               : "memory");
}

// The same, each matrix transposed on the way.
DEVICE void ldmatrix_x1_trans(u32& r, u32 row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(r)
               : "r"(row_address)
               : "memory");
}

DEVICE void ldmatrix_x2_trans(u32 (&r)[2], u32 row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row_address)
               : "memory");
}

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

// ---- lanes of a warp, all 32 of them --------------------------------------------------------------------------------

// The value of another lane: `lane_mask` XOR this one's number, `delta` below or above it, or number `index`. `width`, a power
// of two, cuts the warp into segments, within which lanes are numbered; who would read past the end of the own segment
// (shfl_up: before its start) keeps the own value.
template <typename T>
DEVICE T shfl_xor(T value, int lane_mask, int width = 32) {
  return __shfl_xor_sync(0xffffffffu, value, lane_mask, width);
}

template <typename T>
DEVICE T shfl_up(T value, int delta, int width = 32) {
  return __shfl_up_sync(0xffffffffu, value, delta, width);
}

template <typename T>
DEVICE T shfl_down(T value, int delta, int width = 32) {
  return __shfl_down_sync(0xffffffffu, value, delta, width);
}

template <typename T>
DEVICE T shfl_idx(T value, int index, int width = 32) {
  return __shfl_sync(0xffffffffu, value, index, width);
}

// Whether any of the lanes says so; whether all do.
DEVICE bool vote_any(bool predicate) { return __any_sync(0xffffffffu, predicate); }
DEVICE bool vote_all(bool predicate) { return __all_sync(0xffffffffu, predicate); }

// Bit i is lane i's predicate.
DEVICE u32 vote_ballot(bool predicate) { return __ballot_sync(0xffffffffu, predicate); }

// ---- barriers of the block: beside __syncthreads(), which is number 0 for all of its threads --------------------------

// Come to barrier `id`, 0 to 15, and wait there until `threads` of the block's, a multiple of 32, have come: whole warps.
DEVICE void bar_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// The same without waiting: what this thread has written is there for those who wait.
DEVICE void bar_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

}  // namespace ptx
#endif  // __CUDACC__
