// The addresses of single instructions over shared memory, for pictures of their bank conflicts: of each line the first
// `settings.trace` that a warp executes. Counters say how many, this says which.
#pragma once
#include <algorithm>
#include <vector>

#include "state.hpp"

namespace emulator {

struct Pass {  // one pass of an instruction over shared memory
  u32 lanes;   // a mask
  u32 wavefronts;
};
struct Trace {
  int site;
  Index block;
  int warp;
  u32 bytes_per_lane;
  u32 addresses[32];  // bytes from the start of the block's shared memory; meaningful for the lanes of the passes
  std::vector<Pass> passes;
};
inline std::vector<Trace> traces;

// Where to add the passes of this instruction; nullptr: it is not wanted.
inline Trace* start_trace(int site, int warp, const u32* addresses, u32 bytes) {
  if (!settings.trace) return nullptr;
  static std::vector<u32> traced;  // [site]
  if (traced.size() <= size_t(site)) traced.resize(site + 1);
  if (traced[site] >= settings.trace) return nullptr;
  traced[site]++;
  Trace& trace = traces.emplace_back();
  trace.site = site;
  trace.block = block_index;
  trace.warp = warp;
  trace.bytes_per_lane = bytes;
  std::copy_n(addresses, 32, trace.addresses);
  return &trace;
}

}  // namespace emulator
