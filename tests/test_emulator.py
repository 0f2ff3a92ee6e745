"""The emulator's instructions, each against its definition in the PTX ISA, and its counters.

The definitions are written out here a second time, from the ISA's text and figures. Planted bugs: test_emulator_zoo.py.
"""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
import torch

from stages import get
from tools.emulator import SCHEDULES, Array, CompileError, KernelError, Struct, build, emulate, launch, missing, process

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

LANES = np.arange(32)


def run(body: str, *parameters, block=32, grid=(1,), shared_bytes=0, defines=(), helpers="", **arrays):
    """Launch `body` as a kernel with `arrays`, all writable: pointers named as the keywords, to their element type.
    parameters: (declaration, NumPy scalar) pairs."""
    types = {"float32": "float", "uint32": "u32", "uint16": "u16", "int32": "int"}
    declared = [f"{types[a.dtype.name]}* {name}" for name, a in arrays.items()] + [p[0] for p in parameters]
    source = (
        f'#include "ptx.cuh"\nusing namespace ptx;\n{helpers}\n__global__ void kernel({", ".join(declared)}) {{\n'
        f"  extern __shared__ __align__(128) unsigned char smem[];\n  const u32 base = shared_address(smem);\n"
        f"  const int lane = threadIdx.x % 32;\n  (void)base; (void)lane;\n{body}\n}}\n"
    )
    values = [Array(name, a, writable=True) for name, a in arrays.items()] + [p[1] for p in parameters]
    return launch(source, "::kernel", values, grid=grid, block=block, shared_bytes=shared_bytes, defines=defines)


# ---- fragments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trans", (False, True))
def test_ldmatrix(trans):
    """Lane l supplies the address of row l % 8 of matrix l / 8. Without .trans, lane l receives of each matrix row
    l / 4, columns 2 (l % 4) and the next; with it, the same of the transposed matrix."""
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 1 << 16, (64, 8), dtype=np.uint16)
    rows = rng.permutation(64)[:32].astype(np.uint32)  # any rows, in any order
    r = np.zeros((32, 4), np.uint32)
    run(
        "  for (int i = lane; i < 256; i += 32) st_shared(base + 4 * i, tile[2 * i] | u32(tile[2 * i + 1]) << 16);\n"
        "  __syncwarp();\n  u32 f[4];\n"
        f"  ldmatrix_x4{'_trans' if trans else ''}(f, base + rows[lane] * 16);\n"
        "  for (int i = 0; i < 4; i++) r[lane * 4 + i] = f[i];",
        shared_bytes=1024,
        tile=tile,
        rows=rows,
        r=r,
    )
    for lane in range(32):
        for m in range(4):
            matrix = tile[rows[8 * m : 8 * m + 8]]
            matrix = matrix.T if trans else matrix
            low, high = matrix[lane // 4, 2 * (lane % 4)], matrix[lane // 4, 2 * (lane % 4) + 1]
            assert r[lane, m] == int(low) | int(high) << 16, (lane, m)


def lay_out(index_of, count: int, matrix: torch.Tensor) -> np.ndarray:
    """[32, count / 2] registers: two 16-bit elements each, element i of a lane at index_of(lane, i) of `matrix`."""
    bits = matrix.view(torch.int16).numpy().view(np.uint16)
    elements = np.array([[bits[index_of(lane, i)] for i in range(count)] for lane in LANES], np.uint32)
    return elements[:, ::2] | elements[:, 1::2] << 16


def index_a(lane, i):  # PTX ISA, mma.m16n8k16, matrix A: a0..a7
    row = lane // 4 + (0 if i < 2 or 4 <= i < 6 else 8)
    return row, lane % 4 * 2 + i % 2 + (0 if i < 4 else 8)


def index_b(lane, i):  # matrix B: b0..b3
    return lane % 4 * 2 + i % 2 + (0 if i < 2 else 8), lane // 4


def index_c(lane, i):  # matrices C and D: c0..c3
    return lane // 4 + (0 if i < 2 else 8), lane % 4 * 2 + i % 2


@pytest.mark.parametrize("dtype, name", ((torch.float16, "f16"), (torch.bfloat16, "bf16")))
def test_mma(dtype, name):
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn(shape, generator=generator).to(dtype) for shape in ((16, 16), (16, 8)))
    A[3, 5] = torch.finfo(dtype).tiny / 4  # a subnormal
    B[5, 2] = 2.0**12
    C = torch.randn(16, 8, generator=generator)
    d = np.array([[C[index_c(lane, i)] for i in range(4)] for lane in LANES], np.float32)
    run(
        "  float c[4];\n  for (int i = 0; i < 4; i++) c[i] = d[lane * 4 + i];\n"
        "  const u32 f[4] = {a[lane * 4], a[lane * 4 + 1], a[lane * 4 + 2], a[lane * 4 + 3]};\n"
        f"  mma_m16n8k16<{name}>(c, f, b[lane * 2], b[lane * 2 + 1]);\n"
        "  for (int i = 0; i < 4; i++) d[lane * 4 + i] = c[i];",
        a=lay_out(index_a, 8, A),
        b=lay_out(index_b, 4, B),
        d=d,
    )
    expected = (C.double() + A.double() @ B.double()).numpy()
    for lane in range(32):
        for i in range(4):
            assert d[lane, i] == pytest.approx(expected[index_c(lane, i)], rel=1e-5, abs=1e-5), (lane, i)


