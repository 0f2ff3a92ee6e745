// Instructions of a whole warp: its lanes wait for each other, and the last to come carries the instruction out for all.
#pragma once
#include "counters.hpp"
#include "races.hpp"
#include "scheduler.hpp"

namespace emulator {

// One lane reaches a warp-wide instruction. `execute(warp)` runs once, when all lanes of `mask` have brought their operand;
// they can run again then, unless it says otherwise.
template <typename Execute>
inline void meet(const char* op, u32 mask, void* operand, Source source, Execute execute) {
  Thread& me = *current;
  me.source = source;
  Warp& warp = warps[me.warp];
  const u32 bit = 1u << me.lane;
  mask &= warp.lanes;
  if (!(mask & bit)) fail_here("divergence", format("executes %s without being in its mask 0x%08x", op, mask));

  Rendezvous* mine = nullptr;
  for (auto& r : warp.rendezvous) {
    if (!r.op) continue;
    const bool same = r.op == op && r.mask == mask && r.source.line == source.line && r.source.file == source.file;
    if (!same && r.mask & bit && r.arrived & mask) {  // each waits for the other
      std::vector<int> lanes;
      for (u32 left = r.arrived; left; left &= left - 1) lanes.push_back(me.warp * 32 + __builtin_ctz(left));
      fail("divergence",
           format("%s: thread %d executes %s while threads ", name(source).c_str(), me.id, op) + ranges(lanes) +
               format(" of its warp wait for it in %s (%s)", r.op, name(r.source).c_str()),
           {source, r.source}, {me.id, lanes[0]});
    }
    if (same) mine = &r;
  }
  if (!mine) {
    for (auto& r : warp.rendezvous)
      if (!r.op) mine = &r;
    if (!mine) mine = &warp.rendezvous.emplace_back();
    *mine = {op, source, mask, 0};
  }
  mine->arrived |= bit;
  warp.operand[me.lane] = operand;
  if (mine->arrived != mask) {
    block_current(op, source);
    return;
  }
  mine->op = nullptr;
  warp.ready |= mask;
  execute(warp);
  if (mask == warp.lanes) close_accesses(me.warp);
}

struct ShuffleOperand {
  u32 in, out;
  int operand;
};

// As the PTX ISA defines shfl.sync, whose third operand is made of `width`: a source lane past the end of the segment
// (up: before its start) gives the lane's own value.
u32 shuffle(Shuffle mode, u32 mask, u32 value, int operand, int width, Source source) {
  ShuffleOperand mine = {value, value, operand};
  at(source);
  if (width < 1 || width > 32 || width & (width - 1))
    fail_here("operand", format("shuffles in segments of %d lanes; accepted: a power of two up to 32", width));
  meet("shfl", mask, &mine, source, [=](Warp& warp) {
    const u32 lanes = mask & warp.lanes;
    count_collective("shfl", source, lanes);
    const int segment = 32 - width;  // the bits of a lane's number that are its segment's
    for (u32 left = lanes; left; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      auto& o = *static_cast<ShuffleOperand*>(warp.operand[lane]);
      const int b = o.operand & 31, first = lane & segment, last = first | (31 & ~segment);
      int from = mode == Shuffle::index  ? first | (b & ~segment)
                 : mode == Shuffle::up   ? lane - b
                 : mode == Shuffle::down ? lane + b
                                         : lane ^ b;
      if (mode == Shuffle::up ? from < first : from > last) from = lane;
      if (!(lanes >> from & 1))
        fail("divergence", format("%s: thread %d shuffles from lane %d, which is not in the mask 0x%08x or not there",
                                  name(source).c_str(), current->warp * 32 + lane, from, mask),
             {source}, {current->warp * 32 + lane});
      o.out = static_cast<ShuffleOperand*>(warp.operand[from])->in;
    }
  });
  return mine.out;
}

struct VoteOperand {
  bool predicate;
  u32 ballot;
};

u32 vote_ballot(u32 mask, bool predicate, Source source) {
  VoteOperand mine = {predicate, 0};
  meet("vote", mask, &mine, source, [=](Warp& warp) {
    count_collective("vote", source, mask & warp.lanes);
    u32 ballot = 0;
    for (u32 left = mask & warp.lanes; left; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      if (static_cast<VoteOperand*>(warp.operand[lane])->predicate) ballot |= 1u << lane;
    }
    for (u32 left = mask & warp.lanes; left; left &= left - 1)
      static_cast<VoteOperand*>(warp.operand[__builtin_ctz(left)])->ballot = ballot;
  });
  return mine.ballot;
}

}  // namespace emulator

void __syncwarp(u32 mask, emulator::Source source) {
  using namespace emulator;
  meet("__syncwarp", mask, nullptr, source, [=](Warp& warp) {
    count_collective("__syncwarp", source, mask & warp.lanes);
    if (!settings.races) return;
    std::vector<int> ids;
    for (u32 left = mask & warp.lanes; left; left &= left - 1) ids.push_back(current->warp * 32 + __builtin_ctz(left));
    join(ids);
  });
}
