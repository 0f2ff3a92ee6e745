"""The emulator: time, memory and threads as the host sees them, counters, schedules, compilers, the cache.

Its instructions: test_ptx.py. Planted bugs: test_emulator_zoo.py.
"""

from __future__ import annotations

import platform
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from reference import oracle
from stages import get
from tests.test_ptx import in_emulator as run
from tools.emulator import SCHEDULES, Array, CompileError, KernelError, Struct, build, emulate, launch, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


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


# ---- memory and time ---------------------------------------------------------------------------------------


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
            "  __shared__ float one;\n  if (lane) return;\n  Chunk c = ld_shared_chunk(base);\n"
            "  c.y = ld_shared(shared_address(&one));\n  st_global_chunk(out + blockIdx.x * 4, c);\n"
            "  st_shared(base, 0);\n  st_shared(shared_address(&one), 0);",
            grid=(3,),
            shared_bytes=16,
            out=out,
        )
    assert np.isnan(out).all()
    chunk, one = session.reports[0].findings
    assert (chunk.kind, chunk.count, one.kind, one.count) == ("uninitialised", 12, "uninitialised", 3)


@pytest.mark.parametrize("count", (1, 2))
def test_ldmatrix_does_not_look_at_the_addresses_of_idle_lanes(count):
    address = f"lane < {8 * count} ? base + lane * 16 : 0xfffffff1u"
    with emulate(raises=False) as session:  # what is read has not been written
        run(f"  u32 f[{count}];\n  ldmatrix_x{count}({'f[0]' if count == 1 else 'f'}, {address});", shared_bytes=512)
    (site,) = session.reports[0].sites
    assert [f.kind for f in session.reports[0].findings] == ["uninitialised"]
    assert (site.instructions, site.passes, site.wavefronts) == (1, count, count)


def test_a_barrier_that_is_one_warp_short():
    out = np.zeros(128, np.uint32)
    with pytest.raises(
        KernelError, match="deadlock.*threads 32-63 wait at bar.sync.*threads 0-31, 64-127 have returned"
    ):
        run("  if (threadIdx.x / 32 == 1) bar_sync(3, 64);", block=128, out=out)


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
    with emulate(raises=False):  # all blocks write the same, and nobody waits for copies
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


def operands(headdim, seqlen, dtype):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, seqlen, 2, headdim, generator=generator).to(dtype) for _ in range(3)]


def emulated(monkeypatch, headdim=128, seqlen=256, dtype=torch.bfloat16, **settings):
    """One launch of s20, batch 1, heads 2: its report."""
    monkeypatch.setenv("CUDA_EMULATE", "1")
    with emulate(**settings) as session:
        out, lse = get("s20").attention(*operands(headdim, seqlen, dtype))
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

    monkeypatch.setenv("CXX", f"{shlex.join(build.compiler())} -DEMULATOR_UCONTEXT")
    _, out, lse = emulated(monkeypatch, headdim=64, seqlen=100)
    assert torch.equal(out, expected) and torch.equal(lse, expected_lse)


COMPILERS = ("g++", "g++ -static-libstdc++", "clang++", "g++ -DEMULATOR_UCONTEXT", "aarch64-linux-gnu-g++")


@pytest.mark.parametrize("cxx", COMPILERS)
def test_compilers_and_cpus(cxx, monkeypatch):
    """Each runs s20, finds a race, and says on which line a wild access, an endless loop and a full stack are."""
    monkeypatch.setenv("CXX", cxx)
    if missing():
        pytest.skip(missing())
    report, out, lse = emulated(monkeypatch, headdim=64, seqlen=100, schedule="random")
    expected, expected_lse = oracle(*operands(headdim=64, seqlen=100, dtype=torch.bfloat16))
    np.testing.assert_allclose(out.double(), expected, atol=2e-2)
    np.testing.assert_allclose(lse.double(), expected_lse, atol=1e-3)
    assert report.total("conflicts") > 0
    x = np.zeros(64, np.float32)
    run("  __shared__ float tile[32];\n  tile[lane] = lane;\n  __syncthreads();\n  x[lane] = tile[31 - lane];",
        shared_bytes=128, x=x)  # fmt: skip
    assert (x[:32] == np.arange(31, -1, -1)).all()
    deep = (
        "DEVICE float deep(float* x, int n) {\n  volatile float y[256] = {x[n % 64]};\n"
        "  if (n) y[n % 256] += deep(x, n - 1);\n  return y[n % 7];\n}"
    )
    for body, kind in (
        ("  st_shared(base, lane);", "race"),
        ("  x[1ll << 40] = 1;", "out of bounds"),
        ("  while (x[0] == 0) ex2(x[lane]);", "hang"),
        ("  x[0] = deep(x, 1 << 30);", "stack overflow"),
    ):
        with emulate(raises=False, limit_s=0.5) as session:
            run(body, helpers=deep, shared_bytes=128, x=np.zeros(64, np.float32))
        (finding,) = session.reports[0].findings
        where = range(3, 8) if kind == "stack overflow" else (13,)
        assert finding.kind == kind and finding.lines[0] in where, finding


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
        assert path.is_file() and path.stat().st_size < 4 << 20  # thousands are kept; 2 MiB with the C++ library in it
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


