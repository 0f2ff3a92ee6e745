// The functions of stages/common/ptx.cuh, of the same names and signatures; what each does is said there. A last parameter,
// which a kernel never gives, brings the place in the source.
#pragma once
#include "emulator.hpp"

namespace ptx {

// ---- shared and global memory ---------------------------------------------------------------------------------------

u32 shared_address(const void* pointer, EMULATOR_HERE);

inline u16 ld_shared_u16(u32 address, EMULATOR_HERE) { return emulator::load_shared<u16>(address, source); }
inline u32 ld_shared(u32 address, EMULATOR_HERE) { return emulator::load_shared<u32>(address, source); }
inline float ld_shared_f32(u32 address, EMULATOR_HERE) { return emulator::load_shared<float>(address, source); }
inline Pair ld_shared_pair(u32 address, EMULATOR_HERE) { return emulator::load_shared<Pair>(address, source); }
inline Chunk ld_shared_chunk(u32 address, EMULATOR_HERE) { return emulator::load_shared<Chunk>(address, source); }

inline void st_shared_u16(u32 address, u16 value, EMULATOR_HERE) { emulator::store_shared(address, &value, 2, source); }
inline void st_shared(u32 address, u32 value, EMULATOR_HERE) { emulator::store_shared(address, &value, 4, source); }
inline void st_shared_f32(u32 address, float value, EMULATOR_HERE) { emulator::store_shared(address, &value, 4, source); }
inline void st_shared_pair(u32 address, Pair v, EMULATOR_HERE) { emulator::store_shared(address, &v, 8, source); }
inline void st_shared_chunk(u32 address, Chunk v, EMULATOR_HERE) { emulator::store_shared(address, &v, 16, source); }

inline u16 ld_global(const u16* pointer, EMULATOR_HERE) { return emulator::load_global<u16>(pointer, source); }
inline u32 ld_global(const u32* pointer, EMULATOR_HERE) { return emulator::load_global<u32>(pointer, source); }
inline float ld_global(const float* pointer, EMULATOR_HERE) { return emulator::load_global<float>(pointer, source); }
inline Pair ld_global_pair(const void* pointer, EMULATOR_HERE) { return emulator::load_global<Pair>(pointer, source); }
inline Chunk ld_global_chunk(const void* pointer, EMULATOR_HERE) { return emulator::load_global<Chunk>(pointer, source); }

inline void st_global(u16* pointer, u16 value, EMULATOR_HERE) { emulator::store_global(pointer, &value, 2, source); }
inline void st_global(u32* pointer, u32 value, EMULATOR_HERE) { emulator::store_global(pointer, &value, 4, source); }
inline void st_global(float* pointer, float value, EMULATOR_HERE) { emulator::store_global(pointer, &value, 4, source); }
inline void st_global_pair(void* pointer, Pair v, EMULATOR_HERE) { emulator::store_global(pointer, &v, 8, source); }
inline void st_global_chunk(void* pointer, Chunk v, EMULATOR_HERE) { emulator::store_global(pointer, &v, 16, source); }
// There are no caches here, so hints to them change nothing.
inline void st_global_chunk_streaming(void* pointer, Chunk v, EMULATOR_HERE) { st_global_chunk(pointer, v, source); }
inline void st_global_chunk_no_allocate(void* pointer, Chunk v, EMULATOR_HERE) { st_global_chunk(pointer, v, source); }

// ---- atomics on global memory ---------------------------------------------------------------------------------------

inline u32 atom_add(u32* pointer, u32 value, EMULATOR_HERE) { return atomicAdd(pointer, value, source); }
inline float atom_add(float* pointer, float value, EMULATOR_HERE) { return atomicAdd(pointer, value, source); }
inline u32 atom_max(u32* pointer, u32 value, EMULATOR_HERE) { return atomicMax(pointer, value, source); }
inline int atom_max(int* pointer, int value, EMULATOR_HERE) { return atomicMax(pointer, value, source); }
inline u32 atom_cas(u32* pointer, u32 compare, u32 value, EMULATOR_HERE) {
  return atomicCAS(pointer, compare, value, source);
}
inline u32 atom_exch(u32* pointer, u32 value, EMULATOR_HERE) { return atomicExch(pointer, value, source); }

// ---- asynchronous copies, global to shared --------------------------------------------------------------------------

inline void cp_async_chunk(u32 to, const void* from, bool valid, EMULATOR_HERE) {
  emulator::cp_async(to, from, 16, valid, source);
}
inline void cp_async_chunk_prefetch(u32 to, const void* from, bool valid, EMULATOR_HERE) {
  emulator::cp_async(to, from, 16, valid, source);
}
template <int BYTES>
inline void cp_async_ca(u32 to, const void* from, bool valid, EMULATOR_HERE) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
  emulator::cp_async(to, from, BYTES, valid, source);
}
void cp_async_commit(EMULATOR_HERE);
template <int N>
inline void cp_async_wait(EMULATOR_HERE) {
  emulator::cp_async_wait(N, source);
}

