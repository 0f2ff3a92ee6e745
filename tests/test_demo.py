"""`python -m tools.demo`: what it shows of right, wrong and missing stages, and its exit codes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import tools.demo as demo
from stages import Stage, StageUnavailable, get
from stages.common.where import Where, where


class Broken(Stage):
    """s02 with another `attention`."""

    attention = None


def broken(attention) -> Stage:
    s02 = get("s02")
    stage = Broken(**{field.name: getattr(s02, field.name) for field in dataclasses.fields(s02)})
    object.__setattr__(stage, "attention", attention)  # the record is frozen
    return stage


@pytest.fixture
def run(capsys, monkeypatch):
    """run(*stages): (exit code, what is printed) of a demo of these; plots are pretended."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(demo, "show_plots", lambda console: None)

    def start(*stages: Stage) -> tuple[int, str]:
        monkeypatch.setattr(demo, "_stages", lambda text: list(stages))
        code = demo.main(["--stages", "those"])
        return code, capsys.readouterr().out

    return start


def test_right_stages(run):
    code, printed = run(get("s01"), get("s02"))
    assert code == 0
    assert printed.count("right") == 2 and "WRONG" not in printed
    for stage in (get("s01"), get("s02")):
        assert stage.name in printed and stage.idea.split(":")[0].split()[0] in printed
    assert "all-MiniLM-L6-v2" in printed and "make check STAGE=s02" in printed
    assert "make lab" in printed and "notebooks/s01_naive.ipynb" in printed


@pytest.mark.parametrize("columns", (80, demo.WITH_IDEAS - 1, demo.WITH_IDEAS, 200))
def test_the_table_fits(run, monkeypatch, columns):
    """Names whole and on one line; ideas where they have room; no line is wider than the terminal."""
    stages = [get(name) for name in ("s01", "s23", "s24")]
    monkeypatch.setattr(demo, "where", lambda stage, dtype=None: where(get("s01"), dtype))
    monkeypatch.setattr(demo, "run", lambda row, done: None)
    monkeypatch.setattr(demo, "cases_for", lambda row: [])
    right = demo.Verdict(True, 1e-3, 2e-3, 0.0)
    real = demo.Row
    monkeypatch.setattr(demo, "Row", lambda *given: real(*given, verdicts=[right], seconds=[0.0123], extra_bytes=2**20))
    monkeypatch.setenv("COLUMNS", str(columns))
    code, printed = run(*stages)
    assert code == 0 and max(map(len, printed.splitlines())) <= columns
    for stage in stages:
        assert stage.name in printed
        assert (stage.idea.split()[0] in printed) == (columns >= demo.WITH_IDEAS)


