// Race detection by vector clocks (Lamport 1978; FastTrack, Flanagan and Freund 2009).
//
// clock(t, u) is how much of thread u's past is ordered before what thread t does next; barriers join the clocks of those
// who meet. Every byte of shared memory remembers who wrote it last and, for each warp, who read it last. An access is
// ordered after an earlier one iff the accessing thread's clock has it. Nearly all accesses are to whole words of 4 bytes,
// so the bytes of a word share one memory until one of them is accessed without the others.
//
// Warp-wide instructions order nothing by themselves; __syncwarp does. One exception is needed: ldmatrix reads for the
// whole warp, so no lane of that warp can overtake its read.
#pragma once
#include <algorithm>
#include <map>
#include <tuple>

#include "state.hpp"

namespace emulator {

struct Cell {  // of shared memory: a word, or one byte of it
  int writer = -1;  // the thread that wrote it last
  u32 written = 0;  // at this time of its own clock
  int copier = -1;  // the thread whose cp.async is filling it
  Source write = {"", 0}, copy = {"", 0};
  bool initialised = false;
  u32 bytes = 0;  // of a word: the number of its first byte's cell; 0: its bytes have none of their own
};
struct Read {
  int reader = -1;
  u32 at = 0;
  bool collective = false;
  Source source = {"", 0};
};
struct GlobalWrite {  // of two bytes of an output
  u32 block = 0;      // number of the block plus 1; 0: not written
  u32 written = 0;
  u16 writer = 0;
  bool atomic = false;
  int line = 0;
  const char* file = nullptr;
};
enum class GlobalAccess { read, write, atomic };

inline std::vector<Cell> cells;  // one for each word, then four for each word whose bytes have their own
inline std::vector<Read> reads;  // [cell][warp]
inline std::vector<u32> clocks;  // [thread][thread]

inline u32& clock(int t, int u) { return clocks[size_t(t) * thread_count + u]; }
inline u32* clock_of(int t) { return &clocks[size_t(t) * thread_count]; }

inline void start_races() {
  clocks.assign(size_t(thread_count) * thread_count, 0);
  for (int t = 0; t < thread_count; t++) clock(t, t) = 1;
  const size_t n = settings.races ? (shared_bytes + 3) / 4 : 0;
  cells.assign(n, Cell());
  reads.assign(n * warp_count, Read());
}

inline void join_into(u32* clock, const u32* other) {
  for (int u = 0; u < thread_count; u++) clock[u] = std::max(clock[u], other[u]);
}

// The threads `ids` have met: each is ordered after all that the others did before.
inline void join(const std::vector<int>& ids) {
  static std::vector<u32> joined;
  joined.assign(thread_count, 0);
  for (int t : ids) join_into(joined.data(), clock_of(t));
  for (int t : ids) {
    std::copy(joined.begin(), joined.end(), clock_of(t));
    clock(t, t)++;
  }
}

// A finding that does not end the launch; the same one at the same lines is only counted.
inline void report_once(const char* kind, Source first, Source second, const std::string& message,
                        std::vector<int> involved) {
  static std::map<std::tuple<std::string, std::string, int, std::string, int>, size_t> known;
  const auto [at, is_new] =
      known.try_emplace({kind, first.file, first.line, second.file, second.line}, findings.size());
  if (!is_new) {
    if (at->second < findings.size()) findings[at->second].count++;
    return;
  }
  if (findings.size() >= 32) {
    at->second = ~size_t(0);
    return;
  }
  std::vector<Source> sources = {first};
  if (second.line) sources.push_back(second);
  findings.push_back({kind, message + ", " + name(block_index), sources, std::move(involved), block_index});
}

// visit(cell, byte) for what is accessed, in ascending order; `byte` is the address of the cell's first.
template <typename Visit>
inline void for_each_cell(u32 address, u32 bytes, Visit visit) {
  const u32 end = address + bytes;
  for (u32 byte = address; byte < end;) {
    const u32 word = byte / 4;
    if (!cells[word].bytes) {
      if (byte % 4 == 0 && end - byte >= 4) {
        visit(word, byte);
        byte += 4;
        continue;
      }
      const u32 first = u32(cells.size());
      for (u32 i = first; i < first + 4; i++) {
        cells.push_back(Cell(cells[word]));
        for (int w = 0; w < warp_count; w++) reads.push_back(Read(reads[size_t(word) * warp_count + w]));
      }
      cells[word].bytes = first;
    }
    for (; byte < end && byte / 4 == word; byte++) visit(cells[word].bytes + byte % 4, byte);
  }
}

inline void race(const char* access, const char* earlier, Source source, u32 byte, int other) {
  const bool in_flight = !strcmp(earlier, "cp.async");
  const std::string what =
      in_flight ? format("%s: %s by thread %d of what cp.async (%s) of thread %d may still be writing: thread %d has not waited "
                         "for it",
                         name(current->source).c_str(), access, current->id, name(source).c_str(), other, other)
                : format("%s: %s by thread %d is not ordered after the %s (%s) by thread %d: no barrier in between",
                         name(current->source).c_str(), access, current->id, earlier, name(source).c_str(), other);
  report_once("race", current->source, source, what + format("; shared memory, byte %u", byte), {current->id, other});
}

// One thread reads shared memory. collective: as part of a read of its whole warp.
inline void check_read(const Thread& thread, u32 address, u32 bytes, bool collective = false) {
  if (!settings.races) return;
  const u32* now = clock_of(thread.id);
  for_each_cell(address, bytes, [&](u32 i, u32 byte) {
    const Cell& cell = cells[i];
    if (cell.copier >= 0)
      race("read", "cp.async", cell.copy, byte, cell.copier);
    else if (!cell.initialised)
      report_once("uninitialised", current->source, {"", 0},
                  format("%s: thread %d reads shared memory that nothing has written, byte %u",
                         name(current->source).c_str(), thread.id, byte),
                  {thread.id});
    else if (cell.writer != thread.id && cell.written > now[cell.writer])
      race("read", "write", cell.write, byte, cell.writer);
    reads[size_t(i) * warp_count + thread.warp] = {thread.id, now[thread.id], collective, current->source};
  });
}

// The running thread writes shared memory, or (copy) starts a cp.async that will.
inline void check_write(u32 address, u32 bytes, bool copy = false) {
  if (!settings.races) return;
  const Thread& thread = *current;
  const u32* now = clock_of(thread.id);
  const char* access = copy ? "write (cp.async)" : "write";
  for_each_cell(address, bytes, [&](u32 i, u32 byte) {
    Cell& cell = cells[i];
    if (cell.copier >= 0)
      race(access, "cp.async", cell.copy, byte, cell.copier);
    else if (cell.initialised && cell.writer != thread.id && cell.written > now[cell.writer])
      race(access, "write", cell.write, byte, cell.writer);
    for (int w = 0; w < warp_count; w++) {
      const Read& read = reads[size_t(i) * warp_count + w];
      if (read.reader < 0 || read.reader == thread.id || read.at <= now[read.reader]) continue;
      if (read.collective && w == thread.warp) continue;
      race(access, "read", read.source, byte, read.reader);
      break;
    }
    if (copy) {
      cell.copier = thread.id;
      cell.copy = thread.source;
    } else {
      cell.writer = thread.id;
      cell.written = now[thread.id];
      cell.write = thread.source;
      cell.copier = -1;
      cell.initialised = true;
    }
  });
}

// The running thread has waited for its copy to [address, address + bytes): from here on it is a write of its own.
inline void copy_landed(u32 address, u32 bytes, Source copy) {
  if (!settings.races) return;
  for_each_cell(address, bytes, [&](u32 i, u32) {
    Cell& cell = cells[i];
    cell.copier = -1;
    cell.writer = current->id;
    cell.written = clock(current->id, current->id);
    cell.write = copy;
    cell.initialised = true;
  });
}

// The running thread accesses global memory; `shadow` belongs to the first byte. No access is of less than two bytes, so these
// are watched together. Blocks are never ordered; atomics need no order among themselves.
inline void check_global_access(GlobalWrite* shadow, u32 bytes, const char* array, u64 offset, GlobalAccess access) {
  const u32 block = 1 + block_index.x + grid_size.x * (block_index.y + grid_size.y * block_index.z);
  const int t = current->id;
  const bool atomic = access == GlobalAccess::atomic;
  for (u32 i = 0; i < bytes / 2; i++) {
    GlobalWrite& w = shadow[i];
    const bool ordered = !w.block || (w.block == block && (w.writer == t || w.written <= clock(t, w.writer)));
    if (!ordered && !(atomic && w.atomic))
      report_once("race", current->source, {w.file, w.line},
                  format("%s: %s by thread %d is not ordered after the %s (%s:%d) by thread %d%s; %s, byte %llu",
                         name(current->source).c_str(), access == GlobalAccess::read ? "read" : atomic ? "atomic" : "write", t,
                         w.atomic ? "atomic" : "write", base_name(w.file), w.line, w.writer,
                         w.block == block ? "" : " of another block", array, offset + 2 * i),
                  {t, w.writer});
    if (access != GlobalAccess::read)
      w = {block, clock(t, t), u16(t), atomic, current->source.line, current->source.file};
  }
}

}  // namespace emulator
