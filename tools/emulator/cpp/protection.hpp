// What a kernel does past the emulator's functions: it writes wild through a plain pointer, overflows its stack, divides by
// zero or never ends. Each becomes a signal, and each signal a report. A handler may have interrupted anything, so it
// allocates nothing.
#pragma once
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

#include "memory.hpp"
#include "report.hpp"

namespace emulator {

constexpr size_t STACK_BYTES = 256 << 10, GUARD_BYTES = 64 << 10;

inline std::vector<char*> stacks;  // of the fibers, each with a guard below it that cannot be touched

inline void make_stacks(int n) {
  while (int(stacks.size()) < n) {
    void* p = mmap(nullptr, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p, GUARD_BYTES, PROT_NONE))
      fail("limit", format("no memory for the stacks of %d threads", n), {}, {});
    stacks.push_back(static_cast<char*>(p) + GUARD_BYTES);
  }
}

inline bool in_guard(const char* address) {
  for (const char* stack : stacks)
    if (address >= stack - GUARD_BYTES && address < stack) return true;
  return false;
}

// Where the interrupted thread is, and where its callers are: to be turned into lines by the caller of this process. The
// chain of frame pointers may lead astray in libraries that have none, so it is followed on the thread's own stack only.
// A hang is sampled for a while: one sample may be anywhere, one of many is in the loop.
constexpr int SAMPLES = 50, FRAMES = 6;
inline u64 program_counters[SAMPLES * FRAMES];
inline int sampled = 0, counters_seen = 0;

inline void sample(void* context) {
  u64 counter = 0, frame = 0;
#if defined(__linux__) && defined(__x86_64__)
  const auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  counter = registers[REG_RIP], frame = registers[REG_RBP];
#elif defined(__linux__) && defined(__aarch64__)
  const auto& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
  counter = machine.pc, frame = machine.regs[29];
#else
  (void)context;
#endif
  sampled++;
  program_counters[counters_seen++] = counter;
  if (!current) return;
  const u64 stack = reinterpret_cast<u64>(stacks[current->id]);
  for (int depth = 1; depth < FRAMES && frame % 8 == 0 && frame >= stack && frame + 16 <= stack + STACK_BYTES; depth++) {
    const u64* const saved = reinterpret_cast<u64*>(frame);  // [0] the caller's frame, [1] the address after the call
    program_counters[counters_seen++] = saved[1] - 1;
    frame = saved[0];
  }
}

inline void set_timer(double seconds) {
  itimerval timer = {};
  timer.it_value.tv_sec = long(seconds);
  timer.it_value.tv_usec = long((seconds - double(timer.it_value.tv_sec)) * 1e6) + 1;
  setitimer(ITIMER_PROF, &timer, nullptr);
}

inline void handle_signal(int number, siginfo_t* info, void* context) {
  sample(context);
  if (number == SIGPROF && sampled < SAMPLES) {
    set_timer(1e-3);
    return;
  }
  char what[256];
  const char* kind = "crash";
  const char* address = static_cast<char*>(info->si_addr);
  if (number == SIGPROF) {
    kind = "hang";
    snprintf(what, sizeof what, "is still running after %g s of CPU time", settings.limit_s);
  } else if (number == SIGFPE || number == SIGILL || number == SIGTRAP) {  // the last two from build.py's compiler options
    snprintf(what, sizeof what, "divides an integer by zero");
  } else if (number == SIGSEGV && in_guard(address)) {
    kind = "stack overflow";
    snprintf(what, sizeof what, "overflows its stack of %zu KiB", STACK_BYTES >> 10);
  } else if (number == SIGSEGV || number == SIGBUS) {
    kind = "out of bounds";
    snprintf(what, sizeof what, "accesses 0x%llx, where there is nothing it may touch", (u64)address);
    for (auto& a : arrays) {
      const long long offset = address - a.address;
      if (offset < -(1 << 20) || offset > (long long)a.bytes + (1 << 20)) continue;
      const bool inside = offset >= 0 && offset < (long long)a.bytes;
      snprintf(what, sizeof what, "%s %s at byte %lld of %llu, past the functions of ptx.cuh",
               inside && !a.writable ? "writes the input" : "accesses", a.name.c_str(), offset, a.bytes);
      break;
    }
  } else {
    snprintf(what, sizeof what, "raises signal %d", number);
  }
  const Thread* t = current;
  char text[8192];
  int n = snprintf(
      text, sizeof text,
      "{\"findings\": [{\"kind\": \"%s\", \"message\": \"thread %d %s, block (%u, %u, %u)\", \"sources\": [[\"%s\", %d]], "
      "\"threads\": [%d], \"block\": [%u, %u, %u], \"count\": 1, \"program_counters\": [",
      kind, t ? t->id : -1, what, block_index.x, block_index.y, block_index.z, t ? t->source.file : "",
      t ? t->source.line : 0, t ? t->id : -1, block_index.x, block_index.y, block_index.z);
  for (int i = 0; i < counters_seen; i++)
    n += snprintf(text + n, sizeof text - n, i ? ", %llu" : "%llu", program_counters[i]);
  n += snprintf(text + n, sizeof text - n, "]}], \"sites\": [], \"traces\": [], \"switches\": 0}\n");
  write_all(text, n);
  _exit(0);
}

inline void install_protection() {
  stack_t stack = {};
  stack.ss_size = 64 << 10;
  stack.ss_sp = malloc(stack.ss_size);
  sigaltstack(&stack, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = handle_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGPROF}) sigaction(number, &action, nullptr);
  set_timer(settings.limit_s);
}

}  // namespace emulator