@pytest.mark.parametrize("name, value", (("f16", 65504.0), ("bf16", 3.0e38)))
def test_mma_overflows_and_keeps_nan(name, value):
    """Products and sums are those of fp32: infinities of f16 and NaN go through."""
    d = np.zeros((32, 4), np.float32)
    run(
        f"  const u32 big = pack<{name}>({value}f, {value}f), nan = pack<{name}>(INFINITY - INFINITY, 0.f);\n"
        "  const u32 f[4] = {big, lane == 0 ? nan : big, big, big};\n  float c[4] = {};\n"
        f"  mma_m16n8k16<{name}>(c, f, big, big);\n  for (int i = 0; i < 4; i++) d[lane * 4 + i] = c[i];",
        d=d,
    )
    exact = 16 * value * value
    np.testing.assert_allclose(d[:, :2], np.inf if exact > 3.4e38 else exact, rtol=1e-3)
    nan_row = np.isnan(d[:, 2:]).all(1)
    assert nan_row[:4].all() and not nan_row[4:].any()  # row 8 of A is lane 0's, and makes row 8 of D


# ---- conversions -------------------------------------------------------------------------------------------


def floats() -> np.ndarray:
    """Every 16-bit float of both kinds, everything halfway between two, one ulp beside that, and what overflows."""
    bits = np.arange(1 << 16, dtype=np.uint32)
    bf16 = bits << 16
    f16 = bits.astype(np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(all="ignore"):
        halfway = (f16[:-1].astype(np.float64) + f16[1:]) / 2
    f16_bits = np.concatenate((f16, halfway.astype(np.float32))).view(np.uint32)
    around = np.concatenate((bf16, bf16 + 0x8000, f16_bits))
    special = np.array([65519.996, 65520, -65520, 3.4e38, -3.4e38, 1e-45, 2**-25, 2**-24 * 1.5, 0.0, -0.0], np.float32)
    return np.concatenate((around, around + 1, around - 1, special.view(np.uint32))).view(np.float32)


@pytest.mark.parametrize("dtype, name", ((torch.float16, "f16"), (torch.bfloat16, "bf16")))
def test_pack(dtype, name):
    """cvt.rn: to nearest, ties to even; overflow gives infinity, NaN the canonical 0x7fff. low is the lower half."""
    x = floats()
    x = np.concatenate((x, x[: -len(x) % 64]))
    packed = np.zeros(len(x) // 2, np.uint32)
    run(
        f"  for (int i = lane; i < n; i += 32) packed[i] = pack<{name}>(x[2 * i], x[2 * i + 1]);",
        ("int n", np.int32(len(packed))),
        x=x,
        packed=packed,
    )
    expected = torch.from_numpy(x).to(dtype).view(torch.int16).numpy().view(np.uint16).copy()
    expected[np.isnan(x)] = 0x7FFF
    np.testing.assert_array_equal(packed.view(np.uint16), expected)


def test_ex2():
    x = np.array(
        [0, 1, -1, 0.5, 10, -20.25, 127.5, 200, -125.9, -126.1, -150, -np.inf, np.inf, np.nan, 1e-40], np.float32
    )
    y = np.zeros_like(x)
    run("  if (lane < 15) y[lane] = ex2(x[lane]);", x=x, y=y)
    with np.errstate(over="ignore"):
        expected = np.exp2(x.astype(np.float64)).astype(np.float32)
    expected[np.abs(expected) < np.finfo(np.float32).tiny] = 0  # .ftz
    np.testing.assert_allclose(y, expected, rtol=3e-7)


# ---- lanes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shuffles_and_votes(schedule):
    out = np.zeros((8, 32), np.uint32)
    with emulate(schedule=schedule):
        run(
            "  out[lane] = u32(shfl_xor(float(lane), 5));\n"
            "  out[32 + lane] = __shfl_xor_sync(0xffffffffu, lane, 1);\n"
            "  out[64 + lane] = __shfl_sync(0xffffffffu, lane, 3, 8);\n"
            "  out[96 + lane] = __shfl_up_sync(0xffffffffu, lane, 3, 16);\n"
            "  out[128 + lane] = __shfl_down_sync(0xffffffffu, lane, 3);\n"
            "  out[160 + lane] = __ballot_sync(0xffffffffu, lane % 3 == 0);\n"
            "  out[192 + lane] = __any_sync(0xffffffffu, lane == 31) + 2 * __all_sync(0xffffffffu, lane < 31);\n"
            "  if (lane < 16) out[224 + lane] = __shfl_xor_sync(0x0000ffffu, lane, 8);\n"
            "  else out[224 + lane] = __shfl_xor_sync(0xffff0000u, lane, 4);",
            out=out,
        )
    np.testing.assert_array_equal(out[0], LANES ^ 5)
    np.testing.assert_array_equal(out[1], LANES ^ 1)
    np.testing.assert_array_equal(out[2], LANES // 8 * 8 + 3)
    np.testing.assert_array_equal(out[3], np.where(LANES % 16 < 3, LANES, LANES - 3))
    np.testing.assert_array_equal(out[4], np.where(LANES + 3 > 31, LANES, LANES + 3))
    assert (out[5] == sum(1 << lane for lane in range(0, 32, 3))).all()
    assert (out[6] == 1).all()
    np.testing.assert_array_equal(out[7], np.where(LANES < 16, LANES ^ 8, LANES ^ 4))


def test_indices():
    """Threads are numbered x first; every block and thread runs once."""
    out = np.zeros((2, 3, 2, 2, 4, 8), np.int32)  # blocks z, y, x; threads z, y, x
    run(
        "  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);\n"
        "  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);\n"
        "  out[block * 64 + thread] += block * 64 + thread;",
        grid=(2, 3, 2),
        block=(8, 4, 2),
        out=out,
    )
    np.testing.assert_array_equal(out.ravel(), np.arange(out.size))


def test_atomics():
    total, largest = np.zeros(1, np.float32), np.zeros(1, np.int32)
    run(
        "  atomicAdd(total, 1.f);\n  atomicMax(largest, int(blockIdx.x * 32 + lane));",
        grid=(5,),
        total=total,
        largest=largest,
    )
    assert total[0] == 160 and largest[0] == 159


# ---- memory and time ---------------------------------------------------------------------------------------


def test_cp_async_copies_or_fills_with_zeros():
    x = np.arange(32 * 4, dtype=np.uint32)
    out = np.full((32, 4), 7, np.uint32)
    run(
        "  cp_async_chunk(base + lane * 16, x + lane * 4, lane % 3 != 0);\n"
        "  cp_async_commit();\n  cp_async_wait<0>();\n  const Chunk c = ld_shared_chunk(base + lane * 16);\n"
        "  st_global_chunk(out + lane * 4, c);",
        shared_bytes=512,
        x=x,
        out=out,
    )
    np.testing.assert_array_equal(out, np.where(LANES[:, None] % 3 == 0, 0, x.reshape(32, 4)))


def test_cp_async_does_not_read_what_it_fills():
    """With size 0 the source address may be anything."""
    x = np.zeros(4, np.uint32)
    run(
        "  cp_async_chunk(base + lane * 16, x + 1000000, false);\n  cp_async_commit();\n  cp_async_wait<0>();",
        shared_bytes=512,
        x=x,
    )


@pytest.mark.parametrize("asynchronous", ("late", "early"))
def test_cp_async_groups(asynchronous):
    """wait_group N leaves the N youngest groups under way: late, their place is as it was; early, it is filled."""
    x = np.arange(1, 13, dtype=np.uint32)
    out = np.zeros((3, 3), np.uint32)
    with emulate(asynchronous=asynchronous, raises=False):
        run(
            "  if (lane) return;\n"
            "  for (int g = 0; g < 3; g++) { cp_async_chunk(base + g * 16, x + g * 4, true); cp_async_commit(); }\n"
            "  cp_async_wait<2>();\n  for (int g = 0; g < 3; g++) out[g] = ld_shared_chunk(base + g * 16).x;\n"
            "  cp_async_wait<1>();\n  for (int g = 0; g < 3; g++) out[3 + g] = ld_shared_chunk(base + g * 16).x;\n"
            "  cp_async_wait<0>();\n  for (int g = 0; g < 3; g++) out[6 + g] = ld_shared_chunk(base + g * 16).x;",
            shared_bytes=48,
            x=x,
            out=out,
        )
    nan = 0xFFFFFFFF if asynchronous == "late" else None
    assert out.tolist() == [[1, nan or 5, nan or 9], [1, 5, nan or 9], [1, 5, 9]]


def test_shared_memory_starts_as_nan_in_every_block():
    out = np.zeros((3, 4), np.float32)
    with emulate(raises=False) as session:
        run(
            "  if (lane) return;\n  const Chunk c = ld_shared_chunk(base);\n"
            "  st_global_chunk(out + blockIdx.x * 4, c);\n"
            "  st_shared(base, 0);",
            grid=(3,),
            shared_bytes=16,
            out=out,
        )
    assert np.isnan(out).all()
    (finding,) = session.reports[0].findings
    assert finding.kind == "uninitialised" and finding.count == 12


def test_named_barriers():
    """bar.sync and bar.arrive: warp 0 produces, warp 1 consumes, warps 2 and 3 have nothing to do with it."""
    out = np.zeros(128, np.uint32)
    body = (
        "  const int warp = threadIdx.x / 32;\n  Chunk c = {};\n"
        "  if (warp == 0) {\n    for (int i = 0; i < 4; i++) st_shared(base + lane * 16 + 4 * i, lane);\n"
        "    ARRIVE;\n  }\n"
        "  if (warp == 1) {\n    bar_sync(3, 64);\n    c = ld_shared_chunk(base + (31 - lane) * 16);\n  }\n"
        "  if (warp >= 2) bar_sync(4, 64);\n  out[threadIdx.x] = c.x;"
    )
    for schedule in SCHEDULES:
        with emulate(schedule=schedule):
            run(body.replace("ARRIVE", "bar_arrive(3, 64)"), block=128, shared_bytes=512, out=out)
        np.testing.assert_array_equal(out[32:64], 31 - LANES)
    with pytest.raises(KernelError, match="deadlock.*threads 32-63 wait at bar.sync"):
        run(body.replace("ARRIVE", ""), block=128, shared_bytes=512, out=out)


@pytest.mark.parametrize("dtype", (np.uint16, np.uint32, np.float32))
def test_views_keep_what_lies_between(dtype):
    """A strided output: what the kernel does not write stays as it was, and it finds the elements where they are."""
    wide = np.full((4, 64), 9, dtype)
    view = wide[1:3, 3::2]
    report = run("  out[lane % 30 * 2] = 1;", out=view)
    assert report.findings == ()
    expected = np.full((4, 64), 9, dtype)
    expected[1, 3:63:2] = 1
    np.testing.assert_array_equal(wide, expected)


def test_a_struct_with_pointers():
    x = np.arange(32, dtype=np.uint32)
    struct = np.array([5], np.int64).tobytes() + bytes(8)
    source = (
        '#include "ptx.cuh"\nstruct P { long long n; u32* x; };\n'
        "__global__ void kernel(const P p) { p.x[threadIdx.x] += p.n; }"
    )
    launch(source, "::kernel", [Struct(struct, {8: Array("x", x, writable=True)})], grid=(1,), block=32)
    np.testing.assert_array_equal(x, np.arange(32) + 5)


# ---- counters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "access, passes, wavefronts",
    (
        ("st_shared(base + lane * 4, 1)", 1, 1),
        ("st_shared(base + lane * 8, 1)", 1, 2),
        ("st_shared(base + lane * 128, 1)", 1, 32),
        ("st_shared(base + lane * 132, 1)", 1, 1),  # a pad of one word
        ("if (lane == 0) st_shared(base, 1)", 1, 1),
        ("if (lane < 8) st_shared(base + lane * 256, 1)", 1, 8),
        ("ld_shared_chunk(base + lane * 16)", 4, 4),
        ("ld_shared_chunk(base)", 4, 4),  # one word for all: no conflict
        ("ld_shared_chunk(base + lane * 128)", 4, 32),
        ("ld_shared_chunk(base + lane * 144)", 4, 4),
        ("if (lane < 8) ld_shared_chunk(base + lane * 32)", 1, 2),
        ("u32 r[4]; ldmatrix_x4(r, base + lane * 16)", 4, 4),
        ("u32 r[4]; ldmatrix_x4(r, base + lane * 128)", 4, 32),
        ("u32 r[4]; ldmatrix_x4(r, base + lane * 64)", 4, 16),
        ("u32 r[4]; ldmatrix_x4_trans(r, base + lane * 128 + (lane % 8) * 16)", 4, 4),  # columns turned by their row
    ),
)
def test_bank_conflicts(access, passes, wavefronts):
    with emulate(raises=False):  # what is read has not been written
        report = run(f"  {access};", shared_bytes=16384)
    (site,) = (s for s in report.sites if s.passes)
    assert (site.instructions, site.passes, site.wavefronts) == (1, passes, wavefronts)
    assert site.conflicts == wavefronts - passes and site.ways == wavefronts // passes


@pytest.mark.parametrize(
    "access, sectors, ideal",
    (
        ("st_global(x + lane, 1)", 4, 4),
        ("st_global(x + lane + 1, 1)", 5, 4),
        ("st_global(x + lane * 2, 1)", 8, 4),
        ("st_global(x + lane * 32, 1)", 32, 4),
        ("if (lane % 4 == 0) st_global(x + lane / 4, 1)", 1, 1),
        ("st_global_chunk(x + lane * 4, Chunk())", 16, 16),
        ("st_global_chunk(x + lane * 16, Chunk())", 32, 16),
        ("cp_async_chunk(base + lane * 16, x + lane * 4, lane < 4)", 2, 2),
    ),
)
def test_sectors(access, sectors, ideal):
    with emulate(races=False):
        report = run(f"  {access};", shared_bytes=512, x=np.zeros(1024, np.float32))
    (site,) = (s for s in report.sites if s.sectors)
    assert (site.instructions, site.sectors, site.ideal_sectors) == (1, sectors, ideal)


def test_lanes_that_skip_do_not_mix_up_the_rest():
    """Half of the lanes skip the first store; the loads after the next meeting of the warp are whole again."""
    report = run(
        "  for (int i = 0; i < 2; i++) {\n    if (lane % 2 || i) st_shared(base + lane * 4, 1);\n"
        "    __syncwarp();\n  }",
        shared_bytes=128,
    )
    (site,) = (s for s in report.sites if s.op == "st.shared")
    assert (site.instructions, site.lanes) == (2, 48)


def emulated(monkeypatch, headdim=128, seqlen=256, dtype=torch.bfloat16, **settings):
    """One launch of s20, batch 1, heads 2: its report."""
    monkeypatch.setenv("CUDA_EMULATE", "1")
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, seqlen, 2, headdim, generator=generator).to(dtype) for _ in range(3))
    with emulate(**settings) as session:
        out, lse = get("s20").attention(q, k, v)
    return session.reports[0], out, lse


