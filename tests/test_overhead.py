"""tools.overhead: samples in turns, data that is checked, and the host's path without a GPU. No time is judged."""

import dataclasses
import json

import pytest

from stages import STAGES, get
from stages.common import cuda
from stages.common.where import Where
from tests import synthetic
from tests.conftest import place_or_skip
from tools import figures, overhead, results


def document(us=9.75, device=synthetic.DEVICE, date=synthetic.RUN, name="s33_lazy_rescale"):
    return {
        "environment": {"device": device, "date": date},
        "records": [{"name": name, "us_median": us, "us_samples": [us]}],
    }


def test_every_sample_is_the_mean_of_calls_after_a_wait():
    events = []
    calls = {name: (lambda name=name: events.append(name)) for name in ("a", "b")}
    found = overhead.microseconds(calls, 3, 5, lambda: events.append("wait"))
    assert {name: len(samples) for name, samples in found.items()} == {"a": 3, "b": 3}
    assert all(sample > 0 for samples in found.values() for sample in samples)
    assert events[-1] == "wait" and len(events) == 6 * (1 + 5) + 1
    turns = [events[i : i + 6] for i in range(0, 36, 6)]
    assert all(turn[0] == "wait" and len(set(turn[1:])) == 1 for turn in turns)
    rounds = [{turns[2 * r][1], turns[2 * r + 1][1]} for r in range(3)]
    assert rounds == [{"a", "b"}] * 3


def test_records_are_of_the_samples():
    (record,) = overhead.records({"a": [1.0, 3.0, 2.0]})
    assert (record["us_median"], record["us_samples"]) == (2.0, [1.0, 3.0, 2.0])


def test_without_a_gpu_all_stages_are_timed(capsys, monkeypatch):
    monkeypatch.setattr(overhead, "CALLS", 2)
    assert overhead.main(["--without-gpu", "--samples", "1"]) == 0
    said = capsys.readouterr().out
    assert all(stage.name in said for stage in STAGES if stage.capability.backend == "cuda")
    assert not cuda._compiling or all(key[3] is not None for key in cuda._compiling), "what was pretended stays behind"


def test_without_a_gpu_nothing_is_written(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(overhead, "where", lambda stage, dtype=None: Where("emulator", "the emulator, on the CPU"))
    out = tmp_path / "o.json"
    assert overhead.main(["--out", str(out)]) == 1
    assert "needs a CUDA GPU; here: the emulator" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    "argv, says",
    (
        (["--stages", "s12"], "s12_triton_v2 is no CUDA stage"),
        (["--stages", "s99"], "stage is 's99'"),
        (["--samples", "0"], "argument --samples: is 0"),
        (["--without-gpu", "--out", "x.json"], "argument --out"),
        (["--without-gpu", "--first-call"], "argument --first-call"),
    ),
)
def test_wrong_arguments(argv, says, capsys):
    with pytest.raises(SystemExit) as exit_:
        overhead.main(argv)
    assert exit_.value.code == 2 and says in capsys.readouterr().err


def test_the_figure(tmp_path):
    file = tmp_path / "o.json"
    file.write_text(json.dumps(document()))
    data = figures.Data([], [], overheads=[overhead.load(file), document(us=5.0, date="2030")])
    assert figures.figure(data, "overhead", {"stage": "s33"}) == "9.75 µs"
    peer = figures.Data([], [], overheads=[document(name=overhead.SDPA)])
    assert figures.figure(peer, "overhead", {"stage": "torch_sdpa"}) == "9.75 µs"
    two = figures.Data([], [], overheads=[document(), document(device="Other")])
    assert figures.figure(two, "overhead", {"stage": "s33", "device": "other"}) == "9.75 µs"
    for data, says in ((two, "say which, by device="), (figures.Data([], []), "no overhead of s33_lazy_rescale")):
        with pytest.raises(figures.FigureError, match=says):
            figures.figure(data, "overhead", {"stage": "s33"})


# ---- first calls ----------------------------------------------------------------------------------------------------


