// Which thread runs next. Threads run until they block: in a warp-wide instruction that other lanes have not reached, or
// at a barrier. Four orders, so that code which relies on one of them is caught in another:
//   forward     a warp runs as long as it can, its lanes in ascending order, then the next warp
//   reverse     the same, descending
//   random      any lane of any warp that can run (seeded)
//   interleave  every switch goes to the next warp that can run
#pragma once
#include <map>

#include "state.hpp"

namespace emulator {

inline u32 random_state = 1;
inline u32 random_below(u32 n) {  // xorshift32
  random_state ^= random_state << 13;
  random_state ^= random_state >> 17;
  random_state ^= random_state << 5;
  return random_state % n;
}

[[noreturn]] inline void fail_deadlock() {
  std::map<std::string, std::vector<int>> waiting;
  std::vector<Source> sources;
  std::vector<int> returned, involved;
  for (auto& t : threads) {
    if (t.returned) {
      returned.push_back(t.id);
      continue;
    }
    auto& group = waiting[format("wait at %s (%s)", t.waiting, name(t.source).c_str())];
    if (group.empty()) sources.push_back(t.source);
    group.push_back(t.id);
    involved.push_back(t.id);
  }
  std::string message = "deadlock:";
  for (auto& [where, ids] : waiting) message += " threads " + ranges(ids) + " " + where + ";";
  message += returned.empty() ? " no thread can run" : " threads " + ranges(returned) + " have returned";
  fail("deadlock", message, sources, involved);
}

inline int next_warp(int warp) {
  const bool stay = settings.schedule == Schedule::forward || settings.schedule == Schedule::reverse;
  if (stay && warps[warp].ready) return warp;
  if (settings.schedule == Schedule::random) {
    int chosen = -1, seen = 0;
    for (int w = 0; w < warp_count; w++)
      if (warps[w].ready && random_below(++seen) == 0) chosen = w;
    return chosen;
  }
  const int step = settings.schedule == Schedule::reverse ? warp_count - 1 : 1;
  for (int k = 1; k <= warp_count; k++) {
    const int w = (warp + k * step) % warp_count;
    if (warps[w].ready) return w;
  }
  return -1;
}

// For the first thread of a block: what next_warp is to think has run before.
inline int first_warp() {
  return settings.schedule == Schedule::reverse || settings.schedule == Schedule::interleave ? warp_count - 1 : 0;
}

inline int next_lane(const Warp& warp) {
  if (settings.schedule == Schedule::random) {
    u32 left = warp.ready;
    for (int skip = random_below(__builtin_popcount(left)); skip > 0; skip--) left &= left - 1;
    return __builtin_ctz(left);
  }
  if (settings.schedule == Schedule::reverse) {
    const u32 below = warp.ready & ((1u << warp.last) - 1);
    return 31 - __builtin_clz(below ? below : warp.ready);
  }
  const u32 above = warp.last == 31 ? 0 : warp.ready & ~((2u << warp.last) - 1);
  return __builtin_ctz(above ? above : warp.ready);
}

// Go on with a thread that can run. Returns when the caller's turn comes again.
inline void run_next() {
  Thread* const before = current;
  const int w = next_warp(before ? before->warp : first_warp());
  if (w < 0) fail_deadlock();
  Warp& warp = warps[w];
  warp.last = next_lane(warp);
  current = &threads[w * 32 + warp.last];
  thread_index = &current->index;
  if (current == before) return;
  switches++;
  switch_context(before ? before->context : main_context, current->context);
}

inline void block_current(const char* waiting, Source source) {
  current->waiting = waiting;
  current->source = source;
  warps[current->warp].ready &= ~(1u << current->lane);
  run_next();
}

inline void wake(const Thread& thread) { warps[thread.warp].ready |= 1u << thread.lane; }

}  // namespace emulator
