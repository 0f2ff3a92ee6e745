"""The tuner, without a GPU: what is legal, what the compiler drops, how the search halves, what the file keeps; the
committed tables; and other tiles than the default ones, run in the emulator."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import pickle

import pytest
from rich.console import Console

from reference import Case, check
from reference.check import Verdict
from stages import get
from stages.common import cuda, tiles
from stages.common.cuda import specialise
from stages.common.tiles import Tiles, use
from tests.conftest import needs_nvrtc, place_or_skip
from tools import nvrtc
from tools.autotune import __main__ as command
from tools.autotune import gpu, prune, run, search, show, space
from tools.autotune import table as tables
from tools.autotune.prune import Kept
from tools.autotune.search import Outcome, Rung, halve
from tools.autotune.space import Dropped, Part
from tools.bench import devices
from tools.bench.measure import Effort
from tools.bench.shapes import Shape
from tools.emulator import emulate
from tools.results import ResultsError

S31, S33, S34 = get("s31"), get("s33"), get("s34")
PART = Part(S31, 64, False)
SPILLS = Tiles(128, 64, 4, 2, False, 2)  # of s31 at head dim 128
ENVIRONMENT = {"device": "NVIDIA Synthetic 9000", "compute_capability": "9.0", "date": "2031-02-03T04:05:06+00:00"}


# -------------------------------------------------------------------------------- what is legal


@pytest.mark.parametrize(
    "configuration, headdim, arch, kind",
    [
        (Tiles(64, 64, 4, 2, True, 2), 64, 80, None),
        (Tiles(128, 64, 4, 2, True, 2), 64, 80, None),
        (Tiles(64, 64, 8, 2, True, 1), 64, 90, "warps"),
        (Tiles(64, 24, 4, 2, True, 1), 64, 90, "mma"),
        (Tiles(128, 48, 8, 2, True, 1), 64, 90, "copies"),  # 32 rows at a time
        (Tiles(128, 48, 8, 2, True, 1), 128, 90, None),  # 16
        (Tiles(64, 64, 4, 1, True, 1), 64, 90, "buffers"),
        (Tiles(128, 128, 8, 2, True, 1), 128, 90, None),  # 160 KiB
        (Tiles(128, 128, 8, 2, True, 1), 128, 89, "shared memory"),
        (Tiles(128, 128, 8, 3, True, 1), 128, 90, None),  # 224 KiB of 227
        (Tiles(128, 128, 8, 3, True, 1), 128, 80, "shared memory"),
        (Tiles(64, 64, 4, 2, True, 3), 128, 90, "shared memory"),  # each fits, three do not
        (Tiles(256, 64, 4, 2, False, 1), 128, 90, "registers"),
    ],
)
def test_what_is_legal(configuration, headdim, arch, kind):
    obstacle = configuration.obstacle(headdim, arch)
    assert (obstacle and obstacle[0]) == kind
    assert configuration.why_not(headdim, arch) == (obstacle and obstacle[1])


@pytest.mark.parametrize("stage", space.tunable(), ids=lambda stage: stage.short)
def test_the_space_holds_the_default_and_loses_nothing(stage):
    for part in space.parts([stage], None, (False, True)):
        legal, dropped = space.split(part, 90)
        assert part.default in legal
        assert len(legal) + len(dropped) == len({part.default, *space.every()})
        assert all(one.why == one.tiles.why_not(part.headdim, 90) for one in dropped)
        assert 100 < len(legal) < 600


def test_the_stages_that_take_tiles():
    assert [stage.short for stage in space.tunable()][:4] == ["s31", "s32", "s33", "s34"]
    assert space.parts([S31], [128], (True,)) == [Part(S31, 128, True)]


def test_resident_blocks():
    taken = Tiles(64, 64, 4, 2, True, 1)  # 40 KiB at head dim 64
    assert [taken.resident(64, registers, 90) for registers in (64, 128, 129, 168, 169, 255)] == [5, 4, 3, 3, 2, 2]
    assert taken.resident(64, 64, 89) == 2


@pytest.mark.parametrize("arch", ("x", "75", "90ab", ""))
def test_an_unknown_architecture_is_refused(arch):
    with pytest.raises(ValueError, match="arch is .*accepted: 80 or newer"):
        space.number(arch)


# -------------------------------------------------------------------------------- what the compiler drops


@needs_nvrtc
def test_a_spill_is_dropped_and_what_does_not_spill_is_kept():
    (ladder,) = prune.ladders(Part(S31, 128, False), [SPILLS], "90")
    (fate,) = prune.climb(ladder)
    assert isinstance(fate, Dropped) and (fate.tiles, fate.by) == (SPILLS, "spill") and "spills" in fate.why
    (ladder,) = prune.ladders(PART, [PART.default], "90")
    (fate,) = prune.climb(ladder)
    assert isinstance(fate, Kept) and 200 < fate.registers <= 255


@needs_nvrtc
def test_faults_are_found_in_every_instantiation(monkeypatch):
    assert prune.faults(PART, PART.default, "90") == []
    assert "spills" in prune.faults(Part(S31, 128, True), SPILLS, "90")[0]
    assert "rows of Q" in prune.faults(PART, Tiles(64, 64, 8, 2, True, 1), "90")[0]
    wanted = prune.all_jobs(PART, PART.default, "90")
    assert len({one.instantiation for one in wanted}) == 4
    assert wanted[0] == prune.job(PART, PART.default, "90") and "bf16" in wanted[0].instantiation
    last = wanted[-1].instantiation
    monkeypatch.setattr(nvrtc, "run", lambda job: compiled_as(200, 8 if job.instantiation == last else 0))
    assert len(prune.faults(PART, PART.default, "90")) == 1
    fate = prune.runs_clean((PART.default, wanted))
    assert isinstance(fate, Dropped) and last in fate.why


def compiled_as(registers: int, spilled: int = 0) -> nvrtc.Compiled:
    return nvrtc.Compiled(b"", f"Used {registers} registers, {spilled} bytes spill stores, {spilled} bytes stack frame")


def climbed(monkeypatch, registers: dict[int, int], spills=(), broken=(), baseline=None) -> dict[int, str]:
    """The fates of Tiles(64, 64, 4, 2, True, blocks) by `blocks`, if it took so many registers."""

    def compile(job):
        blocks = int(job.instantiation.rstrip(">").rpartition(", ")[2])
        if blocks in broken:
            raise nvrtc.CompileError("no such thing")
        return compiled_as(registers[blocks], 8 if blocks in spills else 0)

    monkeypatch.setattr(nvrtc, "run", compile)
    legal = [Tiles(64, 64, 4, 2, True, blocks) for blocks in (3, 1, 4, 2)]
    (ladder,) = prune.ladders(PART, legal, "90")
    ladder = dataclasses.replace(ladder, baseline=baseline or PART.default)
    assert pickle.loads(pickle.dumps(ladder)) == ladder
    return {fate.tiles.blocks: getattr(fate, "by", "kept") for fate in prune.climb(ladder)}


def test_a_ladder_is_climbed_no_further_than_it_takes(monkeypatch):
    # 160 registers: three blocks fit unasked; a fourth is asked for, and gets what it asks for.
    assert climbed(monkeypatch, {1: 160, 4: 128}) == {1: "kept", 2: "same", 3: "same", 4: "kept"}
    assert climbed(monkeypatch, {1: 250, 3: 168}, spills={3}) == {1: "kept", 2: "same", 3: "spill", 4: "spill"}
    assert climbed(monkeypatch, {1: 255}, spills={1}) == {1: "spill", 2: "spill", 3: "spill", 4: "spill"}
    given = climbed(monkeypatch, {2: 160, 4: 128}, broken={1})
    assert given == {1: "compiler", 2: "kept", 3: "same", 4: "kept"}


def test_the_default_is_compiled_though_as_many_blocks_fit(monkeypatch):
    default = Tiles(64, 64, 4, 2, True, 2)
    fates = climbed(monkeypatch, {1: 160, 2: 160, 4: 128}, baseline=default)
    assert fates == {1: "kept", 2: "kept", 3: "same", 4: "kept"}


@pytest.mark.parametrize("stage", space.tunable(), ids=lambda stage: stage.short)
@pytest.mark.parametrize("when, strides", [("now", prune.STATIC), ("never", prune.GENERAL)])
def test_what_is_compiled_is_what_is_launched(stage, when, strides, monkeypatch):
    place_or_skip(stage, "bfloat16")
    names = []
    monkeypatch.setattr(cuda, "_launch_in_emulator", lambda stage, call, name, *rest: names.append(name))
    part, chosen = Part(stage, 64, True), Tiles(64, 32, 4, 3, False, 2)
    case = Case("bfloat16", 64, 16, 16, True, nheads=32, nheads_k=32)
    with use(chosen), specialise(when):
        stage.attention(*case.inputs(), causal=True)
    assert names == [prune.job(part, chosen, "90", strides=strides).instantiation]


# -------------------------------------------------------------------------------- the search

GRID = [Tiles(64, 16 * n, 4, 2, True, 1) for n in range(1, 9)]
EFFORT = Effort()
RUNGS = (Rung((1,), EFFORT, 4), Rung((2,), EFFORT, 2), Rung((1, 2, 3), EFFORT, 2))


class Timer:
    """TFLOP/s by length and place in GRID, and what was asked for."""

    def __init__(self, rates) -> None:
        self.rates, self.asked = rates, []

    def __call__(self, seqlen, candidates, effort):
        self.asked.append((seqlen, sorted(GRID.index(one) for one in candidates)))
        return {one: self.rates(seqlen, GRID.index(one)) for one in candidates}


def everyone(ranked, keep):
    return list(ranked[:keep]), []


def test_halving_keeps_the_best_and_the_default():
    timer = Timer(lambda seqlen, i: 100.0 + i if seqlen < 3 else 200.0 - i)
    outcome = halve(GRID, GRID[0], timer, everyone, RUNGS)
    assert timer.asked[0] == (1, list(range(8)))
    assert timer.asked[1] == (2, [0, 5, 6, 7])  # the default takes a place, however slow
    assert timer.asked[2:] == [(1, [0, 6, 7]), (2, [0, 6, 7]), (3, [0, 6, 7])]
    assert [GRID.index(one) for one in outcome.ranking] == [7, 6, 0]
    assert outcome.tflops[GRID[7]] == {1: 107.0, 2: 107.0, 3: 193.0} and outcome.tflops[GRID[1]] == {1: 101.0}
    assert outcome.score(GRID[7]) == pytest.approx(3 / (2 / 107 + 1 / 193))


def test_the_objective_is_the_harmonic_mean():
    rates = {0: {1: 10.0, 2: 1000.0, 3: 1000.0}, 1: {1: 100.0, 2: 100.0, 3: 100.0}}
    outcome = halve(GRID[:2], GRID[0], Timer(lambda seqlen, i: rates[i][seqlen]), everyone, RUNGS)
    assert outcome.ranking == [GRID[1], GRID[0]]  # an arithmetic mean would turn them round


def test_what_fails_is_dropped_and_the_next_moves_up():
    def rates(seqlen, i):
        if i == 7:
            return "wrong: at batch 0"
        return "out of memory" if (i, seqlen) == (6, 2) else 100.0 + i

    outcome = halve(GRID, GRID[0], Timer(rates), everyone, RUNGS)
    assert [GRID.index(one) for one in outcome.ranking] == [5, 4, 0]
    assert {(GRID.index(one.tiles), one.by) for one in outcome.dropped} == {(7, "wrong"), (6, "failed")}
    assert GRID[7] not in outcome.tflops and GRID[6] not in outcome.tflops


def test_who_is_not_admitted_does_not_win_even_if_it_is_the_default():
    def admit(ranked, keep):
        assert ranked[0] == GRID[0], "the default is asked after first"
        bad = [one for one in ranked if one in (GRID[7], GRID[0])]
        return [one for one in ranked if one not in bad][:keep], [Dropped(one, "spill", "") for one in bad]

    outcome = halve(GRID, GRID[0], Timer(lambda seqlen, i: 100.0 + i), admit, RUNGS)
    assert [GRID.index(one) for one in outcome.ranking] == [6, 5]
    assert [one.by for one in outcome.dropped] == ["spill", "spill"]


def test_nothing_left_is_no_ranking():
    assert halve(GRID, GRID[0], Timer(lambda seqlen, i: "failed"), everyone, RUNGS).ranking == []
    assert halve([], GRID[0], Timer(lambda seqlen, i: 1.0), everyone, RUNGS).ranking == []


def test_the_rungs_end_with_the_objective():
    assert search.RUNGS[-1].seqlens == search.SEQLENS == (1024, 4096, 16384)
    assert [rung.keep for rung in search.RUNGS] == [24, 12, 12]


# -------------------------------------------------------------------------------- a whole run


class Inline(concurrent.futures.Executor):
    """A pool without processes."""

    def submit(self, function, *arguments, **keys):
        future = concurrent.futures.Future()
        future.set_result(function(*arguments, **keys))
        return future


FAST = Tiles(128, 96, 4, 2, True, 1)
PARTS = [Part(S31, 64, False), Part(S31, 64, True)]


@pytest.fixture
def pretended(monkeypatch):
    """A compiler that finds 100 registers everywhere, a GPU on which FAST is fastest, and a reference that agrees."""
    measured = []

    def throughput(device, part, seqlen, candidates, effort, progress):
        measured.append((part, seqlen))
        return {one: 300.0 if one == FAST else 100.0 + one.Bc / 16 for one in candidates}

    monkeypatch.setattr(nvrtc, "run", lambda job: compiled_as(100))
    monkeypatch.setattr(gpu, "throughput", throughput)
    monkeypatch.setattr(gpu, "unsound", lambda part, tiles: None)
    return measured


def tune(table, parts=PARTS, finished=lambda part, dropped: None):
    return run.tune(parts, table, "90", Inline(), None, lambda part, what: None, finished)


def fresh(tmp_path, **changes):
    return tables.open_table(tmp_path / "nvidia-synthetic-9000.json", ENVIRONMENT | changes)


@needs_nvrtc
def test_a_run_chooses_records_and_can_be_read_back(pretended, tmp_path, monkeypatch):
    table = fresh(tmp_path)
    done = []
    assert tune(table, finished=lambda part, dropped: done.append((part, len(dropped)))) == []
    assert [part for part, _ in done] == PARTS
    again = tables.load(table.path)
    assert dataclasses.replace(again, runs=table.runs) == table
    (choice,) = again.of(PARTS[0], "chosen")
    assert Tiles(**choice["tiles"]) == FAST and choice["tflops"] == 300.0 and choice["default"] == 104.0
    first = again.of(PARTS[0], "candidates")[0]
    assert Tiles(**first["tiles"]) == FAST and first["registers"] == 100
    assert first["tflops"] == {"1024": 300.0, "4096": 300.0, "16384": 300.0}
    counts = again.of(PARTS[0], "dropped")[0]["by"]
    legal, dropped = space.split(PARTS[0], 90)
    assert counts["shared memory"] == sum(one.by == "shared memory" for one in dropped) and counts["same"] > 0
    measured = len(again.of(PARTS[0], "candidates"))
    assert measured + sum(counts.values()) == len(legal) + len(dropped)
    # And as the stages read it.
    monkeypatch.setattr(tiles, "TABLES", tmp_path)
    tiles._table.cache_clear()
    assert tiles._table("NVIDIA Synthetic 9000") == {part.key: FAST for part in PARTS}
    tiles._table.cache_clear()
    console = Console(width=200, no_color=True)
    with console.capture() as shown:
        console.print(show.best(again, PARTS[0]))
    assert "2.885" in shown.get() and "1.000" in shown.get()  # 300 / 104, and the default beside it


@needs_nvrtc
def test_a_run_goes_on_where_it_was_interrupted(pretended, tmp_path):
    def interrupt(part, dropped):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(fresh(tmp_path), finished=interrupt)
    table = fresh(tmp_path, date="2031-02-04T00:00:00+00:00")
    assert [table.has(part) for part in PARTS] == [True, False]
    pretended.clear()
    tune(table, [part for part in PARTS if not table.has(part)])
    assert {part for part, _ in pretended} == {PARTS[1]}
    again = tables.load(table.path)
    assert [table.environment_of(entry)["date"][8:10] for entry in again.chosen] == ["03", "04"]
    again.forget(PARTS[0])
    assert [again.has(part) for part in PARTS] == [False, True]


@needs_nvrtc
def test_other_stages_are_kept_and_a_changed_kernel_is_tuned_anew(pretended, tmp_path, monkeypatch):
    table = fresh(tmp_path)
    tune(table, [Part(S33, 64, False), PARTS[0]])
    monkeypatch.setattr(nvrtc, "source_hash", lambda stage: "changed" if stage is S31 else "other")
    assert not table.has(PARTS[0])
    tune(table, [PARTS[0]])
    assert table.has(PARTS[0])
    assert [tables.key_of(entry) for entry in tables.load(table.path).chosen] == [
        PARTS[0].key,
        ("s33_lazy_rescale", 64, False),
    ]


@needs_nvrtc
def test_what_the_reference_refuses_does_not_win(pretended, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "unsound", lambda part, one: Dropped(one, "wrong", "no") if one == FAST else None)
    table = fresh(tmp_path)
    tune(table, PARTS[:1])
    assert Tiles(**table.chosen[0]["tiles"]) != FAST and table.dropped[0]["by"]["wrong"] == 1
    monkeypatch.setattr(gpu, "unsound", lambda part, one: Dropped(one, "wrong", "no"))
    (problem,) = tune(table, PARTS[:1])
    assert "s31 d64: no configuration is left; dropped by" in problem
    assert len(table.chosen) == 1, "what was there is kept"


@needs_nvrtc
def test_what_takes_the_gpu_along_is_not_tried_again(pretended, tmp_path, monkeypatch):
    def throughput(device, part, seqlen, candidates, effort, progress):
        if FAST in candidates:
            raise gpu.ConfigurationLost("an illegal memory access", FAST)
        return {one: 100.0 for one in candidates}

    monkeypatch.setattr(gpu, "throughput", throughput)
    with pytest.raises(gpu.ConfigurationLost):
        tune(fresh(tmp_path), PARTS[:1])
    table = fresh(tmp_path)
    assert not table.has(PARTS[0])
    assert tune(table, PARTS[:1]) == []
    assert table.dropped[0]["by"]["lost the GPU"] == 1


def test_the_gpu_is_lost_to_a_configuration_by_name(monkeypatch):
    def lost(shape, stages, *rest):
        raise gpu.DeviceLost(f"{stages[1].name}: RuntimeError; after it the GPU no longer answers")

    monkeypatch.setattr(gpu, "measure", lost)
    with pytest.raises(gpu.ConfigurationLost) as caught:
        gpu.throughput(None, PART, 1024, GRID[:3], EFFORT, print)
    assert caught.value.tiles == GRID[1]


def test_measuring_forces_the_tiles_and_the_static_strides(monkeypatch):
    seen = []

    def measure(shape, stages, peers, device, dtype, effort, progress):
        for one in stages:
            one.attention()
        good = {"tflops": 5.0}
        return [{"name": stages[0].name} | good, {"name": stages[1].name, "error": "wrong: x"}]

    monkeypatch.setattr(gpu, "measure", measure)
    stage = type("Fake", (), {"attention": lambda self: seen.append((tiles._forced.get(), cuda._specialise.get()))})()
    found = gpu.throughput(None, Part(stage, 64, False), 1024, GRID[:2], EFFORT, print)
    assert found == {GRID[0]: 5.0, GRID[1]: "wrong: x"}
    assert seen == [(GRID[0], "now"), (GRID[1], "now")] and tiles._forced.get() is None


def test_admission_goes_down_the_ranking_and_keeps_the_compilers_busy(monkeypatch):
    monkeypatch.setattr(run, "SPARE", 1)
    monkeypatch.setattr(nvrtc, "run", lambda job: compiled_as(100))
    pruning = run.Pruning(PART, "90", Inline())
    bad = GRID[:4]
    monkeypatch.setattr(
        prune, "runs_clean", lambda item: Dropped(item[0], "spill", "") if item[0] in bad else Kept(item[0], 1)
    )
    calls = []
    admitted, refused = run.admit(pruning, GRID, 2, lambda: calls.append(1))
    assert (admitted, [one.tiles for one in refused], calls) == (GRID[4:6], bad, [1])


@needs_nvrtc
def test_the_symbol_of_a_cubin():
    made = nvrtc.run(prune.job(PART, PART.default, "90"))
    assert "attention_kernel" in gpu.symbol(made.cubin) and "Li2048ELi2048E" in gpu.symbol(made.cubin)
    with pytest.raises(ValueError, match="holds 0 kernels"):
        gpu.symbol(b"")


class Pretended(devices.Host):
    """The emulator as a GPU: what is measured there is of no interest."""

    where = "gpu"


def test_configurations_are_measured_by_the_benchmark(monkeypatch):
    place_or_skip(S31, "bfloat16")
    monkeypatch.setattr(gpu, "grid_shape", lambda *shape: Shape(1, 70, 70, 1, 1, *shape[1:]))
    good, bad = Tiles(64, 32, 4, 3, True, 2), Tiles(64, 64, 4, 2, True, 1)
    right = S31.attention

    def attention(q, k, v, **options):
        out, lse = right(q, k, v, **options)
        if tiles._forced.get() == bad:
            out[:, 7] += 1
        return out, lse

    stage = type("Fake", (), {"attention": staticmethod(attention)})()
    found = gpu.throughput(Pretended("x"), Part(stage, 64, True), 1024, [good, bad], Effort(1, 1, 1), lambda what: None)
    assert found[good] > 0 and found[bad].startswith("wrong: ")


def test_the_winner_is_checked_in_every_instantiation(monkeypatch):
    place_or_skip(S33, "bfloat16")
    monkeypatch.setattr(gpu, "WIDTH", 128)
    monkeypatch.setattr(gpu, "LENGTHS", ((33, 70), (70, 33), (1, 70)))
    part, launched = Part(S33, 64, True), set()
    honest = cuda._launch_in_emulator

    def noted(stage, call, name, *rest):
        launched.add(name)
        honest(stage, call, name, *rest)

    monkeypatch.setattr(cuda, "_launch_in_emulator", noted)
    chosen = Tiles(64, 32, 4, 2, False, 1)
    assert gpu.unsound(part, chosen) is None
    static = {one.instantiation.replace("2048", "128") for one in prune.all_jobs(part, chosen, "90")}
    assert launched == static

    def refuse(stage, case, attention):
        ok = not (case.dtype == "float16" and cuda._specialise.get() == "never" and case.seqlen_q == 1)
        return Verdict(ok, 1.0, 0.5, 0.0)

    problem = gpu.unsound(part, chosen, check=refuse)
    assert problem.by == "wrong" and problem.why.startswith("float16-d64-1x70-causal-h4/2")


@needs_nvrtc
def test_machine_code_comes_from_the_compilers_and_only_within(monkeypatch):
    from cupy_backends.cuda.api import driver

    did = []
    monkeypatch.setattr(nvrtc, "compile_for", lambda *what: nvrtc.Compiled(b"\0.text._Z1kv\0", str(what)))
    monkeypatch.setattr(driver, "moduleLoadData", lambda image: did.append(("load", image)) or 5)
    monkeypatch.setattr(driver, "moduleGetFunction", lambda module, name: did.append(("get", module, name)) or 7)
    monkeypatch.setattr(driver, "funcSetAttribute", lambda *what: did.append(("set", *what)))
    before = cuda._kernel
    with pytest.raises(KeyboardInterrupt), gpu.machine_code_of("90"):
        for _ in range(2):
            assert cuda._kernel(S31, "attention_kernel<...>", 99, 0) == 7
        raise KeyboardInterrupt
    attribute = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert did == [("load", b"\0.text._Z1kv\0"), ("get", 5, "_Z1kv"), ("set", 7, attribute, 99)]
    assert cuda._kernel is before


# -------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda data: data.pop("chosen"), "KeyError"),
        (lambda data: data["environment"].pop("device"), "KeyError"),
        (lambda data: data["chosen"].append(data["chosen"][0]), "two entries"),
        (lambda data: data["chosen"][0]["tiles"].update(Bc="64"), "Bc is '64'"),
        (lambda data: data["chosen"][0]["tiles"].pop("blocks"), "TypeError"),
        (lambda data: data["chosen"][0].update(causal=0), "causal is 0"),
        (lambda data: data["chosen"][0].update(tflops=0.0), "numbers above 0"),
        (lambda data: data["candidates"][0]["tflops"].update({"1024": None}), "numbers above 0"),
    ],
)
def test_a_damaged_file_is_named(spoil, says, tmp_path):
    table = filled(tmp_path)
    data = json.loads(table.path.read_text())
    spoil(data)
    table.path.write_text(json.dumps(data))
    with pytest.raises(ResultsError, match=rf"{table.path}: damaged: .*{says}"):
        tables.load(table.path)


def filled(tmp_path, best=FAST):
    table = fresh(tmp_path)
    outcome = Outcome({best: {1024: 1.0, 4096: 1.0, 16384: 1.0}}, [best])
    table.add(PART, "90", {best: Kept(best, 100)}, outcome, [Dropped(GRID[0], "spill", "")])
    return table


def test_a_file_of_another_device_is_not_gone_on_with(tmp_path):
    filled(tmp_path)
    with pytest.raises(ResultsError, match="is of NVIDIA Synthetic 9000, and this is Other"):
        fresh(tmp_path, device="Other")


def test_a_device_without_a_table_gets_the_default(monkeypatch, tmp_path):
    monkeypatch.setattr(tiles, "TABLES", tmp_path)
    tiles._table.cache_clear()
    assert tiles._table("NVIDIA Synthetic 9000") == {}
    tiles._table.cache_clear()
    assert tiles.table_file("NVIDIA H200").name == "nvidia-h200.json"


@pytest.mark.parametrize("kind, expected", [("gpu", FAST), ("emulator", PART.default)])
def test_the_choice_is_read_on_its_gpu_only(kind, expected, monkeypatch, tmp_path):
    filled(tmp_path)
    monkeypatch.setattr(tiles, "TABLES", tmp_path)
    monkeypatch.setattr(tiles, "_device_name", lambda index: "NVIDIA Synthetic 9000")
    tiles._table.cache_clear()
    device = type("Device", (), {"index": 0})
    call = type("Call", (), {"headdim": 64, "causal": False})()
    call.where, call.q = type("Where", (), {"kind": kind}), type("Q", (), {"device": device})
    assert tiles.chosen(S31, call, PART.default) == expected
    assert tiles.chosen(S33, call, PART.default) == PART.default
    with use(GRID[0]):
        assert tiles.chosen(S31, call, PART.default) == GRID[0]
    tiles._table.cache_clear()


# -------------------------------------------------------------------------------- the tables that are committed


def problems_of(table: tables.Table, stage: str | None = None) -> list[str]:
    """What is wrong with the choices of a file, of one stage or all."""
    there = {part.key: part for part in space.parts(space.tunable(), None, (False, True))}
    found = []
    for entry in table.chosen:
        key = tables.key_of(entry)
        if stage is not None and key[0] != stage:
            continue
        if key not in there:
            found.append(f"{key}: no such stage, or it takes no tiles at this head dim")
            continue
        arch = table.environment_of(entry)["compute_capability"].replace(".", "")
        found += [f"{key}: {why}" for why in prune.faults(there[key], Tiles(**entry["tiles"]), arch)]
    return found


def committed() -> list[tables.Table]:
    return [tables.load(path) for path in sorted(tiles.TABLES.glob("*.json"))]


@needs_nvrtc
@pytest.mark.parametrize("stage", space.tunable(), ids=lambda stage: stage.short)
def test_committed_choices_are_legal_and_do_not_spill(stage):
    assert [why for table in committed() for why in problems_of(table, stage.name)] == []


def test_committed_tables_are_where_their_devices_look_and_name_stages():
    known = {part.key for part in space.parts(space.tunable(), None, (False, True))}
    for table in committed():
        assert table.path == tiles.table_file(table.environment["device"])
        assert {tables.key_of(entry) for entry in table.chosen} <= known


@needs_nvrtc
def test_a_faulty_choice_would_be_found(tmp_path):
    table = filled(tmp_path, best=PART.default)
    assert problems_of(table) == []
    for spoil, says in (
        ({"headdim": 128, "tiles": dataclasses.asdict(SPILLS)}, "spills"),
        ({"tiles": dataclasses.asdict(Tiles(64, 64, 8, 2, True, 1))}, "not shared evenly"),
        ({"headdim": 96}, "no such stage"),
        ({"stage": "s34_gone"}, "no such stage"),
    ):
        spoiled = dataclasses.replace(table, chosen=[table.chosen[0] | spoil])
        assert len(found := problems_of(spoiled)) >= 1 and says in found[0]


# -------------------------------------------------------------------------------- the command


def ran(arguments, capsys) -> tuple[int, str, str]:
    try:
        code = command.main(arguments)
    except SystemExit as left:
        code = left.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@needs_nvrtc
@pytest.mark.parametrize(
    "arguments, says",
    [
        (["s30"], "s30_static_stride takes no tiles; accepted: s31, s32, s33, s34, "),
        (["s99"], "stage is 's99'"),
        (["s31", "--headdims", "96"], "argument --headdims: is '96'; accepted: 64, 128"),
        (["s31", "--explain", "--arch", "75"], "argument --arch: arch is '75'"),
        (["s31", "--arch", "90"], "--arch: goes with --compile-only"),
        (["s31", "--jobs", "0"], "argument --jobs: is 0"),
        (["s31", "--explain", "--out", "x.json"], "--out and --fresh go with measuring"),
        ([","], "names no stage"),
    ],
)
def test_wrong_arguments_are_named(arguments, says, capsys):
    code, _, err = ran(arguments, capsys)
    assert code == 2 and says in " ".join(err.split())


@needs_nvrtc
def test_explain_says_what_is_dropped_and_why(capsys):
    code, out, _ = ran(["s31", "--headdims", "128", "--causal", "no", "--explain", "--arch", "90a"], capsys)
    text = " ".join(out.replace("│", " ").split())
    assert code == 0 and "64 rows of Q are not shared evenly by 8 warps" in text
    legal, dropped = space.split(Part(S31, 128, False), 90)
    assert f"s31 d128, sm_90a: {len(legal)} are left; dropped by {show.counted(dropped)}" in out


@needs_nvrtc
def test_compile_only_judges_by_all_instantiations(capsys, monkeypatch):
    """On a small part of the space, in this process."""
    monkeypatch.setattr(space, "every", lambda: [SPILLS, Tiles(64, 32, 4, 2, True, 2), Tiles(64, 64, 8, 2, True, 1)])
    monkeypatch.setattr(nvrtc, "ProcessPoolExecutor", lambda *rest, **keys: Inline())
    arguments = ["s31", "--headdims", "128", "--causal", "no", "--compile-only", "--explain", "--arch", "90a"]
    code, out, _ = ran(arguments, capsys)
    assert code == 0 and "s31 d128, sm_90a: 2 are left; dropped by warps 1, spill 1" in out


@needs_nvrtc
def test_measuring_without_a_gpu_says_what_works(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = ran(["s31"], capsys)
    assert code == 2 and "--compile-only and --explain work without" in " ".join(err.split())


@needs_nvrtc
@pytest.mark.parametrize(
    "raised, code, says", [(KeyboardInterrupt, 130, "goes on from there"), (command.BrokenProcessPool, 1, "--jobs")]
)
def test_interruption_and_a_dead_compiler(raised, code, says, capsys, monkeypatch):
    def stop(*arguments):
        raise raised

    monkeypatch.setattr(command, "tune", stop)
    found, _, err = ran(["s31"], capsys)
    assert found == code and says in err


# -------------------------------------------------------------------------------- other tiles, in the emulator

CONFIGURATIONS = (
    Tiles(128, 64, 4, 2, False, 1),  # two m-tiles a warp, Q loaded again for every K/V tile
    Tiles(64, 32, 4, 3, True, 2),  # three buffers
    Tiles(64, 48, 4, 4, False, 1),  # four; Bc that is no power of two
    Tiles(128, 64, 8, 2, True, 1),  # eight warps
    Tiles(256, 32, 8, 3, False, 1),  # eight warps of two m-tiles
    Tiles(64, 16, 4, 2, True, 4),  # one k-step of P V, many tiles
)
CASES = (
    Case("bfloat16", 64, 203, 113, True, nheads=2, nheads_k=1),  # rows that see no key
    Case("float16", 128, 129, 257, True, family="spikes"),
    Case("bfloat16", 128, 130, 70, False, nheads=1, nheads_k=1, family="shifted"),
)


@pytest.mark.parametrize("asynchronous", ("late", "early"))
@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda one: one.argument.replace(" ", ""))
@pytest.mark.parametrize("stage", (S31, S33, S34), ids=lambda stage: stage.short)
def test_other_tiles_are_right(stage, configuration, asynchronous):
    for case in CASES:
        place_or_skip(stage, case.dtype)
        if configuration.why_not(case.headdim, 90):
            continue
        with use(configuration), emulate(asynchronous=asynchronous):
            verdict = check(stage, case)
        assert verdict.ok, f"{stage.name}, {configuration}, {case}: {verdict}"


def test_the_configurations_of_the_emulator_test_run_somewhere():
    for configuration in CONFIGURATIONS:
        assert configuration.why_not(64, 90) is None or configuration.why_not(128, 90) is None
    ran_at = [c.headdim for one in CONFIGURATIONS for c in CASES if not one.why_not(c.headdim, 90)]
    assert ran_at.count(64) >= 5 and ran_at.count(128) >= 8
