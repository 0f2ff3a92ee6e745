// The block's sixteen barriers. __syncthreads is barrier 0 for all threads.
//
// PTX ISA, bar: the instruction is one of the whole warp, and what it adds to the barrier's count is the size of a warp.
// A barrier that all threads are to come to is released when those that are missing exit; CUDA, of which all threads of the
// block have to come to __syncthreads, does not promise it, and here it counts as a deadlock.
#pragma once
#include "warp.hpp"

namespace emulator {

struct Barrier {
  int expected = 0, arrived = 0;  // threads
  std::vector<int> waiting;       // warps
  std::vector<u32> clock;         // joined from all who have arrived
  Source source = {"", 0};
};
inline Barrier barriers[16];

inline void reset(Barrier& barrier) {
  barrier.expected = barrier.arrived = 0;
  barrier.waiting.clear();
  barrier.clock.clear();
}

struct BarrierOperand {
  int id, expected;
};

// A whole warp arrives, the running thread the last of it. Whether it may go on.
inline bool arrive(const char* op, Warp& warp, bool wait, Source source) {
  const int w = current->warp;
  const auto [id, expected] = *static_cast<BarrierOperand*>(warp.operand[current->lane]);
  for (u32 left = warp.lanes; left; left &= left - 1) {
    const auto& other = *static_cast<BarrierOperand*>(warp.operand[__builtin_ctz(left)]);
    if (other.id != id || other.expected != expected)
      fail_here("barrier", format("uses barrier %d for %d threads, thread %d of its warp barrier %d for %d", id, expected,
                                  w * 32 + __builtin_ctz(left), other.id, other.expected));
  }
  Barrier& barrier = barriers[id];
  if (barrier.arrived && barrier.expected != expected)
    fail("barrier", format("%s: thread %d uses barrier %d for %d threads; %s used it for %d", name(source).c_str(),
                           current->id, id, expected, name(barrier.source).c_str(), barrier.expected),
         {source, barrier.source}, {current->id});
  barrier.expected = expected;
  barrier.source = source;
  count_collective(op, source, warp.lanes);
  if (barrier.clock.empty()) barrier.clock.assign(thread_count, 0);
  for (u32 left = warp.lanes; left; left &= left - 1) {
    const int t = w * 32 + __builtin_ctz(left);
    join_into(barrier.clock.data(), clock_of(t));
    if (!wait) clock(t, t)++;
  }
  if (wait) barrier.waiting.push_back(w);
  barrier.arrived += 32;
  if (barrier.arrived < expected) {
    if (wait) warp.ready &= ~warp.lanes;
    return !wait;
  }
  for (int released : barrier.waiting) {
    for (u32 left = warps[released].lanes; left; left &= left - 1) {
      const int t = released * 32 + __builtin_ctz(left);
      join_into(clock_of(t), barrier.clock.data());
      clock(t, t)++;
    }
    warps[released].ready |= warps[released].lanes;
  }
  reset(barrier);
  return true;
}

inline void come_to_barrier(const char* op, int id, int expected, bool wait, Source source) {
  at(source);
  if (id < 0 || id > 15) fail_here("barrier", format("uses barrier %d; there are 0 to 15", id));
  if (expected <= 0 || expected > warp_count * 32 || expected % 32)
    fail_here("barrier", format("uses barrier %d for %d threads; accepted: a multiple of 32, at most the block's %d", id,
                                expected, thread_count));
  BarrierOperand mine = {id, expected};
  bool goes_on = true;  // of the lanes that have met, the last asks; the others are woken when they may
  meet(op, FULL_MASK, &mine, source, [&](Warp& warp) { goes_on = arrive(op, warp, wait, source); });
  if (!goes_on) block_current(op, source);
}

}  // namespace emulator

void __syncthreads(emulator::Source source) {
  emulator::come_to_barrier("__syncthreads", 0, emulator::warp_count * 32, true, source);
}
void ptx::bar_sync(int id, int threads, emulator::Source source) {
  emulator::come_to_barrier("bar.sync", id, threads, true, source);
}
void ptx::bar_arrive(int id, int threads, emulator::Source source) {
  emulator::come_to_barrier("bar.arrive", id, threads, false, source);
}
