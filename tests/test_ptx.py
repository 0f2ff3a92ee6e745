"""The functions of ptx.cuh, each against its definition in the PTX ISA, written out here a second time from the ISA's
text and figures: in the emulator, and on a GPU where there is one. One kernel source serves both."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.common.cuda import COMPILE_OPTIONS, INCLUDE_DIR
from stages.common.where import gpu_arch, installed
from tests.conftest import needs_nvrtc
from tools import nvrtc
from tools.emulator import SCHEDULES, Array, build, emulate, launch, missing
from tools.sass import mix

LANES = np.arange(32)
EVERY_FUNCTION = (Path(__file__).parent / "kernels" / "ptx.cu").read_text(encoding="utf-8")
needs_emulator = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def probe(body: str, parameters, helpers: str, arrays) -> str:
    """The source of `probe`, a kernel whose parameters are `arrays` as pointers to their elements, and `parameters`."""
    types = {"float32": "float", "uint32": "u32", "uint16": "u16", "int32": "int"}
    declared = [f"{types[a.dtype.name]}* {name}" for name, a in arrays.items()] + [p[0] for p in parameters]
    return (
        f'#include "ptx.cuh"\nusing namespace ptx;\n{helpers}\n__global__ void probe({", ".join(declared)}) {{\n'
        f"  extern __shared__ __align__(128) unsigned char smem[];\n  const u32 base = shared_address(smem);\n"
        f"  const int lane = threadIdx.x % 32;\n  (void)base; (void)lane;\n{body}\n}}\n"
    )


def in_emulator(body, *parameters, block=32, grid=(1,), shared_bytes=0, defines=(), helpers="", **arrays):
    """Launch `body` as a kernel with `arrays`, all writable: pointers named as the keywords, to their element type.
    parameters: (declaration, NumPy scalar) pairs."""
    source = probe(body, parameters, helpers, arrays)
    values = [Array(name, a, writable=True) for name, a in arrays.items()] + [p[1] for p in parameters]
    return launch(source, "probe", values, grid=grid, block=block, shared_bytes=shared_bytes, defines=defines)


def on_gpu(body, *parameters, block=32, grid=(1,), shared_bytes=0, helpers="", **arrays):
    """The same on the GPU."""
    import cupy

    source = probe(body, parameters, helpers, arrays)
    kernel = cupy.RawModule(code=source, options=COMPILE_OPTIONS, name_expressions=["probe"]).get_function("probe")
    copies = {name: cupy.asarray(a) for name, a in arrays.items()}
    threads = (block,) if isinstance(block, int) else tuple(block)
    kernel(tuple(grid), threads, (*copies.values(), *(p[1] for p in parameters)), shared_mem=shared_bytes)
    for name, copy in copies.items():
        arrays[name][...] = cupy.asnumpy(copy)


@pytest.fixture(params=("emulator", pytest.param("gpu", marks=pytest.mark.gpu)))
def run(request):
    """in_emulator, then on_gpu."""
    if request.param == "emulator":
        if missing():
            pytest.skip(missing())
        return in_emulator
    if gpu_arch() is None or gpu_arch() < 80 or not installed("cupy"):
        pytest.skip("needs CuPy and a GPU of compute capability 8.0 or newer")
    return on_gpu


# ---- the two sides -----------------------------------------------------------------------------------------


def exported(text: str) -> set[str]:
    """The functions of namespace ptx in a header, as "template<...> type name(parameters)", without what differs by
    design: storage, the emulator's parameter for the place in the source, explicit specialisations."""
    inside = text[text.index("namespace ptx {") : text.index("}  // namespace ptx")]
    inside = re.sub(r"//[^\n]*", "", inside)
    inside = re.sub(r"template <>\n(?:[^\n]+\n)", "", inside)
    pattern = r"^(template <[^>]*>\n)?(?:DEVICE |inline )?([\w]+(?: ?\*)?) (\w+)\(((?:[^()]|\(&\w+\))*)\) ?[{;]"
    found = set()
    for template, returned, name, parameters in re.findall(pattern, inside, re.MULTILINE):
        parameters = re.sub(r"(, )?EMULATOR_HERE", "", parameters)
        found.add(f"{template.strip()} {returned} {name}({parameters})".strip())
    return found