def test_every_layer_is_judged_both_ways():
    row = demo.Row(get("s02"), where(get("s02")), "float16")
    cases = demo.cases_for(row)
    assert len(cases) == 2 * len(demo.load_activations())
    assert {(case.seed, case.causal) for case in cases} == {
        (n, c) for n in range(len(cases) // 2) for c in (True, False)
    }
    demo.run(row, lambda: None)
    assert row.ok and len(row.verdicts) == len(row.seconds) == len(cases)
    assert row.worst.error / row.worst.bound == max(v.error / v.bound for v in row.verdicts)


def test_extra_memory_of_the_naive_stage_is_its_matrix():
    """S and P of one head in float32, and little else; s02 holds a small part of that."""
    seqlen, _, _ = demo.captured_shape()
    extra = {}
    for name in ("s01", "s02"):
        row = demo.Row(get(name), where(get(name)), "float16")
        extra[name] = demo.extra_memory(row, demo.cases_for(row)[0])
    matrix = 4 * seqlen**2
    assert 2 * matrix < extra["s01"] < 5 * matrix
    assert extra["s02"] < matrix / 2


def test_interpreted_memory_is_not_claimed():
    row = demo.Row(get("s12"), Where("interpreter", "Triton's interpreter"), "float16")
    assert demo.extra_memory(row, demo.cases_for(row)[0]) is None
    assert demo.readable_bytes(None) == "—"


def zeros(q, k, v, *, causal, softmax_scale=None, out, lse):
    out.zero_()
    lse.zero_()
    return out, lse


def raises(*args, **kwargs):
    raise IndexError("tile 7 of 6\nand more")


def nan(q, k, v, *, causal, softmax_scale=None, out, lse):
    return out, lse  # which the check has filled with NaN


def last_layer_wrong(q, k, v, *, causal, softmax_scale=None, out, lse):
    last = torch.from_numpy(demo.load_activations()[-1].q).to(q)
    result = get("s02").attention(q, k, v, causal=causal, softmax_scale=softmax_scale, out=out, lse=lse)
    if causal and torch.equal(last, q):
        out[0, 100, 1] *= 1.5
    return result


@pytest.mark.parametrize(
    "attention, says",
    (
        (zeros, "out is off by"),
        (nan, "NaN or was not written"),
        (raises, "IndexError: tile 7 of 6"),
        (last_layer_wrong, "head 1, row 100"),
    ),
)
def test_a_wrong_stage_fails_the_demo(run, attention, says):
    code, printed = run(get("s01"), broken(attention))
    assert code == 1
    assert "WRONG" in printed and printed.count("right") == 1
    assert f"s02_online_softmax is wrong: {says}" in printed or (says in printed and "is wrong" in printed)


def test_a_stage_that_cannot_run_has_a_row_and_a_reason(run, monkeypatch):
    def not_s02(stage, dtype=None):
        return Where(None, "needs a GPU of some kind") if stage.short == "s02" else where(stage, dtype)

    monkeypatch.setattr(demo, "where", not_s02)
    code, printed = run(get("s01"), get("s02"))
    assert code == 0
    assert "not here" in printed and "s02_online_softmax did not run: needs a GPU of some kind" in printed
    assert "make doctor" in printed
    code, printed = run(get("s02"))
    assert code == 1, "nothing ran: nothing is shown to be right"


def test_a_stage_whose_backend_does_not_load_has_a_reason(run):
    def unavailable(*args, **kwargs):
        raise StageUnavailable("needs the package 'cupy', which is not installed")

    code, printed = run(get("s01"), broken(unavailable))
    assert code == 0 and "s02_online_softmax did not run: needs the package 'cupy'" in printed


def test_interrupted(run):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    code, printed = run(get("s01"), broken(interrupt))
    assert code == 130
    assert "interrupted" in printed and "s01_naive" in printed and "right" in printed


def test_unknown_stage(capsys):
    with pytest.raises(SystemExit) as stopped:
        demo.main(["--stages", "s01,s99"])
    assert stopped.value.code == 2
    assert "stage is 's99'; accepted: s01_naive" in capsys.readouterr().err


# ---- plots -------------------------------------------------------------------------------------------------


@pytest.fixture
def plots(capsys, monkeypatch):
    """plots(committed, status): what is printed when these results are committed, and what is asked of tools.plot."""

    def show(committed: list[Path], status: int = 0) -> tuple[str, list]:
        asked = []

        def plot(arguments):
            asked.append(arguments)
            print(f"{arguments[1]}/throughput-some.svg\n{arguments[1]}/throughput-some.png")
            return status

        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(demo, "plot", plot)
        monkeypatch.setattr(demo.results, "committed", lambda: committed)
        demo.show_plots(demo.Console(highlight=False))
        return capsys.readouterr().out, asked

    return show


def test_plots_are_made_from_the_committed_results(plots):
    printed, asked = plots([Path("docs/results/some.json")])
    assert asked == [["--out", str(demo.PLOTS)]]
    assert "1 plots, of the results recorded in docs/results and not of this run, are in build/plots:" in printed
    assert "throughput-some.png" in printed


def test_without_results_it_says_so(plots):
    printed, asked = plots([])
    assert "no recorded results" in printed and not asked


def test_a_damaged_results_file_does_not_stop_the_demo(plots):
    printed, _ = plots([Path("docs/results/some.json")], status=1)
    assert "could not be drawn" in printed


@pytest.mark.parametrize(
    "seconds, text",
    (
        (0.0000021, "2.1 µs"),
        (0.0005, "500 µs"),
        (0.00123, "1.23 ms"),
        (0.9999, "1000 ms"),
        (12.34, "12.3 s"),
        (0, "0 µs"),
    ),
)
def test_readable_times(seconds, text):
    assert demo.readable(seconds) == text


@pytest.mark.parametrize(
    "count, text", ((0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536 * 1024, "1.5 MiB"), (2**31, "2 GiB"))
)
def test_readable_bytes(count, text):
    assert demo.readable_bytes(count) == text
