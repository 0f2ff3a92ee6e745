// The process that carries out one launch. It reads the launch from standard input, maps the arguments' memory from a
// file that it shares with the caller, runs the kernel that it is linked with, and writes a report.
//
//   worker MEMORY_FD REPORT_FD < request
//
// A request is a line of words for each setting, in any order:
//   grid X Y Z | block X Y Z | shared BYTES | early 0|1 | schedule NAME | races 0|1 | counters 0|1 | trace N | seed N | limit SECONDS
//   array NAME FILE_OFFSET SKIP BYTES WRITABLE      an argument's memory: SKIP bytes into a page of the file
//   parameter HEX_BYTES                             a kernel parameter, in order
//   pointer PARAMETER OFFSET ARRAY                  where in a parameter the address of which array belongs
#include <array>
#include <iostream>
#include <sstream>

#include "async_copy.hpp"
#include "barriers.hpp"
#include "fragments.hpp"
#include "protection.hpp"
#include "report.hpp"
#include "scheduler.hpp"

namespace emulator {

const Index* thread_index;
Index block_index, block_size, grid_size;

static std::vector<std::vector<char>> parameters;
static std::vector<void*> parameter_addresses;

[[noreturn]] static void refuse(const std::string& message) {
  findings.push_back({"launch", message, {}, {}, {}});
  end_launch();
}

// The array's pages of the file, between two guards. Inputs cannot be written.
static Array map_array(const std::string& name, int file, u64 file_offset, u64 skip, u64 bytes, bool writable) {
  constexpr u64 GUARD = 1 << 20;
  const u64 page = sysconf(_SC_PAGESIZE), mapped = (skip + bytes + page - 1) / page * page;
  char* all = static_cast<char*>(mmap(nullptr, mapped + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (all == MAP_FAILED) refuse("no address space for " + name);
  void* data = mmap(all + GUARD, mapped, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_FIXED, file, file_offset);
  if (data == MAP_FAILED) refuse("cannot map " + name);
  GlobalWrite* shadow = nullptr;
  if (writable && settings.races) {
    shadow = static_cast<GlobalWrite*>(calloc(bytes / 2 + 1, sizeof(GlobalWrite)));
    if (!shadow) refuse("no memory to watch the writes to " + name);
  }
  return {name, static_cast<char*>(data) + skip, bytes, writable, shadow};
}

static std::vector<char> from_hex(const std::string& text) {
  std::vector<char> bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) bytes.push_back(char(std::stoi(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

static void read_request(std::istream& input, int memory_file) {
  struct Mapping {
    std::string name;
    u64 offset, skip, bytes;
    bool writable;
  };
  std::vector<Mapping> mappings;
  std::vector<std::array<size_t, 3>> pointers;
  for (std::string line; std::getline(input, line);) {
    std::istringstream words(line);
    std::string word, text;
    words >> word;
    if (word == "grid") words >> grid_size.x >> grid_size.y >> grid_size.z;
    else if (word == "block") words >> block_size.x >> block_size.y >> block_size.z;
    else if (word == "shared") words >> shared_bytes;
    else if (word == "early") words >> settings.early;
    else if (word == "races") words >> settings.races;
    else if (word == "counters") words >> settings.counters;
    else if (word == "trace") words >> settings.trace;
    else if (word == "seed") words >> settings.seed;
    else if (word == "limit") words >> settings.limit_s;
    else if (word == "schedule") {
      words >> text;
      settings.schedule = text == "forward"   ? Schedule::forward
                          : text == "reverse" ? Schedule::reverse
                          : text == "random"  ? Schedule::random
                                              : Schedule::interleave;
    } else if (word == "array") {
      Mapping& m = mappings.emplace_back();
      words >> m.name >> m.offset >> m.skip >> m.bytes >> m.writable;
    } else if (word == "parameter") {
      words >> text;
      parameters.push_back(from_hex(text));
    } else if (word == "pointer") {
      auto& p = pointers.emplace_back();
      words >> p[0] >> p[1] >> p[2];
    } else {
      refuse("request has a line that starts with " + word);
    }
    if (words.fail()) refuse("request has an incomplete line: " + line);
  }
  for (auto& m : mappings) arrays.push_back(map_array(m.name, memory_file, m.offset, m.skip, m.bytes, m.writable));
  for (auto& [parameter, offset, array] : pointers)
    memcpy(parameters.at(parameter).data() + offset, &arrays.at(array).address, sizeof(char*));
  if (int(parameters.size()) != kernel.parameters)
    refuse(format("the kernel has %d parameters; %zu were given", kernel.parameters, parameters.size()));
  for (size_t i = 0; i < parameters.size(); i++) {
    if (parameters[i].size() != kernel.sizes[i])
      refuse(format("the kernel's parameter %zu has %zu bytes; %zu were given", i, kernel.sizes[i], parameters[i].size()));
    void* aligned = aligned_alloc(64, (parameters[i].size() + 63) / 64 * 64);
    memcpy(aligned, parameters[i].data(), parameters[i].size());
    parameter_addresses.push_back(aligned);
  }
}

// Where every fiber begins.
static void run_thread() {
  kernel.run(parameter_addresses.data());
  check_copies();
  current->returned = true;
  warps[current->warp].ready &= ~(1u << current->lane);
  if (--running == 0) switch_context(current->context, main_context);
  run_next();
  abort();  // a thread that has returned is never run again
}

static void run_block() {
  memset(shared_memory, 0xff, shared_bytes);  // NaN in every floating-point type
  running = thread_count;
  current = nullptr;
  threads.assign(thread_count, Thread());
  warps.assign(warp_count, Warp());
  for (auto& barrier : barriers) reset(barrier);
  start_races();
  for (int t = 0; t < thread_count; t++) {
    Thread& thread = threads[t];
    thread.id = t;
    thread.lane = t % 32;
    thread.warp = t / 32;
    const int x = block_size.x, y = block_size.y;
    thread.index = {u32(t % x), u32(t / x % y), u32(t / (x * y))};
    warps[thread.warp].lanes |= 1u << thread.lane;
    // Stacks at equal offsets from a page would compete for the same cache sets.
    make_context(thread.context, stacks[t], STACK_BYTES - (t % 64) * 1088, run_thread);
  }
  for (auto& warp : warps) {
    warp.ready = warp.lanes;
    warp.last = settings.schedule == Schedule::reverse ? 0 : 31;
  }
  run_next();
  current = nullptr;
  for (int w = 0; w < warp_count; w++) close_accesses(w);
}

static void run_launch() {
  const u64 size = u64(block_size.x) * block_size.y * block_size.z;
  if (size < 1 || size > 1024) refuse(format("a block of %llu threads; accepted: 1 to 1024", size));
  u32 static_bytes = 0;
  if (!find_shared_memory(static_bytes)) refuse("the linker has put thread-local variables elsewhere than beside smem");
  if (static_bytes > STATIC_LIMIT)
    refuse(format("%u bytes of static __shared__ arrays; at most %u: take dynamic shared memory", static_bytes, STATIC_LIMIT));
  if (shared_bytes > SHARED_LIMIT - static_bytes)
    refuse(format("%u bytes of dynamic and %u of static shared memory; together at most %u", shared_bytes, static_bytes,
                  SHARED_LIMIT));
  shared_bytes += static_bytes;
  thread_count = int(size);
  warp_count = (thread_count + 31) / 32;
  open_accesses.assign(warp_count, {});
  any_open.assign(warp_count, false);
  random_state = settings.seed * 2654435761u | 1;
  make_stacks(thread_count);
  for (u32 z = 0; z < grid_size.z; z++)
    for (u32 y = 0; y < grid_size.y; y++)
      for (u32 x = 0; x < grid_size.x; x++) {
        block_index = {x, y, z};
        run_block();
      }
}

}  // namespace emulator

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  emulator::report_file = atoi(argv[2]);
  emulator::read_request(std::cin, atoi(argv[1]));
  emulator::install_protection();
  emulator::run_launch();
  emulator::end_launch();
}