def names(signatures: set[str]) -> set[str]:
    return {re.search(r"(\w+)\(", signature)[1] for signature in signatures}


def test_both_sides_export_the_same_functions():
    """Names, parameters with their names and defaults, and what is returned."""
    device = exported((INCLUDE_DIR / "ptx.cuh").read_text(encoding="utf-8"))
    emulated = exported((build.CPP / "ptx.hpp").read_text(encoding="utf-8"))
    assert device == emulated
    assert len(device) > 50 and "template <typename T> T shfl_xor(T value, int lane_mask, int width = 32)" in device
    assert names(device) == set(re.findall(rf"\b({'|'.join(names(device))})(?:<\w+>)?\(", EVERY_FUNCTION))


def test_a_difference_between_the_sides_is_seen():
    text = (build.CPP / "ptx.hpp").read_text(encoding="utf-8")
    for old, new in (
        ("int delta, int width = 32", "int delta, int width = 16"),
        ("void cp_async_commit(", "void cp_async_commits("),
        ("inline u16 ld_global(", "inline u32 ld_global("),
        ("u32 (&r)[2]", "u32 (&r)[4]"),
        ("void bar_arrive(int id, int threads", "void bar_arrive(int id, u32 threads"),
    ):
        assert old in text and exported(text.replace(old, new)) != exported(text), old


@needs_emulator
def test_every_function_compiles_for_the_emulator():
    command = build.compiler()
    given = [*build.options(command), "-Wextra", "-Werror", "-Wno-unused-command-line-argument", "-fsyntax-only"]
    given += [f"-I{INCLUDE_DIR}", f"-I{build.CPP}"]
    made = subprocess.run([*command, *given, "-x", "c++", "-"], input=EVERY_FUNCTION, text=True, capture_output=True)
    assert made.returncode == 0, made.stderr


@needs_nvrtc
@pytest.mark.parametrize("arch", nvrtc.ARCHES)
def test_every_function_compiles_for_the_gpu(arch):
    made = compiled(arch)
    assert made.warnings == [] and made.spilled == 0
    assert made.barriers == 8  # up to the highest that is used: the numbers are constants to the assembler


@functools.cache
def compiled(arch: str) -> nvrtc.Compiled:
    options = (*COMPILE_OPTIONS, *nvrtc.CUPY_OPTIONS)
    return nvrtc.run(nvrtc.Job("ptx", "ptx.cu", EVERY_FUNCTION, "every_function", arch, options))


# What sets functions of one kind apart, in machine code: widths, operations, hints.
MACHINE_CODE = (
    *("LDS.U16", "LDS", "LDS.64", "LDS.128", "STS.U16", "STS", "STS.64", "STS.128"),
    *("LDG.E.U16", "LDG.E", "LDG.E.64", "LDG.E.128", "STG.E.U16", "STG.E", "STG.E.64", "STG.E.128"),
    *("STG.E.EF.128", "STG.E.NA.128"),
    *("LDGSTS.E.BYPASS.128", "LDGSTS.E.BYPASS.LTC128B.128"),
    *("LDGSTS.E", "LDGSTS.E.64", "LDGSTS.E.128"),
    *("LDSM.16.M88", "LDSM.16.M88.2", "LDSM.16.M88.4", "LDSM.16.MT88", "LDSM.16.MT88.2", "LDSM.16.MT88.4"),
    *("HMMA.16816.F32", "HMMA.16816.F32.BF16", "SHFL.BFLY", "SHFL.UP", "SHFL.DOWN", "SHFL.IDX", "BAR.ARV"),
)


@needs_nvrtc
@pytest.mark.skipif(mix.find_disassembler() is None, reason=f"needs nvdisasm (package {mix.PACKAGE})")
@pytest.mark.parametrize("arch", ("80", "90a"))
def test_the_machine_code_is_what_the_names_say(arch):
    listing = mix.disassemble(compiled(arch).cubin, mix.find_disassembler())
    opcodes = set(re.findall(r"^\s*/\*\w+\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]+)", listing, re.MULTILINE))
    assert set(MACHINE_CODE) <= opcodes
    assert all(any(o.startswith("ATOMG") and part in o for o in opcodes) for part in ("ADD", "CAS", "EXCH", "MAX.S32"))