@pytest.mark.parametrize("cxx", ("g++", "clang++"))
def test_a_forgotten_return_is_the_compilers_to_say(cxx, monkeypatch):
    """Run, it would go astray wherever the function's end happens to lead."""
    monkeypatch.setenv("CXX", cxx)
    if missing():
        pytest.skip(missing())
    for returned, body in (
        ("float", "const float y = 2 * v[lane]; (void)y;"),  # y is not returned
        ("int", "if (lane < 16) return lane;"),  # nor anything on one way out
    ):
        helper = f"DEVICE {returned} doubled(float* v, int lane) {{\n  {body}\n}}"
        with pytest.raises(CompileError, match=r"kernel\.cu:5:1: error: .*-Werror=return-type") as refused:
            run("  x[lane] = doubled(x, lane);", helpers=helper, x=np.ones(32, np.float32))
        assert "doubled" in str(refused.value)


def test_every_way_out_may_be_covered_without_a_last_return():
    """What is no mistake compiles: each branch returns."""
    helper = (
        "template <bool C> DEVICE float pick(float v) { if constexpr (C) return v; else return -v; }\n"
        "DEVICE float sign(float v) { if (v < 0) { return -1; } else { return 1; } }"
    )
    x = np.ones(32, np.float32)
    run("  x[lane] = pick<false>(x[lane]) * sign(x[lane]);", helpers=helper, x=x)
    assert (x == -1).all()


def test_processes_share_what_one_has_compiled(empty_cache, monkeypatch):
    """Threads stand for processes here: neither share what is kept in memory, both come to the same lock."""
    outputs = []
    original = subprocess.run

    def counting(command, *args, **kwargs):
        outputs.extend(argument for argument in command if argument == "-o")
        return original(command, *args, **kwargs)

    monkeypatch.setattr(build.subprocess, "run", counting)
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: build.executable(SOURCE, "::kernel"), range(4)))
    assert len(paths) == 1 and len(outputs) == 2  # worker and kernel


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """tools(name=text): what stands on the PATH alone, scripts that print."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    build._target.cache_clear()

    def make(**printed):
        for name, text in printed.items():
            (tmp_path / name).write_text(f"#!/bin/sh\necho {text}\n")
            (tmp_path / name).chmod(0o755)

    yield make
    build._target.cache_clear()


def test_the_compiler_that_is_taken(tools, monkeypatch):
    native = f"{platform.machine()}-linux-gnu"
    assert build.compiler() is None
    tools(**{"c++": native})
    assert build.compiler() == ("c++",) and missing() is None
    tools(**{"clang++": native})
    assert build.compiler() == ("clang++",)
    tools(**{"g++": native, "mine": native})
    assert build.compiler() == ("g++",)
    monkeypatch.setenv("CXX", "mine -m64")
    assert build.compiler() == ("mine", "-m64") and build.runner(build.compiler()) == ()


def test_without_a_compiler(tools, monkeypatch):
    from stages.common import where as where_module

    monkeypatch.setattr(where_module, "gpu_arch", lambda: None)
    place = where_module.where(get("s20"))
    assert not place and "C++ compiler" in place.reason and "the package is g++ or clang" in place.reason
    tools(**{"g++": "", "cross": "riscv64-linux-gnu"})
    monkeypatch.setenv("CXX", "absent -O9")
    assert "absent -O9, which CXX asks for, is not installed" in missing()
    monkeypatch.setenv("CXX", "g++")
    assert "g++ does not answer -dumpmachine" in missing()
    monkeypatch.setenv("CXX", "cross")
    assert "riscv64-linux-gnu" in missing() and "the package is qemu-user" in missing()
    tools(**{"qemu-riscv64": ""})
    assert missing() is None and build.runner(("cross",)) == ("qemu-riscv64", "-L", "/usr/riscv64-linux-gnu")


def test_shared_memory_of_another_name_is_refused():
    body = "__global__ void kernel(u32* x) {\n  extern __shared__ float rows[];\n  x[0] = u32(rows[0]);\n}\n"
    with pytest.raises(CompileError, match=r"Dynamic shared memory is called smem here: `extern __shared__"):
        build.executable(f'#include "ptx.cuh"\n{body}', "::kernel")


def test_static_shared_memory_has_its_limits():
    static = "  __shared__ float big[{}];\n  st_shared(shared_address(big + 12287), 0);"
    with emulate(raises=False):
        assert run(static.format(12288), shared_bytes=183296).findings[0].kind == "race"  # 48 and 179 KiB: it has run
        for floats, shared_bytes, says in ((12544, 0, "at most 49152"), (12288, 183312, "together at most 232448")):
            (finding,) = run(static.format(floats), shared_bytes=shared_bytes).findings
            assert finding.kind == "launch" and says in finding.message


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
