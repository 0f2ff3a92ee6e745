"""The benchmark, without a GPU: what it plans, checks, records and keeps; on a GPU that is only pretended."""

import dataclasses
import json
import math
import time
import types

import numpy as np
import pytest
import torch

from reference import oracle
from stages import Capability, Unsupported, get
from stages.common.where import Where
from tests import synthetic
from tools import results
from tools.bench import __main__ as cli
from tools.bench import devices, measure, peers, report
from tools.bench.measure import Effort, in_turns
from tools.bench.run import Job, ResultsFile, newest_of, run
from tools.bench.shapes import Shape, gpu_grid, grid_shape, harmonic_mean, numpy_shape, on_grid

SMALL = Shape(2, 32, 32, 2, 2, 16, False)
FEW = Effort(rounds=3, budget_ms=1e9, least=1)


def right(q, k, v, *, causal=False, softmax_scale=None, out=None, lse=None):
    """The oracle as a stage."""
    tensors = [torch.as_tensor(t) for t in (q, k, v)]
    result, logs = oracle(*tensors, causal=causal, softmax_scale=softmax_scale)
    out = torch.empty_like(tensors[0]) if out is None else out
    lse = torch.empty(logs.shape) if lse is None else lse
    if isinstance(out, np.ndarray):
        out[:], lse[:] = result.numpy(), logs.numpy()
    else:
        out.copy_(result)
        lse.copy_(logs)
    return out, lse


def changed(change):
    """`right`, and then something done to its outputs."""

    def attention(*args, **keys):
        out, lse = right(*args, **keys)
        change(out, lse)
        return out, lse

    return attention


def spoil(index, value, name="out"):
    def change(out, lse):
        {"out": out, "lse": lse}[name][index] = value

    return change


@dataclasses.dataclass(frozen=True)
class Fake:
    """What the benchmark asks of a stage."""

    name: str
    attention: object = right
    number: int = 90
    capability: Capability = Capability("numpy", ("float32", "bfloat16"))


def benchmark(*stages, shape=SMALL, peer_names=(), device=None, dtype=torch.float32):
    device = device or devices.Host("a host")
    records = measure.measure(shape, stages, peer_names, device, dtype, FEW)
    assert all(results._problem(record) == "" for record in records)
    return {record["name"]: record for record in records}


def test_standard_grid():
    grid = gpu_grid()
    assert len(grid) == len(set(grid)) == 24
    assert {shape.batch * shape.seqlen_q for shape in grid} == {16384}
    assert {shape.nheads * shape.headdim for shape in grid} == {2048}
    assert {shape.seqlen_q for shape in grid} == {512, 1024, 2048, 4096, 8192, 16384}


def test_flops():
    assert Shape(1, 4096, 4096, 16, 16, 128, False).flops == 4 * 4096**2 * 128 * 16
    assert Shape(3, 4096, 4096, 16, 16, 128, True).flops == 3 * 2 * 4096**2 * 128 * 16
    one = Shape(1, 1, 1000, 1, 1, 1, True)  # a single query sees all keys but half of its own
    assert one.flops == 4 * 999.5
    assert Shape(1, 1000, 10, 1, 1, 1, True).flops == 4 * 50


def test_harmonic_mean():
    assert harmonic_mean([1, 3]) == 1.5
    for bad in ([], [1, math.nan], [1, 0], [math.inf]):
        with pytest.raises(ValueError, match="values are"):
            harmonic_mean(bad)


@pytest.mark.parametrize(
    "text, says",
    [
        ("1,2,3", "3 fields"),
        ("1,2,2,3,2,64,no", "multiple of nheads_k"),
        ("0,2,2,2,2,64,no", "batch is 0"),
        ("1,x,2,2,2,64,no", "seqlen_q is 'x'"),
        ("1,2,2,2,2,64,maybe", "causal is 'maybe'"),
    ],
)
def test_bad_shapes_are_named(text, says):
    with pytest.raises(ValueError, match=says):
        Shape.parse(text)


def test_shape_from_text():
    assert Shape.parse("2, 4096,1024,16,4,128,yes") == Shape(2, 4096, 1024, 16, 4, 128, True)


