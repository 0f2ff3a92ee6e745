"""The plots and what they count: drawn from made-up results, the same every time, and whole or not at all."""

import dataclasses
import json
import xml.etree.ElementTree
from pathlib import Path

import matplotlib
import pytest
from matplotlib.colors import to_rgb

from stages import get
from tests import synthetic
from tools import results
from tools.bench.shapes import Shape, grid_shape
from tools.plot import __main__ as cli
from tools.plot import charts, devices, style, traffic

NAME = "synthetic-9000"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "synthetic.json"
    results.save(path, synthetic.environment(), {}, synthetic.records())
    return path


@pytest.fixture
def sheet(file):
    (one,) = charts.sheets([results.load(file)])
    return one


@pytest.fixture(scope="module")
def drawn():
    """Every chart of the made-up results, as the command draws it. Not to be changed."""
    environment = synthetic.environment()
    file = results.Results(Path("synthetic.json"), environment, {}, synthetic.records())
    (sheet,) = charts.sheets([file])
    with matplotlib.rc_context(style.SETTINGS):
        return {name: chart(sheet) for name, chart in charts.CHARTS.items()}


def texts(fig) -> set[str]:
    """Every text that a figure shows."""
    return {text.get_text() for text in fig.findobj(match=lambda artist: hasattr(artist, "get_text"))}


