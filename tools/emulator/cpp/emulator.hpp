// What a kernel sees when a host compiler reads it: CUDA's words, its built-in variables and functions, and (ptx.hpp) the
// functions of stages/common/ptx.cuh. Only declarations and thin templates are here, so that a kernel compiles in a
// second; the rest is compiled once, from worker.cpp.
//
// One process emulates one launch, on one thread of the CPU: blocks one after the other, the threads of a block as fibers.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// ---- CUDA's words ---------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
// The one storage class that is legal after `extern` and that a block-scope variable may have without saying `static`. All
// of the executable's thread_local variables lie side by side: memory.hpp takes that place for the block's shared memory.
#define __shared__ thread_local
#define DEVICE inline

struct __align__(16) Chunk {
  u32 x, y, z, w;
};
struct __align__(8) Pair {
  u32 x, y;
};
struct f16 {};
struct bf16 {};

namespace emulator {

// Where in the kernel's source an instruction stands. As a default argument it is the caller's place.
struct Source {
  const char* file;
  int line;
};
constexpr Source here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
#define EMULATOR_HERE emulator::Source source = emulator::here()

struct Index {
  u32 x, y, z;
};
extern const Index* thread_index;  // of the thread that is running
extern Index block_index, block_size, grid_size;

constexpr u32 FULL_MASK = 0xffffffffu;

enum class Shuffle { index, up, down, bitwise_xor };
u32 shuffle(Shuffle mode, u32 mask, u32 value, int operand, int width, Source source);
u32 vote_ballot(u32 mask, bool predicate, Source source);

enum class Element { f16, bf16 };
void mma_m16n8k16(Element type, float* d, const u32* a, u32 b0, u32 b1, Source source);
void ldmatrix(int matrices, bool transposed, u32* r, u32 row_address, Source source);
void cp_async(u32 to, const void* from, u32 bytes, bool valid, Source source);
void cp_async_wait(int pending, Source source);
u32 pack(Element type, float low, float high);

void load_shared(void* to, u32 address, u32 bytes, Source source);
void store_shared(u32 address, const void* from, u32 bytes, Source source);
void load_global(void* to, const void* pointer, u32 bytes, Source source);
void store_global(void* pointer, const void* from, u32 bytes, Source source);
void begin_atomic(void* pointer, u32 bytes, Source source);  // checks and counts; nothing else runs until the next call

template <typename T>
inline T load_shared(u32 address, Source source) {
  T value;
  load_shared(&value, address, sizeof(T), source);
  return value;
}
template <typename T>
inline T load_global(const void* pointer, Source source) {
  T value;
  load_global(&value, pointer, sizeof(T), source);
  return value;
}
template <typename T, typename Update>
inline T update_global(T* pointer, Source source, Update update) {
  begin_atomic(pointer, sizeof(T), source);
  const T old = *pointer;
  *pointer = update(old);
  return old;
}

// Subnormals become zeros of their sign.
inline float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.f, x) : x; }

template <typename T>
constexpr Element element = std::is_same_v<T, bf16> ? Element::bf16 : Element::f16;

}  // namespace emulator

#define threadIdx (*emulator::thread_index)
#define blockIdx (emulator::block_index)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)

// ---- CUDA's functions -----------------------------------------------------------------------------------------------

void __syncthreads(EMULATOR_HERE);
void __syncwarp(u32 mask = emulator::FULL_MASK, EMULATOR_HERE);

inline u32 __ballot_sync(u32 mask, bool predicate, EMULATOR_HERE) {
  return emulator::vote_ballot(mask, predicate, source);
}
inline bool __any_sync(u32 mask, bool predicate, EMULATOR_HERE) {
  return emulator::vote_ballot(mask, predicate, source) != 0;
}
inline bool __all_sync(u32 mask, bool predicate, EMULATOR_HERE) {
  return emulator::vote_ballot(mask, !predicate, source) == 0;
}