def test_counters_of_s20(monkeypatch):
    """What a profiler counts on an H200 for the same launch, and what the stage's card predicts."""
    report, *_ = emulated(monkeypatch)
    loads = [s for s in report.sites if s.op.startswith("ldmatrix")]
    assert len(loads) == 3 and all(s.ways == 8 and s.wavefronts == 8 * s.passes for s in loads)
    assert report.total("instructions", ("ldmatrix", "ldmatrix.trans")) == 8448
    assert report.total("conflicts", ("ldmatrix", "ldmatrix.trans", "ld.shared")) == 236544
    assert report.total("conflicts", "st.shared") == 7168
    assert report.total("instructions", "cp.async") == 2304
    assert report.total("instructions", "mma") == 16384
    assert report.total("sectors", "cp.async") == report.total("ideal_sectors", "cp.async") == 36864
    assert report.total("sectors", "st.global") == report.total("ideal_sectors", "st.global") == 4160
    text = get("s20").kernel_file.read_text().splitlines()
    assert all("ldmatrix_x4" in text[s.line - 1] for s in loads)


# ---- schedules, fallbacks, the cache -------------------------------------------------------------------------


def test_schedules_and_fallback_agree(monkeypatch):
    """Same bits out of every order of threads, both extremes of asynchronous copies, and ucontext's switches."""
    _, expected, expected_lse = emulated(monkeypatch, headdim=64, seqlen=100)
    for schedule in SCHEDULES:
        for asynchronous in ("late", "early"):
            for seed in (1, 2) if schedule == "random" else (1,):
                _, out, lse = emulated(
                    monkeypatch, headdim=64, seqlen=100, schedule=schedule, asynchronous=asynchronous, seed=seed
                )
                assert torch.equal(out, expected) and torch.equal(lse, expected_lse), (schedule, asynchronous)

    def portable(source, kernel, defines):
        return build.executable(source, kernel, (*defines, "-DEMULATOR_UCONTEXT"))

    monkeypatch.setattr(process, "executable", portable)
    _, out, lse = emulated(monkeypatch, headdim=64, seqlen=100)
    assert torch.equal(out, expected) and torch.equal(lse, expected_lse)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for function in (build._worker, build._executable):
        function.cache_clear()
    yield tmp_path / "flash-attention-course" / "emulator"
    for function in (build._worker, build._executable):
        function.cache_clear()


