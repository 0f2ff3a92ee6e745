"""tools.overhead: samples in turns, data that is checked, and the host's path without a GPU. No time is judged."""

import json

import pytest

from stages import STAGES
from stages.common import cuda
from stages.common.where import Where
from tests import synthetic
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
    two = figures.Data([], [], overheads=[document(), document(device="Other")])
    assert figures.figure(two, "overhead", {"stage": "s33", "device": "other"}) == "9.75 µs"
    for data, says in ((two, "say which, by device="), (figures.Data([], []), "no overhead of s33_lazy_rescale")):
        with pytest.raises(figures.FigureError, match=says):
            figures.figure(data, "overhead", {"stage": "s33"})


@pytest.mark.parametrize("text", ("{", "[]", '{"environment": {}}', json.dumps(document(us=float("nan")))))
def test_a_damaged_file_is_named(tmp_path, text):
    file = tmp_path / "o.json"
    file.write_text(text)
    with pytest.raises(results.ResultsError, match="o.json: damaged"):
        overhead.load(file)
    with pytest.raises(results.ResultsError, match="cannot be read"):
        overhead.load(tmp_path / "gone.json")
