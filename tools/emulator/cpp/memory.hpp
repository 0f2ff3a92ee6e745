// Shared and global memory: every access is checked for range and alignment, counted, and checked for races.
//
// Global memory is what the launch's array arguments cover, no more: an access elsewhere ends the launch, also where the
// process would have survived it.
#pragma once
#include <link.h>

#include "counters.hpp"
#include "races.hpp"
#include "state.hpp"

constexpr unsigned SHARED_LIMIT = 232448;  // 227 KiB, the most that a block can have on any GPU so far
constexpr unsigned STATIC_LIMIT = 49152;   // of which static arrays can be so much

// What `extern __shared__ ... smem[]` in a kernel refers to.
alignas(1024) thread_local unsigned char smem[SHARED_LIMIT];

namespace emulator {

// The block's shared memory: the kernel's static __shared__ arrays, then smem. To the linker all of these are thread-local
// variables of the executable. Others come after them, if any: those of a C++ library that is linked in statically.
inline unsigned char* shared_memory;

// The bytes of static arrays, and what aligns smem behind them. False: smem is no part of them.
inline bool find_shared_memory(u32& static_bytes) {
  struct Segment {
    unsigned char* start = nullptr;
    size_t bytes = 0;
  } variables;
  const auto look = [](dl_phdr_info* info, size_t, void* found) {
    for (int i = 0; i < info->dlpi_phnum; i++)
      if (info->dlpi_phdr[i].p_type == PT_TLS)
        *static_cast<Segment*>(found) = {static_cast<unsigned char*>(info->dlpi_tls_data), info->dlpi_phdr[i].p_memsz};
    return 1;  // the executable comes first; no library is of interest
  };
  dl_iterate_phdr(look, &variables);
  if (!variables.start || smem < variables.start || smem + SHARED_LIMIT > variables.start + variables.bytes) return false;
  shared_memory = variables.start;
  static_bytes = u32(smem - variables.start);
  return true;
}

struct Array {  // an argument in global memory
  std::string name;
  char* address;
  u64 bytes;
  bool writable;
  GlobalWrite* shadow;  // of every two bytes; nullptr where nothing may be written
};
inline std::vector<Array> arrays;

inline void check_shared(u32 address, u32 bytes, const char* what) {
  if (address % bytes)
    fail_here("misaligned", format("%s %u bytes of shared memory at byte %u, which is no multiple of %u", what, bytes, address,
                                   bytes));
  if (address > shared_bytes || bytes > shared_bytes - address)
    fail_here("out of bounds", format("%s shared memory from byte %u to %lld; the block has %u bytes", what, address,
                                      (long long)address + bytes, shared_bytes));
}

// "q, byte 70 of 64": the array that a wild address is closest to.
inline std::string describe(u64 address) {
  const Array* nearest = nullptr;
  u64 best = ~0ull;
  for (auto& a : arrays) {
    const u64 start = reinterpret_cast<u64>(a.address), end = start + a.bytes;
    const u64 distance = address < start ? start - address : address >= end ? address - end : 0;
    if (distance < best) best = distance, nearest = &a;
  }
  if (!nearest || best > 1u << 26) return format("address 0x%llx, which is in no argument", address);
  return format("%s at byte %lld of %llu", nearest->name.c_str(),
                (long long)(address - reinterpret_cast<u64>(nearest->address)), nearest->bytes);
}

inline const Array& check_global(const void* pointer, u32 bytes, bool write, const char* what) {
  static size_t last = 0;
  const u64 address = reinterpret_cast<u64>(pointer);
  const auto inside = [&](const Array& a) {
    const u64 offset = address - reinterpret_cast<u64>(a.address);
    return offset < a.bytes && bytes <= a.bytes - offset;
  };
  if (last >= arrays.size() || !inside(arrays[last])) {
    for (last = 0; last < arrays.size() && !inside(arrays[last]);) last++;
    if (last == arrays.size())
      fail_here("out of bounds", format("%s %u bytes of global memory out of bounds: ", what, bytes) + describe(address));
  }
  const Array& array = arrays[last];
  if (address % bytes)
    fail_here("misaligned", format("%s %u bytes of global memory at an address that is no multiple of %u: ", what, bytes,
                                   bytes) + describe(address));
  if (write && !array.writable) fail_here("read-only", format("%s an input: ", what) + describe(address));
  return array;
}

// Accesses to outputs are checked for races, too: inputs do not change.
inline void check_global_order(const Array& array, const void* pointer, u32 bytes, GlobalAccess access) {
  if (!array.shadow) return;
  const u64 offset = static_cast<const char*>(pointer) - array.address;
  check_global_access(array.shadow + offset / 2, bytes, array.name.c_str(), offset, access);
}

void load_shared(void* to, u32 address, u32 bytes, Source source) {
  at(source);
  check_shared(address, bytes, "reads");
  count_lane("ld.shared", bytes, address, nullptr);
  check_read(*current, address, bytes);
  memcpy(to, shared_memory + address, bytes);
}

void store_shared(u32 address, const void* from, u32 bytes, Source source) {
  at(source);
  check_shared(address, bytes, "writes");
  count_lane("st.shared", bytes, address, nullptr);
  check_write(address, bytes);
  memcpy(shared_memory + address, from, bytes);
}

void load_global(void* to, const void* pointer, u32 bytes, Source source) {
  at(source);
  const Array& array = check_global(pointer, bytes, false, "reads");
  count_lane("ld.global", bytes, NO_SHARED, pointer);
  check_global_order(array, pointer, bytes, GlobalAccess::read);
  memcpy(to, pointer, bytes);
}

void store_global(void* pointer, const void* from, u32 bytes, Source source) {
  at(source);
  const Array& array = check_global(pointer, bytes, true, "writes");
  count_lane("st.global", bytes, NO_SHARED, pointer);
  check_global_order(array, pointer, bytes, GlobalAccess::write);
  memcpy(pointer, from, bytes);
}

void begin_atomic(void* pointer, u32 bytes, Source source) {
  at(source);
  const Array& array = check_global(pointer, bytes, true, "updates");
  count_lane("atom.global", bytes, NO_SHARED, pointer);
  check_global_order(array, pointer, bytes, GlobalAccess::atomic);
}

}  // namespace emulator

u32 ptx::shared_address(const void* pointer, emulator::Source source) {
  using namespace emulator;
  at(source);
  const auto* p = static_cast<const unsigned char*>(pointer);
  if (p < shared_memory || p > smem + SHARED_LIMIT)
    fail_here("out of bounds", "takes the shared address of what is neither in `extern __shared__ unsigned char smem[]` nor in a "
                               "static __shared__ array");
  return u32(p - shared_memory);
}
