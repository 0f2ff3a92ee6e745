// The block's sixteen barriers. __syncthreads is barrier 0 for all threads.
#pragma once
#include "counters.hpp"
#include "races.hpp"
#include "scheduler.hpp"

namespace emulator {

struct Barrier {
  int expected = 0, arrived = 0;
  std::vector<int> waiting;
  std::vector<u32> clock;  // joined from all who have arrived
  Source source = {"", 0};
};
inline Barrier barriers[16];

inline void reset(Barrier& barrier) {
  barrier.expected = barrier.arrived = 0;
  barrier.waiting.clear();
  barrier.clock.clear();
}

// The threads that wait have to stand at one instruction, warp by warp: bar.sync is an instruction of the whole warp.
inline void check_convergence(const Barrier& barrier) {
  for (size_t i = 1; i < barrier.waiting.size(); i++) {
    const Thread &t = threads[barrier.waiting[i]], &before = threads[barrier.waiting[i - 1]];
    if (t.warp != before.warp || (t.source.line == before.source.line && t.source.file == before.source.file)) continue;
    fail("divergence",
         format("%s: thread %d meets thread %d of its own warp at another barrier instruction (%s)",
                name(t.source).c_str(), t.id, before.id, name(before.source).c_str()),
         {t.source, before.source}, {t.id, before.id});
  }
}

inline void arrive(const char* op, int id, int expected, bool wait, Source source) {
  Thread& me = *current;
  me.source = source;
  if (id < 0 || id > 15) fail_here("barrier", format("uses barrier %d; there are 0 to 15", id));
  if (expected <= 0 || expected > (thread_count + 31) / 32 * 32 || (id && expected % 32))
    fail_here("barrier", format("uses barrier %d for %d threads; accepted: a multiple of 32, at most the block's %d", id,
                                expected, thread_count));
  Barrier& barrier = barriers[id];
  if (barrier.arrived && barrier.expected != expected)
    fail("barrier", format("%s: thread %d uses barrier %d for %d threads; %s used it for %d", name(source).c_str(), me.id,
                           id, expected, name(barrier.source).c_str(), barrier.expected),
         {source, barrier.source}, {me.id});
  barrier.expected = expected;
  barrier.source = source;
  count_lane(op, 0, NO_SHARED, nullptr);
  if (barrier.clock.empty()) barrier.clock.assign(thread_count, 0);
  join_into(barrier.clock.data(), clock_of(me.id));
  if (wait)
    barrier.waiting.push_back(me.id);
  else
    clock(me.id, me.id)++;
  if (++barrier.arrived < expected) {
    if (wait) block_current(op, source);
    return;
  }
  std::sort(barrier.waiting.begin(), barrier.waiting.end());
  check_convergence(barrier);
  const std::vector<int> released = barrier.waiting;
  for (int t : released) {
    join_into(clock_of(t), barrier.clock.data());
    clock(t, t)++;
    wake(threads[t]);
  }
  reset(barrier);
  for (size_t i = 0; i < released.size(); i++) {  // whole warps have met here
    const int w = threads[released[i]].warp;
    const size_t lanes = __builtin_popcount(warps[w].lanes);
    if (released[i] % 32 == 0 && i + lanes <= released.size() && released[i + lanes - 1] == w * 32 + int(lanes) - 1)
      close_accesses(w);
  }
}

}  // namespace emulator

void __syncthreads(emulator::Source source) {
  emulator::arrive("__syncthreads", 0, emulator::thread_count, true, source);
}
void ptx::bar_sync(int id, int threads, emulator::Source source) { emulator::arrive("bar.sync", id, threads, true, source); }
void ptx::bar_arrive(int id, int threads, emulator::Source source) {
  emulator::arrive("bar.arrive", id, threads, false, source);
}
