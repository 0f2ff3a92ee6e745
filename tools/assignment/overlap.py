"""How much a kernel's copies overlap with its products: the emulator runs it with its own calls taken note of.

For every group of asynchronous copies that a warp commits, the products that the warp issues before it waits for the
group. A copy that is waited for at once has none; one that travels during a whole iteration has all of it.
"""

from __future__ import annotations

import re

FILE = "ASSIGNMENT_OVERLAP"  # the environment's name for where the notes go

# Between the includes and the kernel: calls of the kernel's text go to functions that take note and call the real ones.
# Noted by the first lane of each warp: "block warp products".
NOTES = r"""
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <utility>
namespace ptx {
struct NotedWarp {
  long products = 0;
  bool copied = false;
  std::deque<std::pair<bool, long>> groups;  // whether it has copies, products so far when it was committed
};
inline NotedWarp* noted() {
  static std::map<long, NotedWarp> warps;
  if (threadIdx.x % 32) return nullptr;
  const long block = (long(blockIdx.z) * 4096 + blockIdx.y) * 4096 + blockIdx.x;
  return &warps[block * 64 + threadIdx.x / 32];
}
inline FILE* notes() {  // one file, whatever N a kernel waits for
  static FILE* file = std::fopen(std::getenv("ASSIGNMENT_OVERLAP"), "w");
  return file;
}
inline void noted_chunk(u32 to, const void* from, bool valid, EMULATOR_HERE) {
  if (NotedWarp* w = noted()) w->copied = true;
  cp_async_chunk(to, from, valid, source);
}
inline void noted_commit(EMULATOR_HERE) {
  if (NotedWarp* w = noted()) {
    w->groups.emplace_back(w->copied, w->products);
    w->copied = false;
  }
  cp_async_commit(source);
}
template <int N>
inline void noted_wait(EMULATOR_HERE) {
  if (NotedWarp* w = noted())
    while (int(w->groups.size()) > N) {
      if (w->groups.front().first && notes()) {
        std::fprintf(notes(), "%d %d %d %d %ld\n", blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x / 32,
                     w->products - w->groups.front().second);
        std::fflush(notes());
      }
      w->groups.pop_front();
    }
  cp_async_wait<N>(source);
}
template <typename T, typename... A>
inline void noted_mma(A&&... a) {
  if (NotedWarp* w = noted()) w->products++;
  mma_m16n8k16<T>(std::forward<A>(a)...);
}
}  // namespace ptx
#define cp_async_chunk noted_chunk
#define cp_async_commit noted_commit
#define cp_async_wait noted_wait
#define mma_m16n8k16 noted_mma
"""


# Fragments lose their signs, and products count twice. Attention of |Q|, |K| and |V|, at twice the softmax_scale and
# twice as large, comes out where Q, K and V come by ldmatrix and S and O by the tensor cores.
LOADS = [f"ldmatrix_x{n}{trans}" for n in (1, 2, 4) for trans in ("", "_trans")]
LOAD = """
template <typename R>
inline void unsigned_NAME(R& r, u32 address) {
  NAME(r, address);
  drop_signs(r);
}"""
FRAGMENTS = (
    r"""
namespace ptx {
template <int N>
inline void drop_signs(u32 (&r)[N]) {
  for (u32& x : r) x &= 0x7fff7fffu;
}
inline void drop_signs(u32& r) { r &= 0x7fff7fffu; }
"""
    + "".join(LOAD.replace("NAME", name) for name in LOADS)
    + r"""
template <typename T>
inline void twice_mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, bool zero = false) {
  float product[4] = {};
  mma_m16n8k16<T>(product, a, b0, b1);
  for (int i = 0; i < 4; i++) d[i] = (zero ? 0.f : d[i]) + 2 * product[i];
}
}  // namespace ptx
#define mma_m16n8k16 twice_mma
"""
    + "".join(f"#define {name} unsigned_{name}\n" for name in LOADS)
)


def instrumented(source: str, prelude: str = NOTES) -> str:
    """The kernel's text with the prelude behind its includes. Its lines keep their numbers, for what the emulator says
    of them."""
    includes = list(re.finditer(r"^[ \t]*#[ \t]*include[^\n]*\n", source, re.M))
    end = includes[-1].end() if includes else 0
    line = source[:end].count("\n") + 1
    return f"{source[:end]}{prelude}#line {line}\n{source[end:]}"


def parse(text: str) -> dict[tuple, list[int]]:
    """(block, warp) -> products during each of its groups' flights, in order. Lines that are none are passed over."""
    warps: dict[tuple, list[int]] = {}
    for line in text.splitlines():
        numbers = line.split()
        if len(numbers) == 5 and all(re.fullmatch(r"-?\d{1,9}", n) for n in numbers):
            *key, products = map(int, numbers)
            warps.setdefault(tuple(key), []).append(products)
    return warps
