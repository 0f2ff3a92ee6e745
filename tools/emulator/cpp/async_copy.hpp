// cp.async: copies that are under way until a wait. When they land in between is not defined, so there are two extremes:
//   late   at the wait that guarantees them: what does not wait reads old data
//   early  when issued: what is still being read by others is overwritten
#pragma once
#include "memory.hpp"

namespace emulator {

inline void perform(const Copy& copy) {
  if (copy.valid)
    memcpy(shared_memory + copy.to, copy.from, copy.bytes);
  else
    memset(shared_memory + copy.to, 0, copy.bytes);
}

void cp_async(u32 to, const void* from, u32 bytes, bool valid, Source source) {
  at(source);
  check_shared(to, bytes, "copies (cp.async) to");
  if (valid) {
    const Array& array = check_global(from, bytes, false, "copies (cp.async)");
    check_global_order(array, from, bytes, GlobalAccess::read);
  }
  count_lane("cp.async", bytes, to, valid ? from : nullptr);
  check_write(to, bytes, true);
  const Copy copy = {to, from, bytes, valid, source};
  current->copies.push_back(copy);
  if (settings.early) perform(copy);
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
      copy_landed(copy.to, copy.bytes, copy.source);
    }
    t.groups.erase(t.groups.begin());
  }
  t.copies.erase(t.copies.begin(), t.copies.begin() + landed);
}

// The running thread returns. The PTX ISA says when a copy is complete only by its waits, so one that nobody waits for may
// come when the block's shared memory is another's.
inline void check_copies() {
  if (current->copies.empty()) return;
  size_t committed = 0;
  for (size_t n : current->groups) committed += n;
  const Copy& oldest = current->copies.front();
  report_once("unfinished copy", oldest.source, {"", 0},
              format("%s: thread %d returns while this cp.async is under way: %s after it", name(oldest.source).c_str(),
                     current->id, committed ? "no cp_async_wait" : "no cp_async_commit and no cp_async_wait"),
              {current->id});
}

}  // namespace emulator

void ptx::cp_async_commit(emulator::Source source) {
  using namespace emulator;
  at(source);
  size_t committed = 0;
  for (size_t n : current->groups) committed += n;
  current->groups.push_back(current->copies.size() - committed);
}
