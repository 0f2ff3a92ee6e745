// cp.async: copies that are under way until a wait. When they land in between is not defined, so there are two extremes:
//   late   at the wait that guarantees them: what does not wait reads old data
//   early  when issued: what is still being read by others is overwritten
#pragma once
#include "memory.hpp"

namespace emulator {

inline void perform(const Copy& copy) {
  if (copy.valid)
    memcpy(smem + copy.to, copy.from, 16);
  else
    memset(smem + copy.to, 0, 16);
}

// PTX: waits until at most `pending` of the most recent groups of the executing thread are pending.
void cp_async_wait(int pending, Source source) {
  at(source);
  Thread& t = *current;
  size_t landed = 0;
  while (t.groups.size() > size_t(pending)) {
    for (size_t end = landed + t.groups.front(); landed < end; landed++) {
      const Copy& copy = t.copies[landed];
      if (!settings.early) perform(copy);
      copy_landed(copy.to, 16, copy.source);
    }
    t.groups.erase(t.groups.begin());
  }
  t.copies.erase(t.copies.begin(), t.copies.begin() + landed);
}

}  // namespace emulator

void ptx::cp_async_chunk(u32 to, const void* from, bool valid, emulator::Source source) {
  using namespace emulator;
  at(source);
  check_shared(to, 16, "copies (cp.async) to");
  if (valid) check_global(from, 16, false, "copies (cp.async)");
  count_lane("cp.async", 16, to, valid ? from : nullptr);
  check_write(to, 16, true);
  const Copy copy = {to, from, valid, source};
  current->copies.push_back(copy);
  if (settings.early) perform(copy);
}

void ptx::cp_async_commit(emulator::Source source) {
  using namespace emulator;
  at(source);
  size_t committed = 0;
  for (size_t n : current->groups) committed += n;
  current->groups.push_back(current->copies.size() - committed);
}