def test_turns_are_spread():
    turns = list(in_turns({"fast": 30, "slow": 5, "mid": 10}))
    counts = {name: sum(name in turn for turn in turns) for name in ("fast", "slow", "mid")}
    assert counts == {"fast": 30, "slow": 5, "mid": 10}
    rounds_of_slow = [i for i, turn in enumerate(turns) if "slow" in turn]
    assert {b - a for a, b in zip(rounds_of_slow, rounds_of_slow[1:], strict=False)} == {6}
    assert len({tuple(turn) for turn in turns if len(turn) == 3}) > 1  # not always in the same order
    assert list(in_turns({})) == []


def test_number_of_samples():
    effort = Effort()
    assert [effort.samples(ms) for ms in (0.0, 0.1, 50, 900, 1e6)] == [30, 30, 20, 5, 5]


def test_record_of_a_right_stage():
    record = benchmark(Fake("s90_right"), shape=dataclasses.replace(SMALL, causal=True, nheads=4))["s90_right"]
    assert record["kind"] == "stage" and record["where"] == "host" and record["device"] == "a host"
    assert (record["batch"], record["nheads"], record["nheads_k"], record["headdim"]) == (2, 4, 2, 16)
    assert record["dtype"] == "float32" and record["mode"] == "fwd" and record["causal"] is True
    assert len(record["ms_samples"]) == 3 and record["ms_p10"] <= record["ms_median"] <= record["ms_p90"]
    assert record["tflops"] == pytest.approx(2 * 32**2 * 16 * 4 * 2 / record["ms_median"] / 1e9, rel=1e-4)
    assert 0 <= record["max_error"] <= record["bound"] < 1e-4


@pytest.mark.parametrize(
    "name, attention",
    [
        ("zeros", changed(spoil(..., 0))),
        ("one row of NaN in a head that is not judged", changed(spoil((0, 3, 0), torch.nan))),
        ("last head", changed(spoil((1, slice(None), 1), 0.5))),
        ("lse in log2", changed(lambda out, lse: lse.__imul__(1 / math.log(2)))),
        ("lse of NaN", changed(spoil(..., torch.nan, "lse"))),
        ("nothing written", lambda q, k, v, *, causal, out=None, lse=None: (out, lse)),
        ("other outputs", lambda q, k, v, *, causal, out=None, lse=None: right(q, k, v, causal=causal)),
    ],
)
def test_wrong_stage_is_caught(name, attention):
    records = benchmark(Fake("s90_right"), Fake("s91_wrong", attention))
    assert records["s91_wrong"]["error"].startswith("wrong: ")
    assert "ms_median" not in records["s91_wrong"] and "tflops" not in records["s91_wrong"]
    assert "error" not in records["s90_right"]


def test_the_last_head_is_always_judged():
    shape = Shape(8, 16, 16, 8, 8, 16, False)
    wrong = Fake("s91_wrong", changed(spoil((-1, slice(None), -1), 0.5)))
    assert "at batch 7, head 7" in benchmark(wrong, shape=shape)["s91_wrong"]["error"]


def test_stage_that_turns_wrong_while_timed_is_caught():
    calls = []

    def attention(*args, **keys):
        calls.append(1)
        out, lse = right(*args, **keys)
        return (out, lse) if len(calls) < 5 else (out.zero_(), lse)

    record = benchmark(Fake("s91_tiring", attention))["s91_tiring"]
    assert record["error"].startswith("wrong: at batch") and "ms_median" not in record


def test_stage_that_raises_does_not_stop_the_others():
    def attention(*args, **keys):
        raise Unsupported("q has dtype complex; accepted: none")

    def full(*args, **keys):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    records = benchmark(Fake("s91_raising", attention), Fake("s92_full", full), Fake("s93_right"))
    assert records["s91_raising"]["error"] == "Unsupported: q has dtype complex; accepted: none"
    assert records["s92_full"]["error"] == "out of memory"
    assert "error" not in records["s93_right"]


def test_stage_that_fails_between_two_samples():
    calls = []

    def attention(*args, **keys):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("no more")
        return right(*args, **keys)

    records = benchmark(Fake("s91_raising", attention), Fake("s92_right"))
    assert records["s91_raising"]["error"] == "RuntimeError: no more"
    assert len(records["s92_right"]["ms_samples"]) == 3


