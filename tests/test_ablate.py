"""The toggles of tools.ablate: each fits the kernel, compiles and computes attention; the table claims no noise."""

import dataclasses
import json
import math
import random

import pytest

from stages.common.where import Where, installed
from tests import synthetic
from tests.conftest import place_or_skip
from tools import figures, nvrtc, results
from tools.ablate import __main__ as cli
from tools.ablate import table
from tools.ablate.toggles import STAGE, TOGGLES
from tools.ablate.variants import COPY, UNCHANGED, OutOfDate, Variant, find, replaced, sources, variants
from tools.bench import devices
from tools.bench.shapes import Shape

EVERY = pytest.mark.parametrize("toggle", TOGGLES, ids=lambda toggle: toggle.name)


# ---- the toggles ----------------------------------------------------------------------------------------------------


@EVERY
def test_a_toggle_fits_the_kernel(toggle):
    """Fails where the kernel has moved on: tools/ablate/toggles.py has to follow it."""
    assert sources([toggle]) != sources([])


@EVERY
def test_a_variant_computes_attention(toggle, tmp_path):
    place_or_skip(STAGE, "float16")
    assert cli.failures(Variant(toggle.name, (toggle,), tmp_path)) == []


@EVERY
def test_a_variant_compiles_without_a_gpu(toggle, tmp_path):
    if not installed("cupy"):
        pytest.skip("needs CuPy and NVRTC, which are not installed")
    variant = Variant(toggle.name, (toggle,), tmp_path)
    assert all(nvrtc.run(job).cubin for job in cli.jobs_of(variant))


def test_the_variant_runs_and_not_the_stage(tmp_path):
    """A change that breaks the kernel, or its host side, is seen."""
    place_or_skip(STAGE, "float16")
    no_rescale = dataclasses.replace(TOGGLES[0], kernel=(("l[i][r] *= alpha;", ""),))
    assert cli.failures(Variant("broken", (no_rescale,), tmp_path / "a"))
    first_head = dataclasses.replace(TOGGLES[0], kernel=(), host=(("grid=(call.nheads,", "grid=(1,"),))
    assert cli.failures(Variant("broken", (first_head,), tmp_path / "b"))


def test_toggles_have_names_of_their_own():
    names = [toggle.name for toggle in TOGGLES]
    assert len(set(names)) == len(names) and not {UNCHANGED, COPY} & set(names)
    assert all(toggle.kernel or toggle.host for toggle in TOGGLES)


def test_a_toggle_out_of_date_says_so():
    for text in ("x = 2", "x = 1; x = 1"):
        with pytest.raises(OutOfDate, match="idle is out of date.*kernel.cu.*tools/ablate/toggles.py"):
            replaced(text, [("x = 1", "x = 3")], "idle", "kernel.cu")


def test_several_at_once(tmp_path):
    both = [find("divide_by_l"), find("general_strides")]
    made = variants(both[:1], tmp_path, together=both)
    names = [variant.name for variant in made]
    assert names == [UNCHANGED, COPY, "divide_by_l", "divide_by_l+general_strides"]
    kernel, host = (
        made[-1].attention and (tmp_path / names[-1] / file).read_text() for file in ("kernel.cu", "stage.py")
    )
    assert "r * 2] / sum" in kernel and "special=None" in host
    with pytest.raises(OutOfDate):  # two that want the same line
        sources([find("stores_streaming"), find("stores_no_allocate")])


# ---- the table ----------------------------------------------------------------------------------------------------

SHAPES = [Shape(4, 4096, 4096, 16, 16, 128, causal) for causal in (False, True)]
DEVICE = {"device": synthetic.DEVICE, "date": synthetic.RUN, "stage": STAGE.name}


def timed(name, tflops, shape=SHAPES[0], **changes):  # the samples of synthetic.record spread over 2 %
    return synthetic.record(name, shape, tflops, kind="stage", **changes)


def test_a_difference_is_that_within_the_rounds():
    """However far the samples lie apart from round to round, here by 2 %."""
    unchanged = timed(UNCHANGED, 400)
    assert table.cell(unchanged, timed("a", 410)) == "+2.5 %"
    assert table.cell(unchanged, timed("a", 398)) == "-0.5 %"
    assert table.cell(unchanged, timed("a", 400.5)) == table.NONE  # less than is told apart
    assert table.cell(unchanged, synthetic.failed(timed("a", 410))) == "failed"


