"""A zoo of planted bugs, of the kinds that a result often hides: each is caught with a diagnosis that names its line.

The right kernels, and the valid pipeline with one barrier a tile, raise nothing in any order of threads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from stages import get
from tests.test_mutants import attention_of
from tools.emulator import SCHEDULES, Array, KernelError, emulate, launch, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

PIPELINE = (Path(__file__).parent / "kernels" / "pipeline.cu").read_text()
TILES = 5
WAYS = [(asynchronous, schedule) for asynchronous in ("late", "early") for schedule in SCHEDULES]


@dataclass(frozen=True)
class Bug:
    """replace: (old, new) pairs, each old once in the source; kind: of the finding; line: text that is on the line to
    blame, or with `until` on the first and the last of the lines one of which it is; says: a pattern in the message;
    ways: the (asynchronous, schedule) in which it has to be caught.
    """

    name: str
    replace: tuple[tuple[str, str], ...]
    kind: str
    line: str
    until: str = ""
    says: str = ""
    ways: tuple[tuple[str, str], ...] = tuple(WAYS)
    kernel: str = "one_barrier"

    def plant(self, source: str) -> str:
        for old, new in self.replace:
            assert source.count(old) == 1, f"{self.name} is out of date: {old!r} occurs {source.count(old)} times"
            source = source.replace(old, new)
        return source

    def is_caught(self, source: str, error: KernelError) -> None:
        """The diagnosis has the right kind, and names the right line."""
        lines = [i for i, text in enumerate(source.splitlines(), 1) if self.line in text]
        if self.until:
            lines = range(lines[0], 1 + max(i for i, text in enumerate(source.splitlines(), 1) if self.until in text))
        assert lines, f"{self.name}: {self.line!r} is on no line"
        found = [f for f in error.findings if f.kind == self.kind and set(f.lines) & set(lines)]
        assert found, f"{self.name}: expected {self.kind} at line {lines}; found {error}"
        assert any(re.search(self.says, str(f)) for f in found), error
        assert f"kernel.cu:{found[0].lines[0]}" in str(error)
        assert re.search(r"threads? \d", str(found[0])), "no thread is named"


def bug(name, *replace, kind="race", line, **more) -> Bug:
    return Bug(name, replace, kind, line, **more)


# ---- pipelines of asynchronous copies ----------------------------------------------------------------------


def run_pipeline(source: str, kernel: str):
    """Sums of the tiles, as the kernel has them."""
    X = np.random.default_rng(0).integers(0, 100, (TILES, 64, 64), dtype=np.uint16)
    sums = np.zeros(64, np.float32)
    parameters = [Array("X", X), Array("sums", sums, writable=True), np.int32(TILES)]
    launch(source, kernel, parameters, grid=(1,), block=64, shared_bytes=2 * 64 * 64 * 2)
    return X, sums


@pytest.mark.parametrize("kernel", ("one_barrier", "two_barriers"))
@pytest.mark.parametrize("asynchronous, schedule", WAYS)
def test_right_pipelines_are_clean(kernel, asynchronous, schedule):
    with emulate(asynchronous=asynchronous, schedule=schedule):
        X, sums = run_pipeline(PIPELINE, kernel)
    pairs = X.astype(np.int64)
    total = (pairs[..., ::2] + (pairs[..., 1::2] << 16)).sum()
    assert sums.astype(np.float64).sum() == pytest.approx(total, rel=1e-5)


WAIT_0, WAIT_1, BARRIER = "    cp_async_wait<0>();\n", "    cp_async_wait<1>();\n", "    __syncthreads();\n"
LOAD_NEXT = "load_tile(buffers + (t + 1) % 2 * TILE_BYTES, X + (t + 1) * ROWS * COLUMNS);\n"
IF_NEXT = "    if (t + 1 < tiles) " + LOAD_NEXT
COMMIT = "    cp_async_commit();\n"
ADD = "    add_tile(sum, buffers + t % 2 * TILE_BYTES);\n"
ADD_UP = "    for (int i = 0; i < 4; i++) sum += r[i];\n"
READ = "ldmatrix_x4(r, tile"
COPY = "cp_async_chunk(tile + i * 16"
OVERTAKES = r"cp\.async.*not ordered after the read"
PIPELINE_BUGS = (
    bug("no wait", (WAIT_0, ""), line=READ, says="has not waited"),
    bug("no barrier", (WAIT_0 + BARRIER, WAIT_0), line=READ),
    bug("barrier before the wait", (WAIT_0 + BARRIER, BARRIER + WAIT_0), line=READ),
    bug("waits for too few groups", (WAIT_0, WAIT_1), line=READ, says="has not waited"),
    bug("no commit", (COMMIT + ADD + "  }", ADD + "  }"), line=READ, says="has not waited"),
    bug("one buffer for two tiles", (IF_NEXT + COMMIT + ADD,
        IF_NEXT.replace("(t + 1) % 2", "0") + COMMIT + ADD.replace("t % 2", "0")), line=READ),
    bug("buffer given back before the barrier", (BARRIER + IF_NEXT, IF_NEXT + BARRIER), line=COPY, says=OVERTAKES),
    bug("no barrier before refilling", ("    __syncthreads();  // its buffer is free\n", ""), line=COPY,
        says=OVERTAKES, kernel="two_barriers"),
    bug("a wait that leaves this tile under way", (WAIT_1, "    cp_async_wait<2>();\n"), line=READ,
        says="has not waited", kernel="two_barriers"),
    bug("only one warp comes to the barrier",
        (WAIT_0 + BARRIER, WAIT_0 + "    if (threadIdx.x < 32) __syncthreads();\n"),
        kind="deadlock", line="if (threadIdx.x < 32) __syncthreads();",
        says="threads 0-31 wait at __syncthreads.*threads 32-63 have returned"),
    bug("source of a copy off by one element", ("X + i * 8, true)", "X + i * 8 + 1, true)"), kind="misaligned",
        line=COPY),
    bug("one tile too many", (IF_NEXT + COMMIT + ADD, LOAD_NEXT + COMMIT + ADD), kind="out of bounds", line=COPY,
        says="X at byte 4[0-9]+ of 40960"),
    bug("three buffers in the room of two", (IF_NEXT + COMMIT + ADD, IF_NEXT.replace("% 2", "% 3") + COMMIT + ADD),
        kind="out of bounds", line=COPY, says="the block has 16384 bytes"),
    bug("rows that nobody loads", ("i < ROWS * COLUMNS / 8; i", "i < ROWS * COLUMNS / 8 - 8; i"), kind="uninitialised",
        line=READ),
    bug("a tile fetched past the last one",
        (IF_NEXT + COMMIT + ADD, LOAD_NEXT.replace("X + (t + 1)", "X + (t + 1) % tiles") + COMMIT + ADD),
        kind="unfinished copy", line=COPY, says="returns while this cp.async is under way"),
    bug("half a warp in ldmatrix", (ADD_UP, ADD_UP + "    if (lane < 16) ldmatrix_x4_trans(r, tile);  // half\n"),
        kind="divergence", line="// half"),
)  # fmt: skip


@pytest.mark.parametrize("planted", PIPELINE_BUGS, ids=lambda b: b.name.replace(" ", "_"))
def test_pipeline_bug(planted):
    source = planted.plant(PIPELINE)
    for asynchronous, schedule in planted.ways:
        with emulate(asynchronous=asynchronous, schedule=schedule), pytest.raises(KernelError) as caught:
            run_pipeline(source, planted.kernel)
        planted.is_caught(source, caught.value)


# ---- in s20 ------------------------------------------------------------------------------------------------

WAIT = "    cp_async_commit();\n    cp_async_wait<0>();\n"
K_THERE = "    __syncthreads();  // K is there for all; and all are done with the last tile's V\n"
V_THERE = "    __syncthreads();  // V is there for all; and all are done with this tile's K\n"
END = "  // O / l, by way of"
K_READ, V_READ, K_COPY = "ldmatrix_x4(K_frag", "ldmatrix_x4_trans(V_frag", "cp_async_chunk(tile + tile_offset"
STAGE_BUGS = (
    bug("K without a wait", (WAIT + K_THERE, "    cp_async_commit();\n" + K_THERE), line=K_READ),
    bug("K without a barrier", (WAIT + K_THERE, WAIT), line=K_READ),
    bug("V without a barrier", (WAIT + V_THERE, WAIT), line=V_READ),
    bug("V without a commit", (WAIT + V_THERE, "    cp_async_wait<0>();\n" + V_THERE), line=V_READ),
    bug("O read back without __syncwarp", ("  __syncwarp();\n  constexpr int CHUNKS", "  constexpr int CHUNKS"),
        line="ld_shared_chunk(Q_smem"),
    bug("warps eight rows apart write O", ("Q_smem + tile_offset<d>(warp * MMA_M + quad + 8 * r, n)",
        "Q_smem + tile_offset<d>(warp * 8 + quad + 8 * r, n)"), line="st_shared(Q_smem"),
    bug("the maximum shared by some lanes only", ("      m_new = fmaxf(m_new, shfl_xor(m_new, 1));\n",
        "      if (lane < 28) m_new = fmaxf(m_new, shfl_xor(m_new, 1));\n"), kind="divergence", line="if (lane < 28)",
        says="wait for it in shfl"),
    bug("barrier in a warp's branch", (K_THERE, "    if (warp < 3) __syncthreads();\n"), kind="deadlock",
        line="// V is there", says="threads 0-95 wait at __syncthreads"),
    bug("lanes that leave early", ("  __syncwarp();  // every lane", "  if (row[0] >= p.seqlen_q) return;\n"
        "  __syncwarp();  // every lane"), kind="deadlock", line="// every lane"),
    bug("V read a row too far", ("tile_offset<d>(k * 16 + lane % 16, 2 * n + lane / 16)",
        "tile_offset<d>(k * 16 + lane % 16 + 1, 2 * n + lane / 16)"), kind="out of bounds", line=V_READ),
    bug("rows past the end are read", ("first_row + row < seqlen);", "first_row + row < seqlen + 1);"),
        kind="out of bounds", line=K_COPY, says="(q|k) at byte"),
    bug("O past the end", ("if (out_row < p.seqlen_q)", "if (out_row <= p.seqlen_q)"), kind="out of bounds",
        line="st_global_chunk(O", says="out at byte"),
    bug("L of every head in one place", ("((long long)batch * p.nheads + head) * p.seqlen_q;", "0;"),
        line="st_global(&L[", says="another block"),
    bug("O written over Q", ("st_global_chunk(O + out_row", "st_global_chunk(const_cast<u16*>(Q) + out_row"),
        kind="read-only", line="st_global_chunk(const_cast"),
    bug("tail left as it was", ("    cp_async_chunk(tile",
        "    if (first_row + row < seqlen) cp_async_chunk(tile"), kind="uninitialised",
        line="ldmatrix_x4(Q_frag"),
    bug("tile rows of odd length", ("return row * (d * 2) + chunk * 16;",
        "return row * (d * 2 + 2) + chunk * 16;"), kind="misaligned", line=K_COPY),
    bug("a loop that does not advance", ("first_key += Bc)", "first_key += 0 * Bc)"), kind="hang",
        line="DEVICE void load_tile", until="mma_m16n8k16<T>(O_acc[2 * n + 1]"),
    bug("a plain store to an input", (END, "  if (threadIdx.x == 77) const_cast<u16*>(Q)[0] = 0;\n" + END),
        kind="out of bounds", line="if (threadIdx.x == 77)", says="thread 77 writes the input q"),
    bug("a plain load from nowhere", (END, "  if (threadIdx.x == 5) m[0] += K[1ll << 50];\n" + END),
        kind="out of bounds", line="if (threadIdx.x == 5)", says="thread 5"),
)  # fmt: skip


@pytest.mark.parametrize("planted", STAGE_BUGS, ids=lambda b: b.name.replace(" ", "_"))
def test_stage_bug(planted, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_EMULATE", "1")
    stage = get("s20")
    source = planted.plant(stage.kernel_file.read_text())
    attention = attention_of(stage, source, tmp_path)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 150, 2, 64, generator=generator).half() for _ in range(3))
    for asynchronous, schedule in planted.ways[:1] if planted.kind == "hang" else planted.ways:
        with emulate(asynchronous=asynchronous, schedule=schedule, limit_s=0.5 if planted.kind == "hang" else 60):
            with pytest.raises(KernelError) as caught:
                attention(q, k, v)
        planted.is_caught(source, caught.value)


@pytest.mark.parametrize("asynchronous, schedule", WAYS)
def test_the_stage_itself_is_clean(asynchronous, schedule, monkeypatch):
    monkeypatch.setenv("CUDA_EMULATE", "1")
    q, k, v = (torch.randn(1, 150, 2, 64).half() for _ in range(3))
    with emulate(asynchronous=asynchronous, schedule=schedule) as session:
        get("s20").attention(q, k, v, causal=True)
    assert session.reports[0].findings == ()


# ---- what would take a process with it -----------------------------------------------------------------------


def run_small(body: str, helpers: str = "", limit_s: float = 60, **more):
    x = np.ones(64, np.float32)
    source = (
        f'#include "ptx.cuh"\nusing namespace ptx;\n{helpers}\n__global__ void kernel(float* x, int zero) {{\n'
        f"  extern __shared__ __align__(128) unsigned char smem[];\n{body}\n}}\n"
    )
    with emulate(limit_s=limit_s), pytest.raises(KernelError) as caught:
        launch(source, "::kernel", [Array("x", x, writable=True), np.int32(0)], grid=(2,), block=64, **more)
    return source, caught.value


SMALL_BUGS = (
    ("hang", "  while (zero == 0) asm volatile(\"\");  // here", ""),
    ("hang", "  while (zero == 0) ex2(x[threadIdx.x]);  // here", ""),
    ("stack overflow", "  x[0] = deep(x, 1 << 30);", "DEVICE float deep(float* x, int n) {  // here\n"
     "  volatile float y[256] = {x[n % 64]};  // here\n"
     "  if (n) y[n % 256] += deep(x, n - 1);  // here\n  return y[n % 7];  // here\n}  // here"),
    ("crash", "  x[0] = float(1000 / zero);  // here", ""),
    ("out of bounds", "  *reinterpret_cast<volatile int*>(8) = 1;  // here", ""),
    ("out of bounds", "  st_global(x - 1, 0.f);  // here", ""),
    ("out of bounds", "  st_global(x + 64, 0.f);  // here", ""),
    ("out of bounds", "  st_shared(1024, 0);  // here", ""),
    ("out of bounds", "  st_shared(0xfffffffcu, 0);  // here", ""),
    ("out of bounds", "  int local;\n  st_shared(shared_address(&local), 0);  // here", ""),
    ("misaligned", "  st_shared(2, 0);  // here", ""),
    ("divergence", "  if (threadIdx.x % 2) __syncwarp(0x55555555u);  // here", ""),
    ("divergence", "  if (threadIdx.x % 2) __syncthreads(); else\n  __syncthreads();  // here", ""),
    ("divergence", "  if (threadIdx.x % 2) __shfl_xor_sync(0xaaaaaaaau, 1, 1);  // here", ""),
    ("deadlock", "  if (threadIdx.x % 2) __syncwarp();  // here", ""),
    ("barrier", "  bar_sync(1, 96);  // here", ""),
    ("barrier", "  bar_sync(16, 64);  // here", ""),
    ("barrier", "  bar_sync(1, threadIdx.x < 32 ? 64 : 32);  // here", ""),
    ("race", "  st_shared(0, threadIdx.x);  // here", ""),
    ("race", "  st_global(x, 1.f);  // here", ""),
    ("race", "  st_global(x + threadIdx.x, ld_global(x + threadIdx.x));  // here", ""),  # the first block's
    ("race", "  if (threadIdx.x == 3) st_global(x + blockIdx.x, 1.f);\n  if (threadIdx.x == 7) x[9] += ld_global(x + "
     "blockIdx.x);  // here", ""),
    ("race", "  const int at = threadIdx.x % 32 * 4;\n  if (threadIdx.x < 32) {\n    st_shared(at, 1);\n"
     "    bar_arrive(1, 64);\n    st_shared(at, 2);  // here\n  } else {\n    bar_sync(1, 64);\n"
     "    ld_shared(at);\n  }", ""),
    ("race", "  atom_add(x, 1.f);\n  if (threadIdx.x == 9) st_global(x, 1.f);  // here", ""),
    ("race", "  if (threadIdx.x == 9) st_global(x, 1.f);\n  atom_add(x, 1.f);  // here", ""),
    ("race", "  __shared__ u32 sum;\n  st_shared(shared_address(&sum), threadIdx.x);  // here", ""),
    ("uninitialised", "  __shared__ float sums[64];\n  x[0] += ld_shared_f32(shared_address(sums + 63));  // here", ""),
    ("unfinished copy", "  cp_async_ca<4>(4 * threadIdx.x, x + threadIdx.x, true);  // here", ""),
    ("unfinished copy", "  cp_async_ca<4>(4 * threadIdx.x, x, false);  // here\n  cp_async_commit();", ""),
    ("unfinished copy", "  cp_async_ca<4>(4 * threadIdx.x, x + threadIdx.x, true);  // here\n  cp_async_commit();\n"
     "  cp_async_wait<1>();", ""),
    ("unfinished copy", "  cp_async_commit();\n  cp_async_ca<4>(4 * threadIdx.x, x + threadIdx.x, true);  // here\n"
     "  cp_async_wait<0>();", ""),
    ("misaligned", "  cp_async_ca<8>(4, x, true);  // here", ""),
    ("misaligned", "  cp_async_ca<8>(8, x + 1, true);  // here", ""),
    ("misaligned", "  st_shared_u16(1, 0);  // here", ""),
    ("misaligned", "  ld_global_pair(x + 1);  // here", ""),
    ("out of bounds", "  st_global_chunk_streaming(x + 64, Chunk());  // here", ""),
    ("out of bounds", "  atom_add(x + 64, 1.f);  // here", ""),
    ("operand", "  shfl_xor(1, 1, 24);  // here", ""),
    ("barrier", "  bar_sync(1 + threadIdx.x % 2, 32);  // here", ""),
    ("barrier", "  bar_arrive(1, 48);  // here", ""),
    ("deadlock", "  if (threadIdx.x % 32 < 16) bar_sync(1, 32);  // here", ""),  # two halves make no warp
    ("deadlock", "  if (threadIdx.x < 32) bar_sync(1, 64);  // here\n  else bar_sync(2, 64);  // here", ""),
)  # fmt: skip


@pytest.mark.parametrize("kind, body, helpers", SMALL_BUGS, ids=lambda text: text.strip()[:40] or None)
def test_small_bug(kind, body, helpers):
    source, error = run_small(body, helpers, limit_s=0.5 if kind == "hang" else 60, shared_bytes=1024)
    lines = {i for i, text in enumerate(source.splitlines(), 1) if "// here" in text}
    assert error.findings[0].kind == kind and lines & set(error.findings[0].lines), str(error)
    assert re.search(r"thread", str(error)) and f"kernel.cu:{error.findings[0].lines[0]}" in str(error)


def test_the_worker_killed_from_outside():
    _, error = run_small(
        '  asm volatile("");  kill_me();', 'extern "C" int raise(int);\ninline void kill_me() { raise(9); }'
    )
    assert error.findings[0].kind == "crash" and "signal 9" in str(error)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_lane_overtakes_its_warps_ldmatrix(schedule):
    """ldmatrix reads for the whole warp at once, so any lane may overwrite what it has read; after plain loads it takes
    a __syncwarp."""
    fill = "  for (int i = 0; i < 4; i++) st_shared(lane * 16 + 4 * i, lane);\n  __syncwarp();\n"
    refill = "  st_shared((31 - lane) * 16, 0);  // here"
    source = '#include "ptx.cuh"\nusing namespace ptx;\n__global__ void kernel() {\n  const int lane = threadIdx.x;\n'
    with emulate(schedule=schedule):
        body = fill + "  u32 r[4];\n  ldmatrix_x4(r, lane * 16);\n" + refill + "\n}"
        launch(source + body, "::kernel", [], grid=(1,), block=32, shared_bytes=512)
        body = fill + "  ld_shared_chunk(lane * 16);\n" + refill + "\n}"
        with pytest.raises(KernelError, match="race"):
            launch(source + body, "::kernel", [], grid=(1,), block=32, shared_bytes=512)


# ---- races by the byte -----------------------------------------------------------------------------------------

HALVES = "  st_shared_u16(threadIdx.x * 2, u16(threadIdx.x));  // one half of a word each\n"
ONE_LANE = "  if (threadIdx.x == {}) {};  // here\n"


def run_bytes(body: str) -> KernelError | None:
    """`body` in a block of 64 threads with 256 bytes of shared memory."""
    source = f'#include "ptx.cuh"\nusing namespace ptx;\n__global__ void kernel(u32* out) {{\n{body}}}\n'
    try:
        launch(source, "::kernel", [Array("out", np.zeros(64, np.uint32), True)], grid=(2,), block=64, shared_bytes=256)
    except KernelError as error:
        return error
    return None


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "body",
    (
        HALVES,
        HALVES + "  __syncthreads();\n  if (threadIdx.x < 32) ld_shared(threadIdx.x * 4);\n",
        HALVES + "  if (threadIdx.x % 2) ld_shared_u16(threadIdx.x * 2);\n",
        HALVES
        + "  __syncthreads();\n  if (threadIdx.x < 16) ld_shared_pair(threadIdx.x * 8);\n  __syncthreads();\n"
        + HALVES,
        # One thread goes on with its half while another works on the other half.
        HALVES + "  for (int i = 0; i < 3; i++) st_shared_u16(threadIdx.x * 2, ld_shared_u16(threadIdx.x * 2) + 1);\n",
        # Neighbours of what a copy is filling.
        "  if (threadIdx.x == 0) cp_async_ca<4>(4, out, true);\n  if (threadIdx.x == 1) st_shared_u16(2, 1);\n"
        "  if (threadIdx.x == 2) st_shared_u16(8, 1);\n  cp_async_commit();\n  cp_async_wait<0>();\n",
        "  atom_add(out, 1u);\n  atom_max(out, 7u);\n",
    ),
)
def test_disjoint_bytes_are_no_race(body, schedule):
    with emulate(schedule=schedule):
        assert run_bytes(body) is None


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "body, first_bytes",
    (
        (HALVES + ONE_LANE.format(40, "st_shared(4, 0)"), (4, 6)),
        (HALVES + ONE_LANE.format(2, "st_shared(4, 0)"), (6,)),
        (HALVES + ONE_LANE.format(2, "ld_shared(4)"), (6,)),
        (HALVES + ONE_LANE.format(3, "st_shared_u16(4, 0)"), (4,)),
        (HALVES + "  __syncthreads();\n  ld_shared_u16(threadIdx.x * 2);\n"
         + ONE_LANE.format(3, "st_shared(4, 0)"), (4,)),
        ("  if (threadIdx.x == 2) cp_async_ca<4>(4, out, true);\n" + ONE_LANE.format(3, "st_shared_u16(6, 1)")
         + "  cp_async_commit();\n  cp_async_wait<0>();\n", (6,)),
    ),
)  # fmt: skip
def test_overlapping_bytes_are_a_race(body, first_bytes, schedule):
    with emulate(schedule=schedule):
        error = run_bytes(body)
    here = next(i for i, line in enumerate(body.splitlines(), 4) if "// here" in line)
    races = [f for f in error.findings if f.kind == "race" and here in f.lines] if error else []
    assert any(re.search(rf"byte {byte}\b", f.message) for f in races for byte in first_bytes), error


def test_half_a_word_is_uninitialised():
    error = run_bytes("  if (threadIdx.x == 5) { st_shared_u16(4, 1); ld_shared(4); }\n")
    assert error.findings[0].kind == "uninitialised" and "byte 6" in str(error)


def test_groups_without_copies_may_stay():
    """A loop that commits once a round leaves empty groups behind: there is nothing to wait for."""
    assert (
        run_bytes("  cp_async_commit();\n  cp_async_commit();\n  cp_async_wait<1>();\n  cp_async_commit();\n") is None
    )