def test_inputs_that_do_not_fit():
    class Full(devices.Host):
        def inputs(self, shape, dtype):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    records = benchmark(Fake("s90_right"), peer_names=["torch_math"], device=Full("a host"))
    assert [record["error"] for record in records.values()] == ["inputs: out of memory"] * 2


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("nheads_k", [4, 2])
def test_peers_that_run_on_the_cpu_are_right(causal, nheads_k, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    shape = dataclasses.replace(SMALL, causal=causal, nheads=4, nheads_k=nheads_k)
    records = benchmark(shape=shape, peer_names=peers.PEERS)
    assert list(records) == list(peers.PEERS)
    for name in ("torch_fa2", "torch_math", "flex"):
        assert records[name]["kind"] == "peer" and "error" not in records[name], records[name]
        assert records[name]["max_error"] < 1e-5
    assert "ms_median" not in records["torch_cudnn"] and "backend" in records["torch_cudnn"]["error"]


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_peer_that_is_no_attention_is_refused(monkeypatch, value):
    monkeypatch.setattr(peers, "build", lambda name, shape, q, k, v: lambda: torch.full_like(q, value))
    record = benchmark(peer_names=["torch_fa2"])["torch_fa2"]
    assert record["error"].startswith("wrong: ") and "ms_median" not in record


def test_peer_whose_mask_is_another_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    records = benchmark(shape=Shape(1, 16, 40, 2, 2, 16, True), peer_names=("torch_math", "flex"))
    assert "top-left" in records["torch_math"]["error"]
    assert "error" not in records["flex"]


def test_why_a_backend_refuses_goes_with_the_error():
    with peers.quiet() as caught:
        import warnings

        warnings.warn("cuDNN attention kernel not used because: (Triggered internally at a.cpp:1.)", stacklevel=1)
        warnings.warn("Flash attention has been runtime disabled. (Triggered internally at a.cpp:2.)", stacklevel=1)
        warnings.warn("Head dim 24 is no multiple\nof 8. (Triggered internally at a.cpp:3.)", stacklevel=1)
    assert peers.reasons(caught) == "Head dim 24 is no multiple of 8."


def test_memory_of_the_numpy_stages():
    """s01 holds the S×S matrix, s02 nothing of that size: quadruple and double when the length doubles."""
    host = devices.Host("a host")
    peaks = {}
    for name in ("s01", "s02"):
        stage = get(name)
        for n in (512, 1024):
            records = measure.measure(numpy_shape(n, 16, False), [stage], [], host, torch.float32, Effort(1, 1, 1))
            peaks[name, n] = records[0]["peak_bytes"]
    assert 3.5 < peaks["s01", 1024] / peaks["s01", 512] < 4.1
    assert 1.5 < peaks["s02", 1024] / peaks["s02", 512] < 2.1
    outputs = 1024 * 2 * (16 * 4 + 4)
    assert peaks["s01", 1024] > outputs + 4 * 1024**2
    assert outputs <= peaks["s02", 1024] < outputs + 500_000


# Files.


def job(shape=SMALL, stages=(Fake("s90_right"),), peer_names=()):
    return Job(shape, tuple(stages), tuple(peer_names), devices.Host("a host"), torch.float32, FEW)


def env(day):
    return {"device": "a host", "date": f"2031-01-{day:02d}T00:00:00+00:00"}


LONGER = dataclasses.replace(SMALL, seqlen_q=48, seqlen_k=48)


def test_a_run_is_resumed(tmp_path):
    path = tmp_path / "r.json"
    run([job()], ResultsFile.open(path, env(1)))
    measured = []
    run(
        [job(), job(LONGER)],
        ResultsFile.open(path, env(2)),
        finished=lambda job, records: measured.append(job.shape),
    )
    assert measured == [LONGER]
    file = results.load(path)
    assert [(r["seqlen_q"], r["run"]) for r in file.records] == [(32, env(1)["date"]), (48, env(2)["date"])]
    assert file.environment == env(2) and file.runs == {env(1)["date"]: env(1)}
    assert file.environment_of(file.records[0]) == env(1) and file.environment_of(file.records[1]) == env(2)


def test_fresh_starts_over(tmp_path):
    path = tmp_path / "r.json"
    run([job()], ResultsFile.open(path, env(1)))
    run([job(LONGER)], ResultsFile.open(path, env(2), fresh=True))
    assert [r["seqlen_q"] for r in results.load(path).records] == [48]


def test_an_interrupt_keeps_finished_shapes(tmp_path):
    path = tmp_path / "r.json"

    def interrupted(*args, **keys):
        raise KeyboardInterrupt

    jobs = [job(), job(LONGER, [Fake("s90_right"), Fake("s91_slow", interrupted)])]
    with pytest.raises(KeyboardInterrupt):
        run(jobs, ResultsFile.open(path, env(1)))
    assert [(r["name"], r["seqlen_q"]) for r in results.load(path).records] == [("s90_right", 32)]
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_file_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    run([job()], ResultsFile.open(path, env(1)))
    before = path.read_bytes()
    with pytest.raises(ValueError):  # NaN is no JSON
        results.save(path, env(2), {}, [{"run": "x", "ms_median": math.nan}])
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        results.save(path, env(2), {}, [])
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_an_older_run_goes_only_when_the_new_one_has_all_of_it(tmp_path):
    path = tmp_path / "r.json"
    two = [Fake("s90_right"), Fake("s91_right")]
    run([job(stages=two)], ResultsFile.open(path, env(1)))
    assert ResultsFile.open(path, env(2)).has(job())  # a part of what there is
    run([job(stages=[Fake("s90_right"), Fake("s92_right")])], ResultsFile.open(path, env(2)))
    there = [(r["name"], r["run"][8:10]) for r in results.load(path).records]
    assert there == [("s90_right", "01"), ("s91_right", "01"), ("s90_right", "02"), ("s92_right", "02")]
    run([job(stages=[*two, Fake("s92_right")])], ResultsFile.open(path, env(3)))
    records = results.load(path).records
    assert {r["run"][8:10] for r in records} == {"03"}
    assert newest_of([job()], records) == records[:1]


def test_a_failed_stage_is_measured_again_and_a_failed_peer_is_not(tmp_path):
    path = tmp_path / "r.json"
    wrong = [Fake("s90_right", changed(spoil(..., 0)))]
    run([job(stages=wrong)], ResultsFile.open(path, env(1)))
    assert not ResultsFile.open(path, env(2)).has(job())
    run([job(peer_names=["torch_cudnn"])], ResultsFile.open(path, env(2)))
    file = ResultsFile.open(path, env(3))
    assert file.has(job(peer_names=["torch_cudnn"]))
    assert {r["run"] for r in file.records} == {env(2)["date"]}


def save(path, records, **changes):
    results.save(path, synthetic.environment(**changes), {}, records)
    return path


def test_results_go_there_and_back(tmp_path):
    path = save(tmp_path / "r.json", synthetic.records())
    assert results.load(path).records == synthetic.records()


@pytest.mark.parametrize(
    "text, says",
    [
        ("{", "not JSON"),
        ("[]", "holds a list"),
        ('{"records": []}', "environment is missing"),
        ('{"environment": {"device": "x"}, "records": []}', "environment has no date"),
        (b"\xff\xfe", "damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path, text, says):
    path = tmp_path / "broken.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(results.ResultsError, match=says) as caught:
        results.load(path)
    assert "broken.json" in str(caught.value)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"ms_median": math.nan}, "ms_median is nan"),
        ({"tflops": 0}, "tflops is 0"),
        ({"ms_samples": []}, "ms_samples"),
        ({"ms_samples": [1.0, math.nan]}, "ms_samples"),
        ({"max_error": None}, "max_error is None"),
        ({"causal": 1}, "causal is 1"),
        ({"headdim": "64"}, "headdim is '64'"),
        ({"kind": "friend"}, "kind is 'friend'"),
        ({"error": ""}, "error"),
    ],
)
def test_damaged_records_are_named(tmp_path, change, says):
    records = synthetic.records()[:3]
    records[1] |= change
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({"environment": synthetic.environment(), "records": records}))
    with pytest.raises(results.ResultsError, match=says) as caught:
        results.load(path)
    assert "broken.json: record 1 (" in str(caught.value)


