// The report of a launch, as JSON on a file descriptor, and the ways in which a launch ends.
#pragma once
#include <unistd.h>

#include "counters.hpp"
#include "state.hpp"

namespace emulator {

inline int report_file = 1;

inline void write_all(const char* text, size_t bytes) {
  while (bytes) {
    const ssize_t n = write(report_file, text, bytes);
    if (n <= 0) break;
    text += n;
    bytes -= n;
  }
}

inline std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c >= ' ' || c < 0) out += c;
    else out += format("\\u%04x", c);
  }
  return out + '"';
}

inline std::string json(Source s) { return "[" + quoted(s.file) + format(", %d]", s.line); }

inline std::string json(const Finding& f) {
  std::string text = "{\"kind\": " + quoted(f.kind) + ", \"message\": " + quoted(f.message) + ", \"sources\": [";
  for (size_t i = 0; i < f.sources.size(); i++) text += (i ? ", " : "") + json(f.sources[i]);
  text += "], \"threads\": [";
  for (size_t i = 0; i < f.threads.size(); i++) text += format(i ? ", %d" : "%d", f.threads[i]);
  return text + format("], \"block\": [%u, %u, %u], \"count\": %llu}", f.block.x, f.block.y, f.block.z, f.count);
}

inline std::string json(const Site& s) {
  return "{\"op\": " + quoted(s.op) + ", \"source\": " + json(s.source) +
         format(", \"bytes_per_lane\": %u, \"instructions\": %llu, \"lanes\": %llu, \"passes\": %llu, \"wavefronts\": %llu, "
                "\"ways\": %u, \"bytes\": %llu, \"sectors\": %llu, \"ideal_sectors\": %llu}",
                s.bytes_per_lane, s.instructions, s.lanes, s.passes, s.wavefronts, s.ways, s.bytes, s.sectors,
                s.ideal_sectors);
}

inline std::string json(const Trace& t) {
  u32 lanes = 0;
  for (auto& pass : t.passes) lanes |= pass.lanes;
  std::string text = "{\"op\": " + quoted(sites[t.site].op) + ", \"source\": " + json(sites[t.site].source) +
                     format(", \"block\": [%u, %u, %u], \"warp\": %d, \"bytes_per_lane\": %u, \"addresses\": [", t.block.x,
                            t.block.y, t.block.z, t.warp, t.bytes_per_lane);
  for (int lane = 0; lane < 32; lane++) {
    text += lane ? ", " : "";
    text += lanes >> lane & 1 ? format("%u", t.addresses[lane]) : "null";
  }
  text += "], \"passes\": [";
  for (size_t i = 0; i < t.passes.size(); i++)
    text += format(i ? ", [%u, %u]" : "[%u, %u]", t.passes[i].lanes, t.passes[i].wavefronts);
  return text + "]}";
}

inline void write_report() {
  for (int w = 0; w < int(any_open.size()); w++) close_accesses(w);
  std::string text = "{\"findings\": [";
  for (size_t i = 0; i < findings.size(); i++) text += (i ? ",\n" : "\n") + json(findings[i]);
  text += "],\n\"sites\": [";
  for (size_t i = 0; i < sites.size(); i++) text += (i ? ",\n" : "\n") + json(sites[i]);
  text += "],\n\"traces\": [";
  for (size_t i = 0; i < traces.size(); i++) text += (i ? ",\n" : "\n") + json(traces[i]);
  text += format("],\n\"switches\": %llu}\n", switches);
  write_all(text.data(), text.size());
}

void end_launch() {
  write_report();
  fflush(stdout);
  _exit(0);
}

}  // namespace emulator
