"""That each CUDA stage does what its idea says: seen in the emulator's counters and traces and in the machine code,
never in a time. What is wrong with a result is for test_stages.py and test_mutants.py.

Most tests hold a stage against its parent, so that they fail where the idea is not there.
"""

from __future__ import annotations

import functools
import itertools
import re
import statistics
from collections import Counter

import pytest
import torch

from reference import Case, check
from stages import STAGES, Stage, get
from stages.common import cuda
from stages.common.cuda import specialise
from stages.common.tiles import Tiles, use
from stages.common.where import installed
from tests.test_mutants import attention_of
from tools import nvrtc
from tools.emulator import Report, Trace, emulate, missing
from tools.sass import mix

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
needs_sass = pytest.mark.skipif(
    not installed("cupy") or mix.find_disassembler() is None,
    reason=f"needs CuPy, NVRTC and nvdisasm (package {mix.PACKAGE}), which are not all installed",
)

LADDER = [stage for stage in STAGES if 20 <= stage.number < 40]
WARPS = 4
LDMATRIX = ("ldmatrix", "ldmatrix.trans")


@pytest.fixture(autouse=True)
def in_the_emulator(monkeypatch):
    """Also where there is a GPU."""
    monkeypatch.setenv("CUDA_EMULATE", "1")


def from_stage(number: int, before: int = 40):
    return pytest.mark.parametrize("stage", [s for s in LADDER if number <= s.number < before], ids=lambda s: s.short)


def case(**fields) -> Case:
    return Case(**({"dtype": "bfloat16", "headdim": 128, "seqlen_q": 256, "seqlen_k": 256} | fields))


def emulated(attention, of: Case, trace: int = 0, races: bool = False):
    """(out, lse, report) of one call."""
    with emulate(races=races, trace=trace) as session:
        out, lse = attention(*of.inputs(), causal=of.causal, softmax_scale=of.softmax_scale)
    (report,) = session.reports
    return out, lse, report


@functools.cache
def report_of(stage: Stage, of: Case, trace: int = 0) -> Report:
    return emulated(stage.attention, of, trace)[2]


def tile_rows(stage: Stage, headdim: int) -> int:
    return stage.tile_rows(headdim, itemsize=2)


def sees(of: Case) -> torch.Tensor:
    """[seqlen_q, seqlen_k]: which query sees which key."""
    i, j = torch.arange(of.seqlen_q)[:, None], torch.arange(of.seqlen_k)
    return j <= i + of.seqlen_k - of.seqlen_q if of.causal else (i >= 0) & (j >= 0)