@pytest.mark.parametrize("key", ["name", "device", "seqlen_k", "causal", "mode"])
def test_missing_keys_are_named(tmp_path, key):
    records = synthetic.records()[:1]
    del records[0][key]
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({"environment": synthetic.environment(), "records": records}))
    with pytest.raises(results.ResultsError, match=f"has no {key}"):
        results.load(path)


# Figures.


def test_ratio_is_the_harmonic_mean_over_1k_to_16k():
    factors = {512: 100.0, 1024: 1.0, 2048: 2.0, 4096: 4.0, 8192: 4.0, 16384: 4.0}
    records = []
    for seqlen, factor in factors.items():
        shape = grid_shape(seqlen, 128, False)
        records.append(synthetic.record("torch_fa2", shape, 300))
        records.append(synthetic.record("s12_triton_v2", shape, 300 * factor))
    expected = 5 / (1 + 1 / 2 + 3 / 4)
    assert results.ratio(records, "s12", "torch_fa2", headdim=128, causal=False) == pytest.approx(expected)
    assert results.ratio(
        records, "s12_triton_v2", "torch_fa2", headdim=128, causal=False, seqlens=(512,)
    ) == pytest.approx(100)
    with pytest.raises(results.NoData, match="seqlen=16384"):
        results.ratio(records[:-1], "s12", "torch_fa2", headdim=128, causal=False)
    with pytest.raises(results.NoData, match="causal=True"):
        results.ratio(records, "s12", "torch_fa2", headdim=128, causal=True)