def test_a_difference_that_the_rounds_disagree_on_is_none():
    unchanged, other = timed(UNCHANGED, 400), timed("a", 410)
    for slow, says in ((0, "+2.5 %"), (4, table.NONE)):
        samples = [ms * (1.05 if i < slow else 1) for i, ms in enumerate(other["ms_samples"])]
        assert table.cell(unchanged, other | {"ms_samples": samples}) == says
    low, high = table.interval(unchanged, other | {"ms_samples": samples})
    assert low < 0 < high
    with pytest.raises(results.NoData, match="a has 9 samples, the unchanged kernel 10"):
        table.cell(unchanged, other | {"ms_samples": samples[:9]})


def test_the_interval_holds_the_median_of_what_was_sampled():
    """99 times of 100: of many draws from a skewed distribution."""
    draw, missed = random.Random(0), 0
    ones = timed(UNCHANGED, 400) | {"ms_samples": [1.0] * 60}
    for _ in range(1000):
        samples = [1 / draw.lognormvariate(0.01, 0.05) for _ in range(60)]  # the median ratio is e^0.01
        low, high = table.interval(ones, timed("a", 400) | {"ms_samples": samples})
        missed += not low <= math.exp(0.01) - 1 <= high
    assert missed <= 20


def test_the_rows():
    records = [timed(name, speed, shape) for shape in SHAPES for name, speed in ((UNCHANGED, 400), (COPY, 400.5))]
    records += [timed("overlap_q", 420), timed("overlap_q+one_head", 300, SHAPES[1])]
    header, rows = table.rows(records)
    assert header == ["toggle", "what it does", "4096 d128", "4096 d128 causal"]
    assert rows[0][0] == COPY and rows[0][2:] == ["none", "none"]
    assert rows[1] == ["overlap_q", find("overlap_q").idea, "+5.0 %", "–"]
    assert rows[2][1:] == ["all of these together", "–", "-25.0 %"]
    assert rows[3] == [UNCHANGED, "how far its samples lie apart", "2.0 %", "2.0 %"]
    with pytest.raises(results.NoData, match="the unchanged kernel was not timed"):
        table.rows([timed("overlap_q", 420)])


def test_the_table_in_a_document(tmp_path):
    file = tmp_path / "a.json"
    results.save(file, DEVICE, {}, [timed(UNCHANGED, 400) | {"run": DEVICE["date"]}, timed("overlap_q", 420)])
    other = results.Results(file, DEVICE | {"device": "Other", "date": "2000"}, {}, [])
    data = figures.Data([], [], ablations=[table.load(file)])
    text = figures.figure(data, "ablation-table", {})
    assert "| overlap_q | " in text and "| +5.0 % |" in text
    keys = {"toggle": "overlap_q", "headdim": "128"}
    assert figures.figure(data, "ablation", keys) == "+5.0 %"
    with pytest.raises(figures.FigureError, match="no overlap_q at seqlen 4096.*causal.*at this shape: nothing"):
        figures.figure(data, "ablation", keys | {"causal": "yes"})
    assert figures.figure(data, "ablation-run", {}) == f"{synthetic.DEVICE}, 2031-02-03, {STAGE.name}"
    both = dataclasses.replace(data, ablations=[*data.ablations, other])
    assert figures.figure(both, "ablation-table", {"device": "synthetic"}) == text
    for bad, says in ((both, "2 devices answer"), (dataclasses.replace(data, ablations=()), "no ablation")):
        with pytest.raises(figures.FigureError, match=says):
            figures.figure(bad, "ablation-table", {})


def test_a_file_of_something_else_is_refused(tmp_path):
    file = tmp_path / "a.json"
    results.save(file, {"device": "x", "date": "y"}, {}, [])
    with pytest.raises(results.ResultsError, match="no file of tools.ablate"):
        table.load(file)