namespace emulator {
template <typename T>
T shuffle_value(Shuffle mode, u32 mask, T value, int operand, int width, Source source) {
  static_assert(sizeof(T) == 4, "shuffles move 32 bits");
  u32 bits;
  memcpy(&bits, &value, 4);
  bits = shuffle(mode, mask, bits, operand, width, source);
  memcpy(&value, &bits, 4);
  return value;
}
}  // namespace emulator

template <typename T>
T __shfl_sync(u32 mask, T value, int lane, int width = 32, EMULATOR_HERE) {
  return emulator::shuffle_value(emulator::Shuffle::index, mask, value, lane, width, source);
}
template <typename T>
T __shfl_up_sync(u32 mask, T value, int delta, int width = 32, EMULATOR_HERE) {
  return emulator::shuffle_value(emulator::Shuffle::up, mask, value, delta, width, source);
}
template <typename T>
T __shfl_down_sync(u32 mask, T value, int delta, int width = 32, EMULATOR_HERE) {
  return emulator::shuffle_value(emulator::Shuffle::down, mask, value, delta, width, source);
}
template <typename T>
T __shfl_xor_sync(u32 mask, T value, int lane_mask, int width = 32, EMULATOR_HERE) {
  return emulator::shuffle_value(emulator::Shuffle::bitwise_xor, mask, value, lane_mask, width, source);
}

template <typename T>
T atomicAdd(T* pointer, T value, EMULATOR_HERE) {
  return emulator::update_global(pointer, source, [=](T old) -> T {
    if constexpr (std::is_same_v<T, float>)  // PTX ISA, atom: add.f32 on global memory has no subnormals
      return emulator::flushed(emulator::flushed(old) + emulator::flushed(value));
    return old + value;
  });
}
template <typename T>
T atomicMax(T* pointer, T value, EMULATOR_HERE) {
  static_assert(std::is_integral_v<T>, "atomicMax is for integers");
  return emulator::update_global(pointer, source, [=](T old) { return old < value ? value : old; });
}
template <typename T>
T atomicCAS(T* pointer, T compare, T value, EMULATOR_HERE) {
  static_assert(std::is_integral_v<T>, "atomicCAS is for integers");
  return emulator::update_global(pointer, source, [=](T old) { return old == compare ? value : old; });
}
template <typename T>
T atomicExch(T* pointer, T value, EMULATOR_HERE) {
  return emulator::update_global(pointer, source, [=](T) { return value; });
}

template <typename A, typename B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <typename A, typename B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}
inline float __int_as_float(int bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
inline int __float_as_int(float value) {
  int bits;
  memcpy(&bits, &value, 4);
  return bits;
}

// ---- the way in -----------------------------------------------------------------------------------------------------

namespace emulator {

// What the worker needs to know of the one kernel that it is linked with.
struct Kernel {
  void (*run)(void* const* parameters);  // one thread of it
  int parameters;
  const size_t* sizes;  // of each parameter, in bytes
};
extern const Kernel kernel;

template <auto function>
struct Entry;
template <typename... P, void (*function)(P...)>
struct Entry<function> {
  static constexpr size_t sizes[sizeof...(P) + 1] = {sizeof(P)..., 0};
  template <size_t... I>
  static void call(void* const* parameters, std::index_sequence<I...>) {
    function(*static_cast<std::remove_const_t<P>*>(parameters[I])...);
  }
  static void run(void* const* parameters) { call(parameters, std::index_sequence_for<P...>()); }
};

}  // namespace emulator

#define EMULATOR_KERNEL(...)                       \
  const emulator::Kernel emulator::kernel = {      \
      emulator::Entry<&__VA_ARGS__>::run,          \
      sizeof(emulator::Entry<&__VA_ARGS__>::sizes) / sizeof(size_t) - 1, emulator::Entry<&__VA_ARGS__>::sizes};

#include "ptx.hpp"