def test_ratios_pair_records_of_one_run_only():
    shape = grid_shape(4096, 128, False)
    old, new = "2031-01-01", "2031-01-02"
    records = [
        synthetic.record("torch_fa2", shape, 100, run=old),
        synthetic.record("s12_triton_v2", shape, 50, run=old),
        synthetic.record("torch_fa2", shape, 400, run=new),
        synthetic.record("s13_triton_tuned", shape, 600, run=new),
        synthetic.record("s20_mma", shape, 60, run="2031-01-03"),
    ]
    one = {"headdim": 128, "causal": False, "seqlens": (4096,)}
    assert results.ratio(records, "s12", "torch_fa2", **one) == pytest.approx(0.5)
    assert results.ratio(records, "s13", "torch_fa2", **one) == pytest.approx(1.5)
    with pytest.raises(results.NoData, match="no run timed both"):
        results.ratio(records, "s20", "torch_fa2", **one)
    assert results.entry(records, "torch_fa2")["run"] == new


def test_a_failed_record_is_no_entry():
    shape = grid_shape(4096, 128, False)
    records = [synthetic.failed(synthetic.record("torch_math", shape, 10))]
    with pytest.raises(results.NoData, match="torch_math seqlen=4096"):
        results.entry(records, "torch_math", seqlen=4096)


def test_an_ambiguous_question_is_refused():
    records = synthetic.gpu_records()
    with pytest.raises(results.NoData, match="differ in .*causal: False, True"):
        results.entry(records, "s12", seqlen=4096, headdim=128)


def test_percentiles():
    assert [results.percentile([4, 1, 3, 2, 5], p) for p in (0, 10, 50, 90, 100)] == [1, 1.4, 3, 4.6, 5]
    shape = grid_shape(4096, 128, False)
    assert results.spread(synthetic.record("torch_fa2", shape, 100)) == pytest.approx(0.02)


def test_numbers_have_three_digits():
    shown = [report.three_digits(x) for x in (0.04567, 0.1234, 0.9999, 1.234, 9.996, 12.34, 99.96, 123.4, 1234)]
    assert shown == ["0.046", "0.123", "1.00", "1.23", "10.0", "12.3", "100", "123", "1234"]
    times = [report.milliseconds(ms) for ms in (0.0123, 1.234, 1234.0)]
    assert times == ["12.3 µs", "1.23 ms", "1.23 s"]
    assert [report.mebibytes(b) for b in (2**20, 2**30, 2**34)] == ["1.00 MiB", "1024 MiB", "16.0 GiB"]


def test_only_the_grids_are_quoted():
    shape = grid_shape(4096, 128, False)
    assert on_grid(synthetic.record("torch_fa2", shape, 1))
    assert not on_grid(synthetic.record("torch_fa2", dataclasses.replace(shape, batch=1), 1))
    assert not on_grid(synthetic.record("torch_fa2", dataclasses.replace(shape, nheads_k=1), 1))


# The command.


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("stages.common.where.gpu_arch", lambda: None)  # cached, where there is one


def usage_error(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    assert exit_.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--stages", "s12,s99"], "argument --stages: stage is 's99'"),
        (["--stages", ","], "argument --stages: ',' names no stage"),
        (["--peers", "torch_fa9"], "argument --peers: peer is 'torch_fa9'"),
        (["--shapes", "1,2,3"], "argument --shapes: '1,2,3' has 3 fields"),
        (["--shapes", "1,64,64,2,2,16,no", "--quick"], "argument --shapes: shapes of your own go without"),
        (["--seqlens", "0"], "argument --seqlens: '0'"),
        (["--headdims", "64,x"], "argument --headdims: 'x'"),
        (["--dtype", "int8"], "argument --dtype"),
        (["--out", "."], "argument --out: . is a folder"),
        (["--device", "gpu"], "argument --device: is gpu, and PyTorch finds no CUDA GPU"),
        (["--stages", "s12"], "argument --stages: s12_triton_v2: is timed on a CUDA GPU only"),
        (["--stages", "none"], "leave nothing to time"),
    ],
)
def test_wrong_arguments_are_named(capsys, no_gpu, argv, says):
    assert says in usage_error(capsys, *argv)