SOURCE = '#include "ptx.cuh"\n__global__ void kernel(u32* x) { x[threadIdx.x] = 1; }\n'


def test_the_cache(empty_cache, monkeypatch):
    """Compiled once; what changes source, headers or options is compiled again; a failure leaves nothing."""
    commands = []
    original = subprocess.run

    def counting(command, *args, **kwargs):
        commands.append(command)
        return original(command, *args, **kwargs)

    def compiled() -> int:
        build._executable.cache_clear()  # as in another process
        build._worker.cache_clear()
        before = len([c for c in commands if "-o" in c])
        path = build.executable(SOURCE, "::kernel")
        assert path.is_file()
        return len([c for c in commands if "-o" in c]) - before

    monkeypatch.setattr(build.subprocess, "run", counting)
    assert compiled() == 2  # worker and kernel
    assert compiled() == 0
    contents = build._contents
    monkeypatch.setattr(build, "_contents", lambda folder, patterns: contents(folder, patterns) + b"//")
    assert compiled() == 2
    with pytest.raises(CompileError):
        build.executable("#error no", "::kernel")
    assert sorted(path.name for path in empty_cache.iterdir() if path.name.startswith(".")) == []


def test_compile_errors_name_the_kernels_lines():
    with pytest.raises(CompileError, match=r"kernel\.cu:2:\d+: error.*no_such_thing"):
        launch('#include "ptx.cuh"\n__global__ void kernel() { no_such_thing(); }', "::kernel", [], grid=(1,), block=32)