def tile_classes(of: Case, Br: int, Bc: int = 64) -> list[Counter]:
    """For each Q tile of a head, of how many K/V tiles some row sees a key, and of how many some row misses one. The
    rows and keys that fill up the last tiles count: nobody sees such a key, and such a row sees all before it."""
    visible = sees(of)
    q_tiles, kv_tiles = -(-of.seqlen_q // Br), -(-of.seqlen_k // Bc)
    padded = torch.zeros(q_tiles * Br, kv_tiles * Bc, dtype=torch.bool)
    padded[: of.seqlen_q, : of.seqlen_k] = visible
    padded[of.seqlen_q :, : of.seqlen_k] = True
    tiles = padded.unflatten(0, (q_tiles, Br)).unflatten(2, (kv_tiles, Bc))
    walked, full = tiles.any(dim=3).any(dim=1), tiles.all(dim=3).all(dim=1)
    return [Counter(walked=int(w.sum()), masked=int((w & ~f).sum())) for w, f in zip(walked, full)]


def planted(stage: Stage, folder, *replace: tuple[str, str]):
    """`attention` of a copy of the stage with text replaced: an instruction that counts, or a bug."""
    source = stage.kernel_file.read_text(encoding="utf-8")
    for old, new in replace:
        assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {stage.name}"
        source = source.replace(old, new)
    return attention_of(stage, source, folder)


# ---- results -----------------------------------------------------------------------------------------------

# Stages that change what is computed; the others move data, and leave every bit as it was.
COMPUTES = {
    "s25": "the walk goes the other way",
    "s27": "one rounding fewer in every exponent",
    "s33": "exponents have another reference",
}


@from_stage(21)
@pytest.mark.parametrize("headdim", (64, 128))
@pytest.mark.parametrize("causal", (False, True), ids=("full", "causal"))
def test_who_moves_data_changes_no_bit(stage, headdim, causal):
    of = case(headdim=headdim, seqlen_q=150, seqlen_k=200, causal=causal, nheads=2, nheads_k=1, family="spikes")
    results = [emulated(one.attention, of)[:2] for one in (get(stage.parent), stage)]
    same = all(torch.equal(a, b) for a, b in zip(*results))
    assert same == (stage.short not in COMPUTES), COMPUTES.get(stage.short, "it should leave every bit as it was")


# ---- s21: bank conflicts -----------------------------------------------------------------------------------


def test_s20_has_conflicts_at_every_ldmatrix_and_store():
    report = report_of(get("s20"), case())
    loads = [site for site in report.sites if site.op in LDMATRIX]
    assert len(loads) == 3 and all(site.ways == 8 for site in loads)
    assert all(site.wavefronts == 8 * site.passes for site in loads)
    assert report.total("conflicts", "st.shared") == 7168


@from_stage(21)
@pytest.mark.parametrize("headdim", (64, 128))
def test_s21_has_no_conflict_anywhere_nor_has_a_later_stage(stage, headdim):
    report = report_of(stage, case(headdim=headdim))
    assert {site.op for site in report.sites} >= {"ldmatrix", "ldmatrix.trans", "st.shared", "ld.shared", "cp.async"}
    assert [(site.line, site.op, site.conflicts) for site in report.sites if site.conflicts] == []


@pytest.mark.parametrize("swizzle, ways", (("row % 8", 1), ("row % 4", 2), ("row / 2 % 4", 2), ("0", 8)))
def test_half_a_swizzle_has_half_the_use(swizzle, ways, tmp_path):
    """Right all the same, since whoever writes and whoever reads asks the same function."""
    attention = planted(get("s21"), tmp_path, ("chunk ^ row % 8", f"chunk ^ {swizzle}"))
    _, _, report = emulated(attention, case(headdim=64, seqlen_q=64, seqlen_k=64), races=True)
    assert max(site.ways for site in report.sites if site.op in LDMATRIX) == ways
    assert check(get("s21"), case(headdim=64, seqlen_q=64, seqlen_k=64), attention=attention).ok


# ---- s22, s23: copies under way ----------------------------------------------------------------------------


def timeline(traces: tuple[Trace, ...], tile_bytes: int) -> list[tuple[str, int]]:
    """What the first warp of the first block does, in order: ("copy", place) of a tile into shared memory and
    ("read", place), one for many in a row. place: the tile's number in shared memory."""
    mine = [one for one in traces if one.block == (0, 0, 0) and one.warp == 0]
    acts = [
        ("read" if one.op in LDMATRIX else "copy", next(a for a in one.addresses if a is not None) // tile_bytes)
        for one in mine
        if one.op in (*LDMATRIX, "cp.async")
    ]
    return [act for act, _ in itertools.groupby(acts)]


def under_way(acts: list[tuple[str, int]]) -> list[int]:
    """At each product of Q Kᵀ or P V, the number of tiles that have been asked for but are not read before it."""
    reads = [i for i, (act, _) in enumerate(acts) if act == "read"]
    counts = []
    for at in reads[1:]:  # the first reads Q
        copies = [i for i, (act, _) in enumerate(acts[:at]) if act == "copy"]
        later = [i for i in copies if not any(i < r <= at and acts[r][1] == acts[i][1] for r in reads)]
        counts.append(len(later))
    return counts


TILES = 5  # of K and V
ASKED_AHEAD = {  # at the two products of each K/V tile
    "s20": [0, 0] * TILES,
    "s21": [0, 0] * TILES,
    "s22": [1, 1] * (TILES - 1) + [1, 0],  # V at Q Kᵀ, the next K at P V
    "s23": [3, 2] * (TILES - 1) + [1, 0],  # at Q Kᵀ this tile's V as well: it has arrived, and waits to be read
}


@from_stage(20)
def test_tiles_under_way_at_each_product(stage):
    of = case(seqlen_q=64, seqlen_k=64 * TILES, nheads=1, nheads_k=1)
    acts = timeline(report_of(stage, of, trace=100_000).traces, tile_bytes=64 * 128 * 2)
    expected = ASKED_AHEAD.get(stage.short, ASKED_AHEAD["s23"])
    assert under_way(acts) == expected, acts


@from_stage(20)
def test_barriers_of_a_tile(stage):
    """Two a K/V tile, and with two buffers one; and one for Q."""
    of = case(seqlen_q=64, seqlen_k=64 * TILES, nheads=1, nheads_k=1)
    each = 1 if stage.number >= 23 else 2
    assert report_of(stage, of).total("instructions", "__syncthreads") == WARPS * (1 + each * TILES)


@from_stage(20)
@pytest.mark.parametrize("causal", (False, True), ids=("full", "causal"))
def test_copies_are_those_of_the_tiles_that_are_walked(stage, causal):
    """cp.async: 16 bytes each, Q once and K and V for every tile that some row sees; nothing is copied twice."""
    of = case(headdim=64, seqlen_q=512, seqlen_k=512, causal=causal, nheads=1, nheads_k=1)
    Br = tile_rows(stage, 64)
    walked = sum(tiles["walked"] for tiles in tile_classes(of, Br))
    report = report_of(stage, of)
    assert report.total("lanes", "cp.async") == (512 + 2 * 64 * walked) * 64 * 2 // 16
    assert report.total("instructions", "ldmatrix.trans") == walked * WARPS * (64 // 16) * (64 // 16)
    share = walked * Br / (512 * 512 / 64)
    assert share == 1 if not causal else 0.5 < share < 0.63


# ---- s24: loads ahead of products --------------------------------------------------------------------------


@functools.cache
def machine_code(stage: Stage, headdim: int = 128, causal: bool = False, rows: tuple[int, ...] = ()) -> list:
    """The kernel's instructions, compiled for sm_90a and bfloat16. rows: row strides to compile in."""
    arguments = (str(headdim), str(causal).lower(), *map(str, rows))
    made = nvrtc.compile_for(stage, f"attention_kernel<bf16, {', '.join(arguments)}>", "90a")
    return mix.parse(mix.disassemble(made.cubin, mix.find_disassembler()))


def counts(stage: Stage, **chosen) -> dict[str, int]:
    """Instructions of the main loop by family, and in all."""
    counted = mix.count(mix.main_loop(machine_code(stage, **chosen)))
    return mix.families(counted) | {"total": counted["total"]}


def integer(loop: dict[str, int]) -> int:
    return sum(loop[family] for family in ("IADD3", "LOP3", "SHF", "IMAD", "LEA"))


def products_before_use(stage: Stage) -> list[int]:
    """Of the fragments that the main loop loads and that an mma reads in the same registers, how many other mma lie in
    between."""
    loaded, distances, products = {}, [], 0
    for code in mix.main_loop(machine_code(stage)):
        registers = [int(number) for number in re.findall(r"\bR(\d+)", code.operands)]
        if code.name.startswith("LDSM"):
            loaded |= dict.fromkeys(range(registers[0], registers[0] + 4), [products])
        elif code.name.startswith("HMMA"):
            for fragment in (loaded.get(register, []) for register in registers[1:3]):
                distances += [products - at for at in fragment]
                fragment.clear()  # the four registers' own: the first use counts
            products += 1
    return distances


@needs_sass
@pytest.mark.parametrize("stage", [get("s23"), get("s24")], ids=lambda stage: stage.short)
def test_the_compiler_loads_fragments_ahead_whether_the_source_does_or_not(stage):
    """Why s24 changes so little: unrolled, most fragments of s23 too are loaded several mma before the first use."""
    distances = products_before_use(stage)
    assert len(distances) > 32 and statistics.median(distances) >= 4


@needs_sass
@from_stage(20)
def test_the_loop_has_the_products_and_fragments_of_one_tile(stage):
    """Whatever a stage does to the rest: 16 rows a warp by 64 keys take 64 mma and 32 ldmatrix a product."""
    loop = counts(stage)
    assert (loop["HMMA"], loop["LDSM"]) == (128, 64)
    assert loop["BAR"] == (1 if stage.number >= 23 else 2)
    assert loop["LDGSTS"] == 16 if stage.number >= 29 else loop["LDGSTS"] >= 16  # or the compiler cannot count them
    assert loop["LDL"] == loop["STL"] == 0


# ---- s25: tile classes -------------------------------------------------------------------------------------

MASK = "    if (block >= full_blocks) {\n"
MASKED_LENGTHS = ((256, 256), (150, 200), (200, 150), (130, 128), (127, 190), (1, 130))


@from_stage(25)
@pytest.mark.parametrize("causal", (False, True), ids=("full", "causal"))
def test_only_tiles_that_hide_something_are_masked(stage, causal, tmp_path):
    attention = planted(stage, tmp_path, (MASK, MASK + "      __syncwarp();  // counted\n"))
    kernel = (tmp_path / "kernel.cu").read_text().splitlines()
    (line,) = (i for i, text in enumerate(kernel, 1) if "// counted" in text)
    for seqlen_q, seqlen_k in MASKED_LENGTHS:
        of = case(headdim=64, seqlen_q=seqlen_q, seqlen_k=seqlen_k, causal=causal, nheads=1, nheads_k=1)
        _, _, report = emulated(attention, of)
        masks = sum(site.instructions for site in report.at(line))
        masked = sum(tiles["masked"] for tiles in tile_classes(of, tile_rows(stage, 64)))
        assert masks == WARPS * masked, (of, masks, masked)


# ---- s26 to s29: instructions of the main loop -------------------------------------------------------------


@needs_sass
@pytest.mark.parametrize("causal", (False, True), ids=("full", "causal"))
@pytest.mark.parametrize("headdim", (64, 128))
class TestLoop:
    def test_s26_zeroes_nothing(self, headdim, causal):
        """O is not cleared before the loop, nor anything in it; only a Q tile without keys still needs zeros."""
        before, after = (
            mix.count(machine_code(get(name), headdim=headdim, causal=causal))["zeroing"] for name in ("s25", "s26")
        )
        assert before >= headdim // 8, "two of O's headdim / 2 registers may be cleared at once, and some elsewhere"
        assert after <= 4
        loop = mix.main_loop(machine_code(get("s26"), headdim=headdim, causal=causal))
        assert mix.count(loop)["zeroing"] == 0

    def test_s27_multiplies_and_subtracts_at_once(self, headdim, causal):
        """32 scores a thread: scaling them and scaling the differences were an FMUL each, a subtraction an FADD."""
        before, after = (counts(get(name), headdim=headdim, causal=causal) for name in ("s26", "s27"))
        assert before["FMUL"] - after["FMUL"] >= 32
        assert after["FFMA"] - before["FFMA"] in range(0, 33)
        floating = ("FMUL", "FFMA", "FADD")
        assert sum(before[name] for name in floating) - sum(after[name] for name in floating) >= 32
        assert after["MUFU"] == before["MUFU"]

    def test_s28_moves_less(self, headdim, causal):
        before, after = (counts(get(name), headdim=headdim, causal=causal) for name in ("s27", "s28"))
        assert after["MOV"] < before["MOV"] / 2

    def test_s29_computes_fewer_addresses(self, headdim, causal):
        before, after = (counts(get(name), headdim=headdim, causal=causal) for name in ("s28", "s29"))
        assert integer(after) < integer(before) / 2

    def test_s30_computes_fewer_still_where_the_strides_are_known(self, headdim, causal):
        chosen = {"headdim": headdim, "causal": causal}
        general, special = (counts(get("s30"), **chosen, rows=rows) for rows in ((), (2048, 1024)))
        assert integer(special) < integer(general) and special["total"] < general["total"]


# ---- s30: specialisations ----------------------------------------------------------------------------------

STATIC = [stage for stage in LADDER if stage.number >= 30]


def laid_out(layout: str, headdim: int = 64):
    """Q, K and V in memory of many kinds: their rows are differently far apart."""
    if layout == "packed":  # one tensor holds all three
        generator = torch.Generator().manual_seed(0)
        return torch.randn(2, 70, 3 * 2, headdim, generator=generator).bfloat16().chunk(3, dim=2)
    nheads, nheads_k = {"contiguous": (1, 1), "grouped": (4, 2), "transposed": (4, 1), "sliced": (2, 2)}[layout]
    layout = "contiguous" if layout == "grouped" else layout
    sizes = {"headdim": headdim, "seqlen_q": 70, "seqlen_k": 130, "batch": 2}
    return case(**sizes, nheads=nheads, nheads_k=nheads_k, layout=layout).inputs()


@pytest.mark.parametrize(
    "stage, layout, headdim",
    (
        *itertools.product(STATIC[:1], ("contiguous", "grouped", "transposed", "sliced", "packed"), (64, 128)),
        *itertools.product(STATIC[1:], ("grouped", "sliced"), (64,)),
    ),
    ids=lambda one: one.short if isinstance(one, Stage) else None,
)
def test_a_specialisation_gives_the_same_bits(stage, layout, headdim):
    q, k, v = laid_out(layout, headdim)
    general = stage.attention(q, k, v, causal=True)
    with specialise("now"), emulate() as session:
        special = stage.attention(q, k, v, causal=True)
    assert f", {q.stride(1)}, {k.stride(1)}" in session.reports[0].kernel
    assert all(torch.equal(a, b) for a, b in zip(general, special))


def two_strides():
    """K and V of the same values, rows differently far apart."""
    q, k, v = case(headdim=64, seqlen_q=40, seqlen_k=70).inputs()
    return q, k, torch.cat((v, v), dim=2)[:, :, :2]


@pytest.mark.parametrize("stage", STATIC, ids=lambda stage: stage.short)
def test_no_specialisation_where_the_strides_of_k_and_v_differ(stage):
    q, k, v = two_strides()
    assert k.stride(1) != v.stride(1)
    with emulate() as session:
        expected = stage.attention(q, k, v)
        with specialise("now"):
            got = stage.attention(q, k, v)
    general, asked_for = (report.kernel for report in session.reports)
    assert asked_for == general
    assert all(torch.equal(a, b) for a, b in zip(expected, got))


@pytest.mark.parametrize(
    "replace",
    (
        ("KV_ROW ? KV_ROW : p.k_row", "KV_ROW ? Q_ROW : p.k_row"),
        ("Q_ROW ? Q_ROW : p.q_row", "Q_ROW ? d : p.q_row"),
        None,
    ),
    ids=("q_for_k", "one_head", "unchecked"),
)
def test_a_wrong_specialisation_is_seen(replace, tmp_path, monkeypatch):
    """What these tests are worth: each of these is wrong in the specialisation only, the last on the host."""
    stage = get("s30")
    attention = planted(stage, tmp_path, *([replace] if replace else []))
    if replace is None:
        unchecked = lambda call: (str(call.q.stride(1)), str(call.k.stride(1)))  # noqa: E731
        monkeypatch.setitem(attention.__globals__, "static_strides", unchecked)
    q, k, v = laid_out("grouped") if replace else two_strides()
    expected = stage.attention(q, k, v)
    assert all(torch.equal(a, b) for a, b in zip(expected, attention(q, k, v))), "the general kernel is right"
    with specialise("now"), emulate(raises=False) as session:
        got = attention(q, k, v)
    assert session.reports[0].findings or not torch.equal(expected[0], got[0])


def test_strides_beyond_31_bits_are_not_compiled_in():
    class Call:  # (batch, row, head) of q, k, v and out
        def __init__(self, q_row, k_row=128, v_row=128):
            self.strides = (1, q_row, 2, 3, k_row, 4, 5, v_row, 6, 7, 8, 9)

    assert cuda.static_strides(Call(2**31)) is None and cuda.static_strides(Call(128, 2**31, 2**31)) is None
    assert cuda.static_strides(Call(2**31 - 1)) == (str(2**31 - 1), "128")
    assert cuda.static_strides(Call(64, 128, 256)) is None


# ---- s31: m-tiles ------------------------------------------------------------------------------------------


def fragments_a_product(stage: Stage) -> float:
    """ldmatrix of V for each mma of P V."""
    report = report_of(stage, case(headdim=64))
    return report.total("instructions", "ldmatrix.trans") / (report.total("instructions", "mma") / 2)


def test_s31_loads_half_as_many_fragments_for_a_product():
    """At head dim 64 a warp owns two m-tiles, and a fragment of K or V serves both."""
    assert tile_rows(get("s30"), 64) == 64 and tile_rows(get("s31"), 64) == 128
    assert fragments_a_product(get("s30")) == 1 / 2
    assert fragments_a_product(get("s31")) == 1 / 4


@needs_sass
def test_s31_has_half_the_ldmatrix_of_its_products_in_the_machine_code():
    before, after = (counts(get(name), headdim=64) for name in ("s30", "s31"))
    assert after["HMMA"] == 2 * before["HMMA"] and after["LDSM"] == before["LDSM"]


# ---- s32: the order of blocks ------------------------------------------------------------------------------


def blocks_in_order(stage: Stage, of: Case) -> list[int]:
    """How many K/V tiles each block walks, in the order in which blocks start: x first, then y, then z."""
    traces = report_of(stage, of, trace=100_000).traces
    fragments = Counter(one.block for one in traces if one.op == "ldmatrix.trans" and one.warp == 0)
    a_tile = 64 // 16 * (of.headdim // 16)
    return [fragments[block] // a_tile for block in sorted(fragments, key=lambda block: block[::-1])]


def test_s32_starts_with_the_blocks_that_have_most_to_do():
    of = case(headdim=64, seqlen_q=512, seqlen_k=512, causal=True, nheads=2, nheads_k=1, batch=2)
    work = [tiles["walked"] for tiles in tile_classes(of, Br=128)]
    assert work == [2, 4, 6, 8]
    heads = of.batch * of.nheads
    assert blocks_in_order(get("s31"), of) == work * heads, "one head after the other, the short walks first"
    longest_first = [tiles for tiles in reversed(work) for _ in range(heads)]
    assert blocks_in_order(get("s32"), of) == longest_first
    for name in ("s33", "s34"):
        assert blocks_in_order(get(name), of) == longest_first


@from_stage(32)
@pytest.mark.parametrize("causal", (False, True), ids=("full", "causal"))
def test_s32_keeps_together_what_reads_the_same_keys(stage, causal, tmp_path):
    """First come all heads of one Q tile; then, causal, the other batches' heaviest tiles; else this batch's tiles."""
    of = case(headdim=64, seqlen_q=256, seqlen_k=256, causal=causal, nheads=4, nheads_k=2, batch=2)
    start = "  const int warp = threadIdx.x / 32"
    for axes in ("blockIdx.y + blockIdx.z", "blockIdx.z"):
        attention = planted(stage, tmp_path, (start, f"  if ({axes} > 0) return;\n{start}"))
        lse = torch.full((of.batch, of.nheads, of.seqlen_q), torch.nan)
        attention(*of.inputs(), causal=causal, lse=lse)
        expected = torch.zeros_like(lse, dtype=torch.bool)
        tile = slice(128, 256) if causal else slice(0, 128)
        if axes == "blockIdx.z":
            expected[:, :, tile] = causal
            expected[0] |= not causal
        else:
            expected[0, :, tile] = True
        assert torch.equal(~lse.isnan(), expected), axes


def makespan(work: list[int], slots: int) -> int:
    """When the last block ends, if each starts as soon as one of `slots` is free."""
    ends = [0] * slots
    for one in work:
        ends.sort()
        ends[0] += one
    return max(ends)


def test_longest_first_ends_earlier():
    """The reason for the order, by its model: 16 heads of 32 Q tiles on 264 places."""
    walks = [tiles["walked"] for tiles in tile_classes(case(seqlen_q=4096, seqlen_k=4096, causal=True), Br=128)]
    shortest, longest = walks * 16, [one for one in reversed(walks) for _ in range(16)]
    ideal = sum(walks) * 16 / 264
    assert makespan(longest, 264) < makespan(shortest, 264)
    assert makespan(longest, 264) < 1.1 * max(ideal, max(walks))


# ---- s33: rescaling ----------------------------------------------------------------------------------------

VOTED = "    if (FIRST || vote_any(rescale)) {\n"


def rescales(of: Case, folder) -> tuple[int, int]:
    """(how often a warp of s33 rescales, how often it could: at every tile but the first)."""
    attention = planted(get("s33"), folder, (VOTED, VOTED + "      if (!FIRST) __syncwarp();  // counted\n"))
    kernel = (folder / "kernel.cu").read_text().splitlines()
    (line,) = (i for i, text in enumerate(kernel, 1) if "// counted" in text)
    _, _, report = emulated(attention, of)
    walked = sum(tiles["walked"] - 1 for tiles in tile_classes(of, tile_rows(get("s33"), of.headdim)))
    return sum(site.instructions for site in report.at(line)), WARPS * of.nheads * walked


def growing(towards: str, growth: float) -> Case:
    """The ramp family with the logits' growth from tile to tile as a power of two; head 0 grows towards the last keys,
    head 1 to the first, so that a walk from the last to the first meets growing maxima in head 1."""
    assert towards in ("last", "both")
    return case(
        dtype="float16", headdim=64, seqlen_q=128, seqlen_k=320, family="ramp", softmax_scale=growth / 6 / 8,
        nheads=1 if towards == "last" else 2, nheads_k=1 if towards == "last" else 2,
    )  # fmt: skip


def test_s33_never_rescales_where_the_maximum_comes_first(tmp_path):
    """And then it computes what s32 does, bit for bit."""
    of = growing("last", 6)
    assert rescales(of, tmp_path) == (0, WARPS * 4)
    lazy, eager = (emulated(get(name).attention, of)[:2] for name in ("s33", "s32"))
    assert all(torch.equal(a, b) for a, b in zip(lazy, eager))


def test_s33_rescales_at_every_tile_that_grows_past_the_bound(tmp_path):
    """And then, too, it computes what s32 does: every row's reference is its maximum."""
    of = growing("both", 14)
    assert rescales(of, tmp_path) == (WARPS * 4, 2 * WARPS * 4)
    lazy, eager = (emulated(get(name).attention, of)[:2] for name in ("s33", "s32"))
    assert all(torch.equal(a, b) for a, b in zip(lazy, eager))


def test_s33_rescales_at_every_second_tile_where_two_grow_past_the_bound(tmp_path):
    of = growing("both", 5)
    assert rescales(of, tmp_path) == (WARPS * 2, 2 * WARPS * 4)
    assert check(get("s33"), of).ok
    lazy, eager = (emulated(get(name).attention, of)[:2] for name in ("s33", "s32"))
    assert torch.equal(lazy[0][:, :, 0], eager[0][:, :, 0]) and not torch.equal(lazy[0][:, :, 1], eager[0][:, :, 1])


@pytest.mark.parametrize(
    "of, most",
    (
        (case(headdim=64, seqlen_q=256, seqlen_k=512), 0.0),
        (case(headdim=32, seqlen_q=331, seqlen_k=331, nheads=6, nheads_k=6, causal=True, family="activations"), 0.2),
    ),
    ids=("normal", "activations"),
)
def test_s33_hardly_ever_rescales(of, most, tmp_path):
    done, could = rescales(of, tmp_path)
    assert could > 0 and done <= most * could


# ---- s34: loads ahead of products, with two m-tiles ------------------------------------------------------------

SETS = "const u32(&B)[4] = K_frag[step % 2];"


@pytest.mark.parametrize("Bc, right", ((32, True), (48, False), (64, True)))
def test_s34_counts_the_sets_through_the_whole_product(Bc, right, tmp_path):
    """A set for each place in a row would do where a row of steps is even, as with the default tiles."""
    of = case(seqlen_q=64, seqlen_k=200, nheads=1, nheads_k=1)
    within = ("K_frag[step % 2], tile_step", "K_frag[n % 2], tile_step"), (SETS, SETS.replace("step", "n"))
    attention = planted(get("s34"), tmp_path, *within)
    with use(Tiles(64, Bc, 4, 2, q_in_registers=True, blocks=1)):
        assert check(get("s34"), of).ok
        assert check(get("s34"), of, attention=attention).ok == right


@pytest.mark.parametrize("headdim", (64, 128))
def test_s34_loads_what_s33_does_and_in_its_order(headdim):
    """The fragments of one warp, K's and V's, by their addresses; each is loaded once."""
    of = case(headdim=headdim, seqlen_q=64, seqlen_k=128, nheads=1, nheads_k=1)
    loads = [
        [
            one.addresses
            for one in report_of(get(name), of, trace=100_000).traces
            if one.op in LDMATRIX and one.warp == 0
        ]
        for name in ("s33", "s34")
    ]
    assert (
        loads[0] == loads[1]
        and len(loads[1]) == headdim // 16 * (1 if headdim == 128 else 2) + 128 // 2 * headdim // 64
    )