def test_all_plots_are_drawn(file, drawn, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(charts, "CHARTS", {name: lambda sheet, fig=fig: fig for name, fig in drawn.items()})
    assert cli.main(["--results", str(file), "--out", str(tmp_path / "plots")]) == 0
    written = {path.name for path in (tmp_path / "plots").iterdir()}
    assert written == {f"{chart}-{NAME}.{suffix}" for chart in charts.CHARTS for suffix in ("png", "svg")}
    for path in (tmp_path / "plots").glob("*.svg"):
        xml.etree.ElementTree.parse(path)
    assert capsys.readouterr().out.count("\n") == len(written)


def test_the_same_results_give_the_same_files(sheet, tmp_path):
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        written.append([path.read_bytes() for path in style.save(charts.ladder(sheet), folder, "x")])
    assert written[0] == written[1]
    assert b"<dc:date>" not in written[0][1]


def test_a_damaged_file_is_named_and_the_others_are_drawn(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(charts, "CHARTS", {"ladder": charts.ladder})
    broken = tmp_path / "broken.json"
    broken.write_text(file.read_text()[:-200])
    assert cli.main(["--results", str(broken), str(file), "--out", str(tmp_path / "plots")]) == 1
    assert "broken.json: damaged" in capsys.readouterr().err
    assert (tmp_path / "plots" / f"ladder-{NAME}.svg").exists()


def test_by_default_all_committed_results_are_drawn(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RESULTS_DIR", tmp_path)
    monkeypatch.setattr(charts, "CHARTS", {"ladder": charts.ladder})
    (tmp_path / "other.json").write_text(json.dumps({"not": "a benchmark"}))
    assert cli.main(["--out", str(tmp_path / "plots")]) == 0
    file.unlink()
    assert cli.main(["--out", str(tmp_path / "plots")]) == 1
    assert "no results files" in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path, capsys):
    assert cli.main(["--results", str(tmp_path / "gone.json"), "--out", str(tmp_path)]) == 1
    assert "gone.json: cannot be read" in capsys.readouterr().err


def test_an_out_that_is_a_file_is_refused(file, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--results", str(file), "--out", str(file)])
    assert exit_.value.code == 2 and "argument --out" in capsys.readouterr().err


def test_titles_say_device_and_date(drawn):
    for fig in drawn.values():
        assert any(f"{synthetic.DEVICE}, bfloat16, 2031-02-03" in text for text in texts(fig))


def test_no_text_is_smaller_than_9_points(drawn):
    for fig in drawn.values():
        found = fig.findobj(match=lambda artist: hasattr(artist, "get_fontsize"))
        assert min(text.get_fontsize() for text in found if text.get_text()) >= 9


def test_every_line_is_named_and_told_apart_without_colour(drawn):
    assert {"s12 triton v2", "FA2 (PyTorch)", "cuDNN (PyTorch)", "FlexAttention"} <= texts(drawn["throughput"])
    names = ["s11_triton_v1", "s12_triton_v2", "s13_triton_tuned", "s20_mma"]
    styles = [style.line_style(name, names) for name in (*names, *style.PEER_STYLES)]
    in_greyscale = {(s["marker"], str(s["linestyle"]), s.get("markerfacecolor")) for s in styles}
    assert len(in_greyscale) == len(styles)
    assert len({to_rgb(colour) for colour in style.COLOURS}) == len(style.COLOURS)


def test_the_ladder_shows_percentages_and_regressions(sheet):
    bars = charts._percentages(charts._of(sheet.gpu, 128, False), ["s12_triton_v2", "s13_triton_tuned"])
    assert [round(percent, 6) for percent, _ in bars.values()] == [60, 150]
    assert "150 %" in texts(charts.ladder(sheet))
    assert not any(", slower than" in text for text in texts(charts.ladder(sheet)))
    for record in sheet.gpu:  # 59.9 %: what is written is what s12 has, 60 %
        if record["name"] == "s13_triton_tuned":
            record["ms_median"] *= 150 / 59.9
    assert not any(", slower than" in text for text in texts(charts.ladder(sheet)))
    for record in sheet.gpu:
        if record["name"] == "s13_triton_tuned":
            record["ms_median"] *= 59.9 / 50
    assert "50 %, slower than s12" in texts(charts.ladder(sheet))


def test_memory_is_that_of_one_sequence(drawn):
    fig = drawn["time-and-memory"]
    lines = {
        ax.get_title(loc="left"): [list(line.get_ydata()) for line in ax.lines if line.get_marker() != "None"]
        for ax in fig.axes
    }
    naive, online = lines["NumPy, 2 heads of 64, float32: memory"]
    assert naive[-1] / naive[-2] == pytest.approx(4, rel=0.01)
    assert online[-1] / online[-2] == pytest.approx(2, rel=0.01)
    v2, math = (lines["GPU, 16 heads of 128, bfloat16: memory"][i] for i in (1, -2))
    assert v2[-1] / v2[-2] == pytest.approx(2, rel=0.01)
    assert math[-1] / math[-2] == pytest.approx(4, rel=0.01)


def test_sheets(file, tmp_path):
    cpu = tmp_path / "cpu.json"
    results.save(cpu, synthetic.environment(device=synthetic.CPU, ceilings=None), {}, synthetic.host_records())
    made = charts.sheets([results.load(file), results.load(cpu)])
    assert sorted((sheet.device, len(sheet.gpu) > 0, len(sheet.host)) for sheet in made) == [
        (synthetic.DEVICE, True, 12),
        (synthetic.CPU, False, 12),
    ]
    (alone,) = charts.sheets([results.load(cpu)])
    assert [name for name, chart in charts.CHARTS.items() if chart(alone)] == ["time-and-memory"]


def test_a_short_run_is_drawn_too(tmp_path):
    path = tmp_path / "r.json"
    some = [r for r in synthetic.gpu_records() if r["seqlen_q"] in (1024, 4096) and r["headdim"] == 128]
    results.save(path, synthetic.environment(ceilings=None), {}, some)
    (sheet,) = charts.sheets([results.load(path)])
    short = {name: chart(sheet) for name, chart in charts.CHARTS.items()}
    assert short.pop("roofline") is None  # no ceilings were measured
    assert all(short.values())
    assert any("over the lengths 1k, 4k" in text for text in texts(short["ladder"]))


def test_the_newest_run_is_drawn():
    shape = grid_shape(4096, 128, False)
    runs = [synthetic.record("torch_fa2", shape, speed, run=run) for speed, run in ((1, "b"), (2, "a"))]
    assert [record["tflops"] for record in charts._newest(runs)] == [1]


def test_labels_are_moved_apart():
    assert style.apart([10, 50], [12, 12], 0, 100) == [10, 50]
    assert style.apart([50, 50, 50], [12, 12, 12], 0, 100) == [38, 50, 62]
    assert style.apart([0, 1], [12, 12], 0, 100) == [6, 18]
    assert style.apart([99, 99], [12, 12], 0, 100) == [82, 94]
    placed = style.apart([10, 11, 40, 41, 42], [12, 36, 12, 12, 12], 0, 200)
    gaps = [b - a for a, b in zip(placed, placed[1:], strict=False)]
    assert gaps[0] >= 24 and gaps[1] >= 24 and min(gaps[2:]) >= 12


# Bytes, counted by walking the loops as the kernels do.


def walk(shape: Shape, Br: int, Bc: int):
    """(rows, keys) of every tile pair that a row of sees a key of."""
    for i in range(0, shape.seqlen_q, Br):
        for j in range(0, shape.seqlen_k, Bc):
            last_row = min(i + Br, shape.seqlen_q) - 1
            if not shape.causal or j <= last_row + shape.seqlen_k - shape.seqlen_q:
                yield i, j


SHAPES = [
    Shape(2, 256, 256, 3, 3, 64, False),
    Shape(1, 256, 256, 2, 2, 64, True),
    Shape(1, 128, 320, 2, 2, 64, True),
    Shape(1, 320, 128, 2, 2, 64, True),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bytes_of_v1_and_v2(shape):
    e, B, d = 2, 64, shape.headdim
    row, fp32 = d * e, 4
    v1 = shape.seqlen_k * 2 * row  # K and V, once
    v1 += shape.seqlen_q * (d + 2) * fp32  # O, m, l: zeroed
    for _ in walk(shape, B, B):
        v1 += B * row + 2 * B * (d + 2) * fp32  # Q read; O, m, l read and written
    v1 += shape.seqlen_q * ((d + 2) * fp32 + row + fp32)  # O, m, l read; O and LSE written
    v2 = shape.seqlen_q * (2 * row + fp32)
    for _ in walk(shape, B, B):
        v2 += 2 * B * row
    heads = shape.batch * shape.nheads
    assert traffic.tile_pairs(shape, B, B) == len(list(walk(shape, B, B)))
    assert traffic.v1_bytes(shape, e, B, B) == heads * v1
    assert traffic.v2_bytes(shape, e, B, B) == heads * v2


def test_bytes_that_no_kernel_can_save():
    shape = Shape(2, 100, 300, 4, 2, 64, False)
    tensors = 2 * (2 * 100 * 4 + 2 * 300 * 2) * 64 * 2 + 2 * 4 * 100 * 4
    assert traffic.once_bytes(shape, 2) == tensors
    assert traffic.plain_bytes(shape, 2) == tensors + 4 * 2 * 4 * 100 * 300 * 2


def test_programs():
    shape = grid_shape(16384, 128, False)
    v1, v2 = (synthetic.record(name, shape, 1) for name in ("s11_triton_v1", "s12_triton_v2"))
    assert traffic.programs(v1) == 16
    assert traffic.programs(v2) == 16 * 256
    assert traffic.programs(synthetic.record("torch_fa2", shape, 1)) is None


def test_tiles_are_those_that_the_stages_launch():
    assert get("s12").tile_rows(128, 2) == 64
    assert get("s12").tile_rows(256, 2) == 32
    assert get("s12").tile_rows(100, 4) == 32  # padded to 128
    assert get("s20").tile_rows(128, 2) == 64


def test_counted_stages_exist():
    for name in traffic.V1 + traffic.V2:
        assert isinstance(get(name).tiles["Br"], int) and dataclasses.is_dataclass(get(name))


# ---- devices side by side -------------------------------------------------------------------------------------------


def of_device(device: str, times: float, date: str = "2031-02-03") -> charts.Sheet:
    environment = synthetic.environment() | {"device": device, "date": f"{date}T04:05:06+00:00"}
    made = [r | {"device": device, "tflops": times * r["tflops"], "ms_median": r["ms_median"] / times}
            for r in synthetic.records() if r["where"] == "gpu" and results.is_timed(r)]  # fmt: skip
    (sheet,) = charts.sheets([results.Results(Path("made-up.json"), environment, {}, made)])
    return sheet


def test_devices_are_compared_at_the_longest_length_that_all_have():
    fast, slow = of_device("Fast", 2.0), of_device("Slow", 1.0)
    slow.gpu = [r for r in slow.gpu if r["seqlen_q"] <= 4096 and r["headdim"] == 64]
    wanted, length, (a, b) = devices.common([fast, slow])
    assert (wanted, length) == ((64, False), 4096)
    assert a["torch_fa2"] == pytest.approx(2 * b["torch_fa2"])
    # Against their own FA2 the two are the same, whatever their speed.
    fast.gpu = [r for r in fast.gpu if r["seqlen_q"] <= 4096]
    ours, theirs = (devices.against_fa2(sheet, 64, False) for sheet in (fast, slow))
    assert ours == pytest.approx(theirs) and ours


def test_one_device_has_nothing_beside_it_and_two_have():
    fast, slow = of_device("Fast", 2.0), of_device("Slow", 1.0)
    assert devices.chart([fast]) is None
    nothing_shared = of_device("Other", 1.0)
    nothing_shared.gpu = [r | {"seqlen_q": r["seqlen_q"] + 1} for r in nothing_shared.gpu]
    assert devices.chart([fast, nothing_shared]) is None
    shown = texts(devices.chart([fast, slow], ["", "Slow, here"]))
    assert {"Fast", "Slow, here", "s13 triton tuned", "FA2 (PyTorch)"} <= shown
    again = of_device("Fast", 2.1, date="2031-03-04")
    assert devices.names_of([fast, again], ["", ""]) == ["Fast, 2031-02-03", "Fast, 2031-03-04"]


def test_what_was_measured_here_is_drawn_beside_what_is_recorded(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RESULTS_DIR", tmp_path)
    monkeypatch.setattr(charts, "CHARTS", {"ladder": charts.ladder})
    for drawn_besides in ("draw_hardware", "draw_pictures"):
        monkeypatch.setattr(cli, drawn_besides, lambda out: [])
    for name in ("PLOTS", "OWN_RESULTS", "OWN_PLOTS"):
        monkeypatch.setattr(cli, name, tmp_path / name.lower())
    own = of_device("NVIDIA Own", 0.5)
    cli.OWN_RESULTS.mkdir()
    results.save(cli.OWN_RESULTS / "own.json", own.environment, {}, own.gpu)
    assert cli.main([]) == 0
    assert {path.name for path in cli.PLOTS.iterdir()} == {f"ladder-{NAME}.png", f"ladder-{NAME}.svg"}
    drawn = {path.name for path in cli.OWN_PLOTS.iterdir()}
    assert drawn == {"ladder-own.png", "ladder-own.svg", "devices.png", "devices.svg"}
    (cli.OWN_RESULTS / "own.json").write_text("{")
    assert cli.main([]) == 1
    assert "own.json: damaged" in capsys.readouterr().err