def test_without_a_compiler(empty_cache, monkeypatch):
    from stages.common import where as where_module

    monkeypatch.setenv("PATH", str(empty_cache))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(where_module, "gpu_arch", lambda: None)
    place = where_module.where(get("s20"))
    assert not place and "g++" in place.reason and "C++ compiler" in place.reason


def test_wrong_parameters_are_refused():
    for parameters, says in (
        ([], "the kernel has 1 parameters; 0 were given"),
        ([np.int32(3)], "parameter 0 has 8 bytes; 4 were given"),
    ):
        with pytest.raises(KernelError, match=says):
            launch(SOURCE, "::kernel", parameters, grid=(1,), block=32)
    with pytest.raises(TypeError, match="accepted: Array"):
        launch(SOURCE, "::kernel", [3], grid=(1,), block=32)
    x = Array("x", np.zeros(4, np.uint32))
    for block, shared_bytes, says in ((0, 0, "accepted: 1 to 1024"), (2000, 0, "1 to 1024"), (32, 1 << 20, "at most")):
        with pytest.raises(KernelError, match=says):
            launch(SOURCE, "::kernel", [x], grid=(1,), block=block, shared_bytes=shared_bytes)


@pytest.mark.parametrize("settings", ({"schedule": "sideways"}, {"asynchronous": "never"}, {"limit_s": 0}))
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match="accepted: "), emulate(**settings):
        pass


def test_sessions_nest():
    x = np.zeros(32, np.uint32)
    with emulate() as outer, emulate() as inner:
        launch(SOURCE, "::kernel", [Array("x", x, writable=True)], grid=(1,), block=32)
    assert len(inner.reports) == 1 and not outer.reports