def test_a_gpu_stage_is_refused_with_device_cpu(capsys):
    assert "--device is cpu" in usage_error(capsys, "--stages", "s12", "--device", "cpu")


def test_without_a_gpu_the_numpy_stages_are_timed(capsys, no_gpu):
    argv = ["--seqlens", "64,128", "--out", "r.json"]
    assert cli.main(argv) == 0
    shown = capsys.readouterr()
    assert "PyTorch finds no CUDA GPU" in shown.err and "s02_online_softmax" in shown.out
    file = results.load("r.json")
    there = {(r["name"], r["seqlen_q"], r["where"], r["dtype"]) for r in file.records}
    assert there == {(name, n, "host", "float32") for name in ("s01_naive", "s02_online_softmax") for n in (64, 128)}
    assert {"device", "date", "commit", "torch", "clocks"} <= set(file.environment)
    before = file.path.read_bytes()
    assert cli.main(argv) == 0
    assert "2 of 2 shapes are in r.json already" in capsys.readouterr().err
    assert file.path.read_bytes() == before


def test_the_default_file_is_named_after_device_and_date(no_gpu, tmp_path):
    assert cli.main(["--stages", "s02", "--seqlens", "64"]) == 0
    (path,) = (tmp_path / "bench-results").glob("*.json")
    date = results.load(path).environment["date"][:10]
    assert path.name == f"{results.slug(results.load(path).environment['device'])}-{date}.json"


def test_a_damaged_file_is_not_overwritten_unless_fresh(capsys, no_gpu, tmp_path):
    (tmp_path / "r.json").write_text("{")
    argv = ["--stages", "s02", "--seqlens", "64", "--out", "r.json"]
    assert "r.json: damaged" in usage_error(capsys, *argv)
    assert (tmp_path / "r.json").read_text() == "{"
    assert cli.main([*argv, "--fresh"]) == 0


def pretend(monkeypatch, *stages):
    """Let the command know these stages only."""
    monkeypatch.setattr(cli, "STAGES", stages)
    on_gpu = {stage.name for stage in stages if stage.capability.backend != "numpy"}
    place = {True: Where("gpu", "the GPU"), False: Where("host", "NumPy")}
    monkeypatch.setattr(cli, "where", lambda stage, dtype: place[stage.name in on_gpu])


def test_a_wrong_stage_makes_the_command_fail(capsys, no_gpu, monkeypatch):
    pretend(monkeypatch, Fake("s90_right"), Fake("s91_wrong", changed(spoil(..., 0))))
    assert cli.main(["--seqlens", "64", "--out", "r.json"]) == 1
    shown = capsys.readouterr()
    assert "s91_wrong at seqlen 64" in shown.err and "wrong: at batch 0" in shown.err
    assert [results.is_timed(r) for r in results.load("r.json").records] == [True, False]


def test_ctrl_c_exits_130_and_keeps_what_is_done(no_gpu, monkeypatch, capsys):
    def attention(q, *args, **keys):
        if q.shape[1] == 128:
            raise KeyboardInterrupt
        return right(q, *args, **keys)

    pretend(monkeypatch, Fake("s90_interrupted", attention))
    assert cli.main(["--seqlens", "64,128", "--out", "r.json"]) == 130
    assert [r["seqlen_q"] for r in results.load("r.json").records] == [64]
    assert "Interrupted" in capsys.readouterr().err


# A GPU that is only pretended: PyTorch's CUDA calls answer, and the tensors are on the CPU.


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, end):
        return 1e3 * (end.at - self.at)