def test_committed_tables_name_toggles_that_there_are():
    for path in sorted(cli.RESULTS_DIR.glob("*.json")):
        for name in {record["name"] for record in table.load(path).records} - {UNCHANGED, COPY}:
            assert [find(part) for part in name.split("+")], f"{path} has {name}"


# ---- the command ----------------------------------------------------------------------------------------------------


class Pretended(devices.Host):
    """The CPU, where a GPU is asked for."""

    where, sms = "gpu", 1

    def __init__(self):
        super().__init__(synthetic.DEVICE)


@pytest.fixture
def on_the_cpu(monkeypatch, tmp_path):
    """`main` with the emulator for a GPU, one small shape and two toggles -> (exit code, the file)."""
    place_or_skip(STAGE, "float16")
    monkeypatch.setattr(cli, "where", lambda stage, dtype=None: Where("gpu", "pretended"))
    monkeypatch.setattr(devices, "Gpu", Pretended)
    monkeypatch.setattr(cli.nvrtc, "in_processes", lambda function, todo, jobs: todo)  # there is nothing to compile

    def run(*argv):
        out = tmp_path / "results" / "a.json"
        common = ["--dtype", "fp16", "--shapes", "1,64,64,1,1,64,no", "--samples", "3", "--out", str(out)]
        return cli.main([*common, *argv]), out

    return run


def test_measuring_from_end_to_end(on_the_cpu, capsys):
    code, out = on_the_cpu("--toggles", "divide_by_l,one_head")
    assert code == 0
    file = table.load(out)
    assert [r["name"] for r in file.records] == [UNCHANGED, COPY, "divide_by_l", "one_head"]
    assert all(len(r["ms_samples"]) >= 3 and r["max_error"] <= r["bound"] for r in file.records)
    assert file.environment["stage"] == STAGE.name and file.environment["source"] == nvrtc.source_hash(STAGE)
    assert "divide_by_l" in capsys.readouterr().out


def test_a_wrong_variant_is_not_timed(on_the_cpu, monkeypatch, capsys):
    wrong = dataclasses.replace(find("divide_by_l"), kernel=(("O_acc[i][n][r * 2] * inv_l", "O_acc[i][n][0] * inv_l"),))
    monkeypatch.setattr(cli, "find", lambda name: wrong)
    code, out = on_the_cpu("--toggles", "divide_by_l")
    assert code == 1
    record = json.loads(out.read_text())["records"][-1]
    assert record["error"].startswith("wrong: ") and "ms_samples" not in record
    assert "failed" in capsys.readouterr().out


def test_check_reports_what_is_wrong(monkeypatch, capsys):
    if not installed("cupy"):
        pytest.skip("needs CuPy and NVRTC, which are not installed")
    place_or_skip(STAGE, "float16")
    monkeypatch.setattr(cli, "failures", lambda variant: ["off by one"] if variant.name == "one_head" else [])
    assert cli.main(["--check", "--jobs", "1", "--toggles", "one_head"]) == 1
    said = capsys.readouterr().err
    assert "one_head: off by one" in said and f"{UNCHANGED}: compiles, and is right" in said


def test_the_list(capsys):
    assert cli.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert all(toggle.name in said for toggle in TOGGLES)


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(cli, "where", lambda stage, dtype=None: Where("emulator", "the emulator, on the CPU"))
    assert cli.main(["--toggles", "one_head"]) == 1
    assert "needs a CUDA GPU; here: the emulator" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, says",
    (
        (["--toggles", "faster"], "toggle is 'faster'; accepted: stores_streaming"),
        (["--shapes", "1,2"], "2 fields"),
        (["--shapes", "1,64,64,1,1,256,no"], "headdim is 256; accepted: 1 to 128"),
        (["--samples", "0"], "argument --samples: is 0"),
        (["--out", "."], "is a folder"),
    ),
)
def test_wrong_arguments(argv, says, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    assert exit_.value.code == 2 and says in capsys.readouterr().err


def test_a_toggle_out_of_date_stops_it_all(monkeypatch, capsys):
    old = dataclasses.replace(TOGGLES[0], kernel=(("no such line", ""),))
    monkeypatch.setattr(cli, "find", lambda name: old)
    assert cli.main(["--toggles", "x"]) == 1
    assert "out of date" in capsys.readouterr().err