def test_first_calls_are_cold_then_warm_in_an_empty_folder_each():
    seen = []

    def seconds(stage, folder):
        seen.append((stage.short, folder, [path.name for path in folder.iterdir()]))
        (folder / "compiled").touch()
        return 2.0 if len(seen) % 2 else 0.25

    made = overhead.first_calls([get("s20"), get("s33")], seconds)
    assert made == [{"name": get(s).name, "cold_s": 2.0, "warm_s": 0.25} for s in ("s20", "s33")]
    assert [(short, files) for short, _, files in seen] == [
        (short, files) for short in ("s20", "s33") for files in ([], ["compiled"])
    ]
    assert len({folder for _, folder, _ in seen}) == 2 and not any(folder.exists() for _, folder, _ in seen)


def test_a_first_call_is_timed_in_a_process_of_its_own(tmp_path):
    """In the emulator where there is no GPU."""
    place_or_skip(get("s33"), "float16")
    assert 0 < overhead.in_a_new_process(get("s33"), tmp_path) < 600
    with pytest.raises(RuntimeError, match="(?s)s99_none: .*stage is 's99_none'"):
        overhead.in_a_new_process(dataclasses.replace(get("s33"), number=99, name="s99_none"), tmp_path)


@pytest.fixture
def pretended_gpu(monkeypatch, tmp_path):
    """main with fixed times in place of a GPU's -> (exit code, the file)."""
    monkeypatch.setattr(overhead, "where", lambda stage, dtype=None: Where("gpu", "pretended"))
    monkeypatch.setattr(overhead, "in_a_new_process", lambda stage, folder: 1.5)
    monkeypatch.setattr(overhead, "_measured", lambda stages, samples: overhead.records({get("s33").name: [9.75]}))
    out = tmp_path / "overhead" / "o.json"
    return lambda *argv: (overhead.main([*argv, "--stages", "s33", "--out", str(out)]), out)


def test_both_measurements_share_a_file(pretended_gpu):
    for argv in (["--first-call"], [], ["--first-call"]):
        code, out = pretended_gpu(*argv)
        assert code == 0
    file = overhead.load(out)
    assert [record["us_median"] for record in file["records"]] == [9.75]
    assert file["first_calls"]["records"] == [{"name": "s33_lazy_rescale", "cold_s": 1.5, "warm_s": 1.5}]
    data = figures.Data([], [], overheads=[file])
    assert figures.figure(data, "first-call", {"stage": "s33", "when": "cold"}) == "1.5 s"
    for keys, says in (({"when": "hot"}, "when is 'hot'"), ({"when": "warm", "stage": "s20"}, "no overhead of s20")):
        with pytest.raises(figures.FigureError, match=says):
            figures.figure(data, "first-call", {"stage": "s33"} | keys)
    with pytest.raises(figures.FigureError, match="no overhead of"):
        figures.figure(figures.Data([], [], overheads=[document()]), "first-call", {"stage": "s33", "when": "warm"})


def test_a_first_call_that_fails_is_reported(pretended_gpu, monkeypatch, capsys):
    def fails(stage, folder):
        raise RuntimeError(f"{stage.name}: no memory")

    monkeypatch.setattr(overhead, "in_a_new_process", fails)
    code, out = pretended_gpu("--first-call")
    assert code == 1 and not out.exists() and "s33_lazy_rescale: no memory" in capsys.readouterr().err


def test_a_first_call_of_no_time_is_damage(tmp_path):
    file = tmp_path / "o.json"
    first = {"environment": {}, "records": [{"name": "s33", "cold_s": 0, "warm_s": 1.0}]}
    file.write_text(json.dumps(document() | {"first_calls": first}))
    with pytest.raises(results.ResultsError, match="o.json: damaged.*first call took 0"):
        overhead.load(file)


@pytest.mark.parametrize("text", ("{", "[]", '{"environment": {}}', json.dumps(document(us=float("nan")))))
def test_a_damaged_file_is_named(tmp_path, text):
    file = tmp_path / "o.json"
    file.write_text(text)
    with pytest.raises(results.ResultsError, match="o.json: damaged"):
        overhead.load(file)
    with pytest.raises(results.ResultsError, match="cannot be read"):
        overhead.load(tmp_path / "gone.json")