@pytest.fixture
def fake_gpu(monkeypatch):
    properties = types.SimpleNamespace(
        name="NVIDIA Pretended 1", multi_processor_count=7, L2_cache_size=1 << 10, uuid=None
    )
    answers = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "get_device_properties": lambda device: properties,
        "synchronize": lambda: None,
        "memory_allocated": lambda: 1000,
        "max_memory_allocated": lambda: 5000,
        "reset_peak_memory_stats": lambda: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda: (1 << 20, 1 << 20),
        "Event": Event,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(devices, "FLUSH_BYTES", 1 << 16)
    monkeypatch.setattr(devices, "MATMUL_SIZE", 64)
    monkeypatch.setattr(devices.Gpu, "torch_device", torch.device("cpu"))
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(cli, "environment", lambda: synthetic.environment(device=properties.name))
    return properties.name


def on_gpu(name, attention=right, headdims=(64, 128)):
    return Fake(name, attention, capability=Capability("triton", ("bfloat16",), headdims, 75))


def test_a_run_on_a_gpu(fake_gpu, monkeypatch, capsys):
    pretend(monkeypatch, Fake("s89_numpy"), on_gpu("s90_right"), on_gpu("s91_narrow", headdims=(64,)))
    shapes = ["1,48,48,2,2,64,no", "1,48,48,2,1,128,yes"]
    assert cli.main(["--shapes", *shapes, "--out", "r.json"]) == 0
    file = results.load("r.json")
    names = [(r["headdim"], r["name"]) for r in file.records]
    assert names == [
        *((64, name) for name in ("s90_right", "s91_narrow", *peers.PEERS)),
        *((128, name) for name in ("s90_right", *peers.PEERS)),
    ]
    timed = [r for r in file.records if results.is_timed(r)]
    assert {r["name"] for r in timed} == {"s90_right", "s91_narrow", "torch_fa2", "torch_math", "flex"}
    assert {(r["device"], r["where"], r["dtype"], r["peak_bytes"]) for r in timed} == {
        (fake_gpu, "gpu", "bfloat16", 4000)
    }
    assert file.environment["sms"] == 7
    assert file.environment["ceilings"]["matmul_dtype"] == "bfloat16"
    assert min(file.environment["ceilings"][key] for key in ("copy_tb_per_s", "matmul_tflops")) > 0
    shown = capsys.readouterr()
    assert "torch_cudnn at seqlen 48" in shown.err  # refused here, and the run went on
    assert "Other shapes" in shown.out


def test_gpu_and_numpy_grids_share_a_file(fake_gpu, monkeypatch, capsys):
    pretend(monkeypatch, Fake("s89_numpy"), on_gpu("s90_right"))
    monkeypatch.setattr("tools.bench.shapes.TOKENS", 64)
    monkeypatch.setattr("tools.bench.shapes.WIDTH", 64)
    argv = ["--seqlens", "32,64", "--headdims", "64", "--peers", "torch_fa2", "--out", "r.json"]
    assert cli.main([*argv, "--causal", "no"]) == 0
    there = [(r["name"], r["where"], r["batch"], r["seqlen_q"], r["nheads"]) for r in results.load("r.json").records]
    assert there == [
        ("s89_numpy", "host", 1, 32, 2),
        ("s89_numpy", "host", 1, 64, 2),
        ("s90_right", "gpu", 2, 32, 1),
        ("torch_fa2", "gpu", 2, 32, 1),
        ("s90_right", "gpu", 1, 64, 1),
        ("torch_fa2", "gpu", 1, 64, 1),
    ]
    assert "TFLOP/s, head dim 64, not causal, bfloat16" in capsys.readouterr().out


def test_a_gpu_that_is_lost_stops_the_run(fake_gpu, monkeypatch, capsys):
    lost = []

    def synchronize():
        if lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    def attention(q, *args, **keys):
        if q.shape[1] == 64:
            lost.append(1)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return right(q, *args, **keys)

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    pretend(monkeypatch, on_gpu("s90_wild", attention))
    shapes = ["1,32,32,1,1,64,no", "1,64,64,1,1,64,no", "1,96,96,1,1,64,no"]
    assert cli.main(["--shapes", *shapes, "--peers", "none", "--out", "r.json"]) == 1
    assert [r["seqlen_q"] for r in results.load("r.json").records] == [32]
    assert "s90_wild: RuntimeError: CUDA error" in capsys.readouterr().err


def test_a_launch_is_hidden_behind_the_flush(fake_gpu):
    gpu = devices.Gpu()
    gpu._flush_ms = 0.5
    gpu.warm_up(lambda: time.sleep(0.01))
    assert gpu._writes >= 2 * 10 / 0.5
    gpu.new_shape()
    assert gpu._writes == 1
