// What there is during a launch: settings, the running block's threads and warps, and what has been found wrong.
#pragma once
#include <cstdarg>
#include <cstdlib>
#include <deque>
#include <string>
#include <vector>

#include "context.hpp"
#include "emulator.hpp"

namespace emulator {

enum class Schedule { forward, reverse, random, interleave };

struct Settings {
  bool early = false;  // asynchronous copies complete when issued; otherwise at the wait that guarantees them
  Schedule schedule = Schedule::forward;
  bool races = true;
  bool counters = true;
  u32 trace = 0;  // of how many instructions a line the shared-memory addresses are kept
  u32 seed = 1;
  double limit_s = 60;  // of CPU time
};
inline Settings settings;

struct Copy {  // one cp.async of one thread
  u32 to;
  const void* from;
  u32 bytes;
  bool valid;
  Source source;
};

struct Thread {
  Context context;
  Index index;
  int id, lane, warp;
  Source source = {"", 0};        // of its last instruction
  const char* waiting = nullptr;  // the instruction it is blocked in
  bool returned = false;
  std::vector<Copy> copies;    // cp.async under way, oldest first
  std::vector<size_t> groups;  // how many of them each committed group holds, oldest group first
};

// A warp-wide instruction that some lanes have reached.
struct Rendezvous {
  const char* op = nullptr;  // nullptr: none
  Source source = {"", 0};
  u32 mask = 0, arrived = 0;
};

struct Warp {
  u32 lanes = 0;  // those that exist
  u32 ready = 0;  // those that can run
  int last = 0;   // the lane that ran last
  std::vector<Rendezvous> rendezvous;
  void* operand[32];  // of each lane that has arrived
};

inline std::vector<Thread> threads;
inline std::vector<Warp> warps;
inline Thread* current = nullptr;
inline Context main_context;
inline int thread_count, warp_count;
inline int running;  // threads that have not returned
inline u32 shared_bytes;  // of the block: static arrays, then what the launch adds
inline u64 switches;

// ---- what was found wrong -------------------------------------------------------------------------------------------

struct Finding {
  std::string kind, message;
  std::vector<Source> sources;
  std::vector<int> threads;
  Index block;
  u64 count = 1;
};
inline std::vector<Finding> findings;

[[gnu::format(printf, 1, 2)]] inline std::string format(const char* text, ...) {
  char buffer[2048];
  va_list arguments;
  va_start(arguments, text);
  vsnprintf(buffer, sizeof buffer, text, arguments);
  va_end(arguments);
  return buffer;
}

inline const char* base_name(const char* path) {
  const char* slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

inline std::string name(Source source) { return format("%s:%d", base_name(source.file), source.line); }

inline std::string name(const Index& block) { return format("block (%u, %u, %u)", block.x, block.y, block.z); }

// "0-31, 40" of ascending numbers.
inline std::string ranges(const std::vector<int>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t j = i;
    while (j + 1 < numbers.size() && numbers[j + 1] == numbers[j] + 1) j++;
    if (!text.empty()) text += ", ";
    text += i == j ? format("%d", numbers[i]) : format("%d-%d", numbers[i], numbers[j]);
    i = j + 1;
  }
  return text;
}

// The running thread comes to an instruction.
inline void at(Source source) { current->source = source; }

[[noreturn]] void end_launch();  // report.hpp

// The launch cannot go on: report and end.
[[noreturn]] inline void fail(const char* kind, const std::string& message, std::vector<Source> sources,
                              std::vector<int> involved) {
  findings.push_back({kind, message + ", " + name(block_index), std::move(sources), std::move(involved), block_index});
  end_launch();
}

// The same for an instruction of the running thread: "kernel.cu:12: thread 3 <message>, block (0, 0, 0)".
[[noreturn]] inline void fail_here(const char* kind, const std::string& message) {
  fail(kind, format("%s: thread %d ", name(current->source).c_str(), current->id) + message, {current->source},
       {current->id});
}

}  // namespace emulator
