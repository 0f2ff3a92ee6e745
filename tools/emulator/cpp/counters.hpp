// Counters per source line, as a profiler has them.
//
// Shared memory has 32 banks of 4 bytes. An access of the whole warp is served in passes of at most 128 bytes: one for
// accesses of up to 4 bytes a lane, two for 8, four for 16 (ldmatrix.x4: four, one for each matrix). Within a pass, each
// bank gives one word to all who want it; every further word that is wanted of the same bank costs another wavefront.
// Global memory moves in sectors of 32 bytes.
//
// Lanes run one after the other here, so what makes up one instruction of a warp has to be put together again: the n-th
// time that a lane comes to a line belongs with the n-th time of the others. Whenever a whole warp meets, counting
// starts afresh, and so lanes that skipped an instruction fall out of step for no longer than that.
#pragma once
#include <algorithm>
#include <map>
#include <tuple>

#include "state.hpp"
#include "trace.hpp"

namespace emulator {

struct Site {  // one kind of instruction on one line
  const char* op;
  Source source;
  u32 bytes_per_lane;
  u64 instructions = 0, lanes = 0;
  u64 passes = 0, wavefronts = 0;  // over shared memory; passes is what the wavefronts would be without conflicts
  u32 ways = 0;                    // the most wavefronts of any pass
  u64 bytes = 0, sectors = 0, ideal_sectors = 0;  // of global memory
};

struct Access {  // one warp's instruction, as far as its lanes have come to it
  u32 mask = 0;
  u32 shared_mask = 0, global_mask = 0;
  u32 shared[32];
  u64 global[32];
};

struct Open {  // one warp's instructions of one site that are not complete
  int site;
  u32 first = 0;  // the number of accesses[0]
  u32 seen[32] = {};
  std::deque<Access> accesses;
};

inline std::vector<Site> sites;
inline std::vector<std::vector<Open>> open_accesses;  // [warp][site]
inline std::vector<bool> any_open;                    // [warp]

inline int site_of(const char* op, Source source, u32 bytes) {
  struct Entry {
    const char *op = nullptr, *file = nullptr;
    int line = 0;
    u32 bytes = 0;
    int site = 0;
  };
  static std::vector<Entry> table(4096);
  size_t slot = (source.line * 31 + bytes + reinterpret_cast<uintptr_t>(op) * 7) % table.size();
  for (;; slot = (slot + 1) % table.size()) {
    Entry& e = table[slot];
    if (e.op == op && e.line == source.line && e.bytes == bytes && e.file == source.file) return e.site;
    if (e.op) continue;
    if (sites.size() * 2 > table.size()) fail("limit", "more than 2048 lines with instructions", {source}, {});
    e = {op, source.file, source.line, bytes, int(sites.size())};
    sites.push_back({op, source, bytes});
    return e.site;
  }
}

// The wavefronts of one pass: lanes with `bytes` each, at `addresses`.
inline u32 wavefronts(const u32* addresses, u32 mask, u32 bytes) {
  const u32 words = bytes <= 4 ? 1 : bytes / 4;
  u32 wanted[32][32];
  u32 count[32] = {}, most = 0;
  for (u32 left = mask; left; left &= left - 1) {
    const u32 word = addresses[__builtin_ctz(left)] / 4;
    for (u32 w = word; w < word + words; w++) {
      u32* bank = wanted[w % 32];
      u32& n = count[w % 32];
      if (std::find(bank, bank + n, w) == bank + n) bank[n++] = w;
      most = std::max(most, n);
    }
  }
  return most;
}

inline void count_shared(Site& site, int warp, const u32* addresses, u32 mask, u32 bytes) {
  Trace* const trace = start_trace(int(&site - sites.data()), warp, addresses, bytes);
  const int lanes_per_pass = bytes <= 4 ? 32 : 128 / bytes;
  for (int first = 0; first < 32; first += lanes_per_pass) {
    const u32 lanes = mask & (FULL_MASK >> (32 - lanes_per_pass)) << first;
    if (!lanes) continue;
    const u32 n = wavefronts(addresses, lanes, bytes);
    site.passes++;
    site.wavefronts += n;
    site.ways = std::max(site.ways, n);
    if (trace) trace->passes.push_back({lanes, n});
  }
}

inline void count_global(Site& site, const u64* addresses, u32 mask, u32 bytes) {
  u64 sectors[64];
  int n = 0;
  for (u32 left = mask; left; left &= left - 1) {
    const u64 a = addresses[__builtin_ctz(left)];
    for (u64 s = a / 32; s <= (a + bytes - 1) / 32; s++) sectors[n++] = s;
  }
  std::sort(sectors, sectors + n);
  const u64 moved = u64(__builtin_popcount(mask)) * bytes;
  site.bytes += moved;
  site.sectors += std::unique(sectors, sectors + n) - sectors;
  site.ideal_sectors += (moved + 31) / 32;
}

inline void count_access(Site& site, int warp, const Access& access) {
  site.instructions++;
  site.lanes += __builtin_popcount(access.mask);
  if (access.shared_mask) count_shared(site, warp, access.shared, access.shared_mask, site.bytes_per_lane);
  if (access.global_mask) count_global(site, access.global, access.global_mask, site.bytes_per_lane);
}

constexpr u32 NO_SHARED = ~0u;

// One lane's part of an access to shared memory, to global memory (pointer not null), or both.
inline void count_lane(const char* op, u32 bytes, u32 shared, const void* global) {
  if (!settings.counters) return;
  const int s = site_of(op, current->source, bytes);
  auto& open = open_accesses[current->warp];
  if (open.size() <= size_t(s)) open.resize(s + 1);
  Open& o = open[s];
  const int lane = current->lane;
  const u32 n = o.seen[lane]++ - o.first;
  while (o.accesses.size() <= n) o.accesses.emplace_back();
  Access& access = o.accesses[n];
  access.mask |= 1u << lane;
  if (shared != NO_SHARED) access.shared_mask |= 1u << lane, access.shared[lane] = shared;
  if (global) access.global_mask |= 1u << lane, access.global[lane] = reinterpret_cast<u64>(global);
  while (!o.accesses.empty() && o.accesses.front().mask == warps[current->warp].lanes) {
    count_access(sites[s], current->warp, o.accesses.front());
    o.accesses.pop_front();
    o.first++;
  }
  any_open[current->warp] = true;
}

// The whole warp has met: what its lanes have not come to by now, they skipped.
inline void close_accesses(int warp) {
  if (!any_open[warp]) return;
  any_open[warp] = false;
  auto& open = open_accesses[warp];
  for (size_t s = 0; s < open.size(); s++) {
    Open& o = open[s];
    for (auto& access : o.accesses) count_access(sites[s], warp, access);
    o.accesses.clear();
    o.first = 0;
    std::fill_n(o.seen, 32, 0);
  }
}

// An instruction that is the whole warp's from the start.
inline Site* count_collective(const char* op, Source source, u32 mask) {
  if (!settings.counters) return nullptr;
  Site& site = sites[site_of(op, source, 0)];
  site.instructions++;
  site.lanes += __builtin_popcount(mask);
  return &site;
}

}  // namespace emulator