# ---- fragments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", (1, 2, 4))
@pytest.mark.parametrize("trans", (False, True))
def test_ldmatrix(run, count, trans):
    """Lane l supplies the address of row l % 8 of matrix l / 8. Without .trans, lane l receives of each matrix row
    l / 4, columns 2 (l % 4) and the next; with it, the same of the transposed matrix."""
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 1 << 16, (64, 8), dtype=np.uint16)
    rows = rng.permutation(64)[:32].astype(np.uint32)  # any rows, in any order; those of the last lanes may be idle
    r = np.zeros((32, count), np.uint32)
    run(
        "  for (int i = lane; i < 256; i += 32) st_shared(base + 4 * i, tile[2 * i] | u32(tile[2 * i + 1]) << 16);\n"
        f"  __syncwarp();\n  u32 f[{count}];\n"
        f"  ldmatrix_x{count}{'_trans' if trans else ''}({'f[0]' if count == 1 else 'f'}, base + rows[lane] * 16);\n"
        f"  for (int i = 0; i < {count}; i++) r[lane * {count} + i] = f[i];",
        shared_bytes=1024,
        tile=tile,
        rows=rows,
        r=r,
    )
    for lane in range(32):
        for m in range(count):
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
@pytest.mark.parametrize("zero", ("", ", false", ", true"))
def test_mma(run, dtype, name, zero):
    """D = A·B + D; where `zero`, D = A·B, though D was NaN."""
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn(shape, generator=generator).to(dtype) for shape in ((16, 16), (16, 8)))
    A[3, 5] = torch.finfo(dtype).tiny / 4  # a subnormal
    B[5, 2] = 2.0**12
    C = torch.randn(16, 8, generator=generator)
    d = np.array([[C[index_c(lane, i)] for i in range(4)] for lane in LANES], np.float32)
    if zero == ", true":
        C, d = torch.zeros_like(C), np.full_like(d, np.nan)
    run(
        "  float c[4];\n  for (int i = 0; i < 4; i++) c[i] = d[lane * 4 + i];\n"
        "  const u32 f[4] = {a[lane * 4], a[lane * 4 + 1], a[lane * 4 + 2], a[lane * 4 + 3]};\n"
        f"  mma_m16n8k16<{name}>(c, f, b[lane * 2], b[lane * 2 + 1]{zero});\n"
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
def test_mma_overflows_and_keeps_nan(run, name, value):
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
def test_pack(run, dtype, name):
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


def test_ex2(run):
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

WIDTHS = (1, 2, 4, 8, 16, 32)
OPERANDS = range(36)  # past 31 too: the ISA takes the low five bits


def source_lane(mode: str, lane: int, b: int, width: int) -> int:
    """PTX ISA, shfl.sync, line by line; the third operand is the one that CUDA's functions make of `width`."""
    segmask, cval = 32 - width, 0 if mode == "up" else 31
    bval = b & 31
    max_lane, min_lane = lane & segmask | cval & ~segmask & 31, lane & segmask
    if mode == "up":
        j, inside = lane - bval, lane - bval >= max_lane
    elif mode == "down":
        j, inside = lane + bval, lane + bval <= max_lane
    elif mode == "xor":
        j, inside = lane ^ bval, lane ^ bval <= max_lane
    else:
        j = min_lane | bval & ~segmask & 31
        inside = j <= max_lane
    return j if inside else lane


@pytest.mark.parametrize("mode", ("xor", "up", "down", "idx"))
def test_shuffles(run, mode):
    out = np.zeros((len(WIDTHS), len(OPERANDS), 32), np.uint32)
    run(
        f"  for (int w = 0; w < {len(WIDTHS)}; w++)\n    for (int b = 0; b < {len(OPERANDS)}; b++)\n"
        f"      out[(w * {len(OPERANDS)} + b) * 32 + lane] = shfl_{mode}(u32(100 + lane), b, 1 << w);",
        out=out,
    )
    expected = [[[100 + source_lane(mode, lane, b, w) for lane in LANES] for b in OPERANDS] for w in WIDTHS]
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("mode", ("xor", "up", "down", "idx"))
def test_shuffles_of_any_type(run, mode):
    """And an operand that differs from lane to lane."""
    floats, ints = np.zeros(32, np.float32), np.zeros(32, np.int32)
    run(
        f"  floats[lane] = shfl_{mode}(0.5f + lane, lane * 5 % 32);\n  ints[lane] = shfl_{mode}(-lane, lane % 4, 16);",
        floats=floats,
        ints=ints,
    )
    np.testing.assert_array_equal(floats, [0.5 + source_lane(mode, lane, lane * 5 % 32, 32) for lane in LANES])
    np.testing.assert_array_equal(ints, [-source_lane(mode, lane, lane % 4, 16) for lane in LANES])


def test_votes(run):
    rng = np.random.default_rng(0)
    ballots = np.array([0, 1, 1 << 31, 0xFFFFFFFF, 0x7FFFFFFF, *rng.integers(0, 1 << 32, 5)], np.uint32)
    out = np.zeros((len(ballots), 3, 32), np.uint32)
    run(
        "  for (int i = 0; i < n; i++) {\n    const bool mine = ballots[i] >> lane & 1;\n"
        "    out[i * 96 + lane] = vote_any(mine);\n    out[i * 96 + 32 + lane] = vote_all(mine);\n"
        "    out[i * 96 + 64 + lane] = vote_ballot(mine);\n  }",
        ("int n", np.int32(len(ballots))),
        ballots=ballots,
        out=out,
    )
    for i, ballot in enumerate(ballots):
        np.testing.assert_array_equal(out[i, 0], ballot != 0)
        np.testing.assert_array_equal(out[i, 1], ballot == 0xFFFFFFFF)
        np.testing.assert_array_equal(out[i, 2], ballot)


def test_masks(run):
    """CUDA's own functions take a mask: the two halves of a warp do different things at one time."""
    out = np.zeros((5, 32), np.uint32)
    run(
        "  const u32 half = lane < 16 ? 0x0000ffffu : 0xffff0000u;\n"
        "  if (lane < 16) out[lane] = __shfl_xor_sync(half, lane, 8);\n"
        "  else out[lane] = __shfl_xor_sync(half, lane, 4);\n"
        "  if (lane < 16) out[32 + lane] = __ballot_sync(half, lane % 3 == 0);\n"
        "  else out[32 + lane] = __ballot_sync(half, lane % 5 == 0);\n"
        "  if (lane < 16) out[64 + lane] = __all_sync(half, lane < 16);\n"
        "  else out[64 + lane] = __any_sync(half, lane < 16);\n"
        "  if (lane < 16) { __syncwarp(half); out[96 + lane] = __shfl_up_sync(half, lane, 3, 8); }\n"
        "  else { out[96 + lane] = __shfl_down_sync(half, lane, 3, 8); __syncwarp(half); }\n"
        "  out[128 + lane] = __shfl_sync(0xffffffffu, lane, 31 - lane);",
        out=out,
    )
    low = LANES < 16
    np.testing.assert_array_equal(out[0], np.where(low, LANES ^ 8, LANES ^ 4))
    thirds, fifths = sum(1 << i for i in range(0, 16, 3)), sum(1 << i for i in range(20, 32, 5))
    np.testing.assert_array_equal(out[1], np.where(low, thirds, fifths))
    np.testing.assert_array_equal(out[2], low)
    shuffled = np.where(low, LANES - 3 * (LANES % 8 >= 3), LANES + 3 * (LANES % 8 <= 4))
    np.testing.assert_array_equal(out[3], shuffled)
    np.testing.assert_array_equal(out[4], 31 - LANES)


@needs_emulator
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warp_that_is_not_whole(schedule):
    """A block of 40 threads: the lanes that are not there neither vote nor hold anybody up."""
    out = np.zeros((3, 40), np.uint32)
    with emulate(schedule=schedule):
        in_emulator(
            "  out[threadIdx.x] = vote_all(true);\n  out[40 + threadIdx.x] = vote_ballot(true);\n"
            "  out[80 + threadIdx.x] = shfl_xor(threadIdx.x, 1);",
            block=40,
            out=out,
        )
    whole = np.arange(40) < 32
    assert out[0].all()
    np.testing.assert_array_equal(out[1], np.where(whole, 0xFFFFFFFF, 0xFF))
    np.testing.assert_array_equal(out[2], np.arange(40) ^ 1)


# ---- shared and global memory --------------------------------------------------------------------------------

WIDE = {"u16": "u16", "u32": "u32", "f32": "float", "pair": "Pair", "chunk": "Chunk"}
SUFFIX = {"u16": "_u16", "u32": "", "f32": "_f32", "pair": "_pair", "chunk": "_chunk"}
BYTES = {"u16": 2, "u32": 4, "f32": 4, "pair": 8, "chunk": 16}


@pytest.mark.parametrize("stored", WIDE)
def test_shared_memory(run, stored):
    """512 bytes, stored in pieces of one width and loaded in pieces of every width: the same bytes, in their order."""
    x = np.random.default_rng(0).integers(0, 1 << 16, 256, dtype=np.uint16)
    x &= 0xBFFF  # no NaN among the floats: what carries one may change its bits
    out = {name: np.zeros(256, np.uint16) for name in WIDE}
    loads = "".join(
        f"  for (int i = lane; i < {512 // BYTES[loaded]}; i += 32)\n"
        f"    reinterpret_cast<{WIDE[loaded]}*>({loaded}_out)[i] ="
        f" ld_shared{SUFFIX[loaded]}(base + i * {BYTES[loaded]});\n"
        for loaded in WIDE
    )
    run(
        f"  for (int i = lane; i < {512 // BYTES[stored]}; i += 32)\n"
        f"    st_shared{SUFFIX[stored]}(base + i * {BYTES[stored]}, reinterpret_cast<const {WIDE[stored]}*>(x)[i]);\n"
        f"  __syncwarp();\n{loads}",
        shared_bytes=512,
        x=x,
        **{f"{name}_out": array for name, array in out.items()},
    )
    for loaded, array in out.items():
        np.testing.assert_array_equal(array, x, err_msg=loaded)


GLOBAL = {
    "u16": ("ld_global", "st_global"),
    "u32": ("ld_global", "st_global"),
    "f32": ("ld_global", "st_global"),
    "pair": ("ld_global_pair", "st_global_pair"),
    "chunk": ("ld_global_chunk", "st_global_chunk"),
    "streaming": ("ld_global_chunk", "st_global_chunk_streaming"),
    "no_allocate": ("ld_global_chunk", "st_global_chunk_no_allocate"),
}


@pytest.mark.parametrize("width", GLOBAL)
def test_global_memory(run, width):
    """Copied in pieces: the same bytes, and nothing beyond them."""
    load, store = GLOBAL[width]
    piece = WIDE.get(width, "Chunk")
    x = np.random.default_rng(0).integers(0, 1 << 16, 256, dtype=np.uint16)
    x &= 0xBFFF
    out = np.zeros(256 + 16, np.uint16)
    run(
        f"  for (int i = lane; i < {512 // BYTES.get(width, 16)}; i += 32)\n"
        f"    {store}(reinterpret_cast<{piece}*>(out + 8) + i, {load}(reinterpret_cast<const {piece}*>(x) + i));",
        x=x,
        out=out,
    )
    np.testing.assert_array_equal(out, np.pad(x, 8))


def test_atomics(run):
    """Every thread gets what was there when its turn came, so no two get the same where all add or exchange."""
    n = 5 * 64
    words = np.array([0, 7, 0, 1000], np.uint32)  # add, max, cas, exch
    integers, floats = np.array([-5], np.int32), np.zeros(1, np.float32)
    old, old_integers, old_floats = np.zeros((4, n), np.uint32), np.zeros(n, np.int32), np.zeros(n, np.float32)
    run(
        "  const u32 i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;\n"
        "  old[i] = atom_add(words, 1u);\n  old[n + i] = atom_max(words + 1, i);\n"
        "  old[2 * n + i] = atom_cas(words + 2, 0u, i + 1);\n  old[3 * n + i] = atom_exch(words + 3, i);\n"
        "  old_integers[i] = atom_max(integers, int(i) - 200);\n  old_floats[i] = atom_add(floats, 0.5f);",
        grid=(5,),
        block=64,
        words=words,
        integers=integers,
        floats=floats,
        old=old,
        old_integers=old_integers,
        old_floats=old_floats,
    )
    assert words[0] == n and sorted(old[0]) == list(range(n))
    assert words[1] == n - 1 and old[1].min() == 7 and (old[1] < n).all()
    winner = words[2]  # the one whose comparison held; all others see its value
    assert 1 <= winner <= n and old[2, winner - 1] == 0 and (np.delete(old[2], winner - 1) == winner).all()
    assert sorted([*old[3], words[3]]) == sorted([1000, *range(n)])
    assert integers[0] == n - 201 and old_integers.min() == -5
    assert floats[0] == n / 2 and sorted(old_floats) == [i / 2 for i in range(n)]


# ---- asynchronous copies -----------------------------------------------------------------------------------

COPIES = {
    "cp_async_chunk": 16,
    "cp_async_chunk_prefetch": 16,
    "cp_async_ca<4>": 4,
    "cp_async_ca<8>": 8,
    "cp_async_ca<16>": 16,
}


@pytest.mark.parametrize("copy", COPIES)
def test_cp_async_copies_or_fills_with_zeros(run, copy):
    """Just its bytes: those between the copies stay as they were. Where nothing is read the address may be anything."""
    size = COPIES[copy]
    x = np.arange(1, 32 * 8 + 1, dtype=np.uint32)
    out = np.zeros((32, 8), np.uint32)
    run(
        "  for (int i = 0; i < 8; i++) st_shared(base + lane * 32 + 4 * i, 7);\n"
        f"  {copy}(base + lane * 32, lane % 3 ? x + lane * 8 : nullptr, lane % 3 != 0);\n"
        "  cp_async_commit();\n  cp_async_wait<0>();\n"
        "  for (int i = 0; i < 8; i++) out[lane * 8 + i] = ld_shared(base + lane * 32 + 4 * i);",
        shared_bytes=1024,
        x=x,
        out=out,
    )
    expected = np.where(LANES[:, None] % 3 == 0, 0, x.reshape(32, 8))
    expected[:, size // 4 :] = 7
    np.testing.assert_array_equal(out, expected)


def test_cp_async_groups_of_the_warps_arrive(run):
    """Three groups under way, waited for one by one; a barrier makes each one's copies everybody's."""
    x = np.arange(3 * 128 * 4, dtype=np.uint32)
    out = np.zeros((3, 128), np.uint32)
    waits = "".join(
        f"  cp_async_wait<{2 - g}>();\n  __syncthreads();\n"
        f"  out[{g} * 128 + t] = ld_shared_chunk(base + ({g} * 128 + 127 - t) * 16).y;\n"
        for g in range(3)
    )
    run(
        "  const int t = threadIdx.x;\n  for (int g = 0; g < 3; g++) {\n"
        "    cp_async_chunk(base + (g * 128 + t) * 16, x + (g * 128 + t) * 4, true);\n    cp_async_commit();\n  }\n"
        + waits,
        block=128,
        shared_bytes=3 * 128 * 16,
        x=x,
        out=out,
    )
    np.testing.assert_array_equal(out, x.reshape(3, 128, 4)[:, ::-1, 1])


# ---- barriers ----------------------------------------------------------------------------------------------


def test_syncthreads(run):
    """A value goes round a block of four warps."""
    out = np.zeros(128, np.uint32)
    run(
        "  const int t = threadIdx.x;\n  u32 mine = t;\n  for (int i = 0; i < 10; i++) {\n"
        "    st_shared(base + t * 4, mine);\n    __syncthreads();\n"
        "    mine = ld_shared(base + (t + 37) % 128 * 4);\n    __syncthreads();\n  }\n  out[t] = mine;",
        block=128,
        shared_bytes=512,
        out=out,
    )
    np.testing.assert_array_equal(out, (np.arange(128) + 370) % 128)


def test_named_barriers_of_two_pairs_of_warps(run):
    """Warps 0 and 2, warps 1 and 3: each pair has a barrier of its own, and rounds of its own."""
    out = np.zeros(128, np.uint32)
    run(
        "  const int t = threadIdx.x, pair = t / 32 % 2;\n  u32 mine = t;\n"
        "  for (int i = 0; i < 3 + 4 * pair; i++) {\n    st_shared(base + t * 4, mine);\n"
        "    bar_sync(1 + pair, 64);\n    mine = 1 + ld_shared(base + (t + 64) % 128 * 4);\n"
        "    bar_sync(1 + pair, 64);\n  }\n  out[t] = mine;",
        block=128,
        shared_bytes=512,
        out=out,
    )
    t = np.arange(128)
    rounds = 3 + 4 * (t // 32 % 2)
    np.testing.assert_array_equal(out, (t + 64) % 128 + rounds)  # an odd number of rounds: the other's, counted up


def test_barriers_count_whole_warps(run):
    """A block of 48 threads is two warps, and its second one counts as 32."""
    out = np.zeros(48, np.uint32)
    run(
        "  const int t = threadIdx.x;\n  st_shared(base + t * 4, t);\n  bar_sync(5, 64);\n"
        "  out[t] = ld_shared(base + (47 - t) * 4);",
        block=48,
        shared_bytes=192,
        out=out,
    )
    np.testing.assert_array_equal(out, np.arange(48)[::-1])


def test_producer_and_consumer(run):
    """Two buffers between two warps: who has filled or emptied one arrives, who needs it waits."""
    out = np.zeros((20, 32), np.uint32)
    run(
        "  const int FULL = 1, EMPTY = 3;\n  for (int i = 0; i < 20; i++) {\n"
        "    const u32 buffer = base + i % 2 * 128;\n    if (threadIdx.x < 32) {\n"
        "      if (i >= 2) bar_sync(EMPTY + i % 2, 64);\n"
        "      st_shared(buffer + lane * 4, i * 100 + lane);\n      bar_arrive(FULL + i % 2, 64);\n"
        "    } else {\n      bar_sync(FULL + i % 2, 64);\n"
        "      out[i * 32 + lane] = ld_shared(buffer + (31 - lane) * 4);\n"
        "      if (i < 18) bar_arrive(EMPTY + i % 2, 64);\n    }\n  }",
        block=64,
        shared_bytes=256,
        out=out,
    )
    np.testing.assert_array_equal(out, np.arange(20)[:, None] * 100 + LANES[::-1])


# ---- static shared memory ----------------------------------------------------------------------------------


def test_static_shared_arrays(run):
    """Beside the dynamic kind, of any type; nobody else's bytes."""
    out = np.zeros(64, np.float32)
    run(
        "  __shared__ float stats[64];\n  __shared__ __align__(16) u32 words[8];\n  __shared__ u16 one;\n"
        "  const int t = threadIdx.x;\n  st_shared_f32(shared_address(&stats[t]), 0.5f * t);\n"
        "  if (t < 8) st_shared(shared_address(words + t), 1000 * t);\n"
        "  if (t == 63) st_shared_u16(shared_address(&one), 7);\n  st_shared(base + 4 * t, 100 * t);\n"
        "  __syncthreads();\n  out[t] = ld_shared_f32(shared_address(&stats[63 - t]))\n"
        "      + float(ld_shared_chunk(shared_address(words + t % 2 * 4)).z + ld_shared(base + 4 * t)\n"
        "              + ld_shared_u16(shared_address(&one)));",
        block=64,
        shared_bytes=256,
        out=out,
    )
    t = np.arange(64)
    np.testing.assert_array_equal(out, 0.5 * (63 - t) + 1000 * (t % 2 * 4 + 2) + 100 * t + 7)