// ---- matrix fragments -----------------------------------------------------------------------------------------------

inline void ldmatrix_x1(u32& r, u32 row_address, EMULATOR_HERE) { emulator::ldmatrix(1, false, &r, row_address, source); }
inline void ldmatrix_x2(u32 (&r)[2], u32 row_address, EMULATOR_HERE) {
  emulator::ldmatrix(2, false, r, row_address, source);
}
inline void ldmatrix_x4(u32 (&r)[4], u32 row_address, EMULATOR_HERE) {
  emulator::ldmatrix(4, false, r, row_address, source);
}
inline void ldmatrix_x1_trans(u32& r, u32 row_address, EMULATOR_HERE) {
  emulator::ldmatrix(1, true, &r, row_address, source);
}
inline void ldmatrix_x2_trans(u32 (&r)[2], u32 row_address, EMULATOR_HERE) {
  emulator::ldmatrix(2, true, r, row_address, source);
}
inline void ldmatrix_x4_trans(u32 (&r)[4], u32 row_address, EMULATOR_HERE) {
  emulator::ldmatrix(4, true, r, row_address, source);
}

template <typename T>
inline void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, EMULATOR_HERE) {
  emulator::mma_m16n8k16(emulator::element<T>, d, a, b0, b1, source);
}
template <typename T>
inline void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, bool zero, EMULATOR_HERE) {
  if (zero) d[0] = d[1] = d[2] = d[3] = 0;
  emulator::mma_m16n8k16(emulator::element<T>, d, a, b0, b1, source);
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

template <typename T>
inline u32 pack(float low, float high) {
  return emulator::pack(emulator::element<T>, low, high);
}

float ex2(float x);

// ---- lanes of a warp ------------------------------------------------------------------------------------------------

template <typename T>
inline T shfl_xor(T value, int lane_mask, int width = 32, EMULATOR_HERE) {
  return __shfl_xor_sync(emulator::FULL_MASK, value, lane_mask, width, source);
}
template <typename T>
inline T shfl_up(T value, int delta, int width = 32, EMULATOR_HERE) {
  return __shfl_up_sync(emulator::FULL_MASK, value, delta, width, source);
}
template <typename T>
inline T shfl_down(T value, int delta, int width = 32, EMULATOR_HERE) {
  return __shfl_down_sync(emulator::FULL_MASK, value, delta, width, source);
}
template <typename T>
inline T shfl_idx(T value, int index, int width = 32, EMULATOR_HERE) {
  return __shfl_sync(emulator::FULL_MASK, value, index, width, source);
}

inline bool vote_any(bool predicate, EMULATOR_HERE) { return __any_sync(emulator::FULL_MASK, predicate, source); }
inline bool vote_all(bool predicate, EMULATOR_HERE) { return __all_sync(emulator::FULL_MASK, predicate, source); }
inline u32 vote_ballot(bool predicate, EMULATOR_HERE) { return __ballot_sync(emulator::FULL_MASK, predicate, source); }

// ---- barriers of the block ------------------------------------------------------------------------------------------

void bar_sync(int id, int threads, EMULATOR_HERE);
void bar_arrive(int id, int threads, EMULATOR_HERE);

}  // namespace ptx
