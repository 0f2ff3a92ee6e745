"""`python -m tools.check` as a learner meets it: on a copy of the repository with an edited kernel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tools.check as tool
from reference import Verdict, quick_grid
from stages import get
from stages.common.where import Where, interpreting

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def learner(tmp_path):
    """learner(stage, old, new): edit that kernel in a copy of the repository; learner.check(*arguments): check it."""

    class Learner:
        def __init__(self):
            for name in ("stages", "reference", "tools"):
                shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

        def __call__(self, stage: str, old: str, new: str) -> None:
            kernel = tmp_path / get(stage).kernel_file.relative_to(ROOT)
            text = kernel.read_text(encoding="utf-8")
            assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {kernel.name}"
            kernel.write_text(text.replace(old, new), encoding="utf-8")

        def check(self, *arguments: str) -> subprocess.CompletedProcess:
            return subprocess.run(
                [sys.executable, "-m", "tools.check", *arguments],
                cwd=tmp_path,
                env=os.environ | {"COLUMNS": "100", "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                timeout=300,
            )

    return Learner()


def counts(output: str, property_name: str) -> tuple[int, int, int]:
    """(passed, failed, not run) in the table's row of that property."""
    row = next(line for line in output.splitlines() if line.strip().startswith(property_name))
    cells = row.strip()[len(property_name) :]
    # passed, failed and not run end at columns 9, 18 and 28 after the longest name; an empty cell is a 0.
    start = row.index(property_name) + max(map(len, tool.properties(get("s02"))))
    cells = (row[start : start + 9], row[start + 9 : start + 18], row[start + 18 : start + 28])
    return tuple(int(cell) if cell.strip() else 0 for cell in cells)


def test_a_right_stage_passes(learner):
    done = learner.check("s02")
    assert done.returncode == 0, done.stderr
    assert f"All {len(quick_grid(get('s02')))} cases passed." in done.stdout
    assert counts(done.stdout, "causal, unequal lengths")[0] > 10
    assert "Hint" not in done.stdout and "failed." not in done.stdout


def test_a_wrong_stage_fails_with_its_hint(learner):
    """Without the rescale one tile is still right: the table shows where it begins to be wrong."""
    learner("s02", "O = alpha[:, None] * O + P @ V_j", "O = O + P @ V_j")
    done = learner.check("s02", "--all")
    assert done.returncode == 1, done.stderr
    passed, failed, waiting = counts(done.stdout, "one tile")
    assert passed > 10 and failed == waiting == 0
    assert counts(done.stdout, "several tiles")[1] > 50
    assert "out is off by" in done.stdout and "cases failed" in done.stdout
    assert "online_softmax_step (stages/s02_online_softmax/kernel.py, lines" in done.stdout
    assert "Hint: when m grows" in done.stdout
    assert "stages/s02_online_softmax/README.md" in done.stdout
    assert "Every case that failed is about several tiles" in done.stdout
    assert "when the maximum grows?\n" in done.stdout, "a question, and one advice"
    command = re.search(r'make check STAGE=s02 CHECK_ARGS="--case (\S+)"', done.stdout)
    assert command, done.stdout
    alone = learner.check("s02", "--case", command[1])
    assert alone.returncode == 1 and "1 of 1 cases failed" in alone.stdout


def test_the_advice_is_about_what_failed_and_nothing_else(learner):
    """All that fails here is causal, of unequal and of ragged lengths too; what tells it apart is narrower."""
    learner("s02", "m_safe = np.where(m_new == -np.inf, 0, m_new)", "m_safe = m_new")
    done = learner.check("s02")
    assert done.returncode == 1 and done.stdout.count("Every case that failed is about") == 1
    said = " ".join(done.stdout.split())
    assert re.search(r"about rows that see no key, and (\d+) of the \1 about it failed\. Their maximum", said), said


def test_it_stops_after_enough_wrong_cases(learner):
    learner("s02", "O = alpha[:, None] * O + P @ V_j", "O = O + P @ V_j")
    done = learner.check("s02")
    assert done.returncode == 1
    assert re.search(rf"{tool.STOP_AFTER} of \d+ cases failed. --all runs the other \d+ too", done.stdout)


def test_an_exception_ends_in_the_learners_file(learner):
    learner("s02", "m_new = np.maximum(m, S.max(axis=1))", "m_new = np.maximum(m, S.max(axis=1)[:3])")
    done = learner.check("s02")
    assert done.returncode == 1 and "raised an exception" in done.stdout
    assert "Every case that failed" not in done.stdout, "an exception says itself what is wrong"
    frames = re.findall(r'File "(.*)", line', done.stdout)
    assert frames and all(frame.endswith("stages/s02_online_softmax/kernel.py") for frame in frames), frames
    assert "ValueError" in done.stdout and "[:3]" in done.stdout and "Hint" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not interpreting(), reason="Triton compiles its kernels here; this is about its interpreter")
def test_an_exception_inside_an_interpreted_kernel_shows_its_line(learner):
    pytest.importorskip("triton", reason="Triton is not installed")
    learner("s12", "tl.dot(Q_i, tl.trans(K_j)", "tl.dot(Q_i, K_j")
    done = learner.check("s12", "--case", "d16-")
    assert done.returncode == 1
    assert re.search(r's12_triton_v2/kernel.py", line \d+, in attention_kernel', done.stdout), done.stdout
    assert "S = tl.dot(Q_i, K_j," in done.stdout


@pytest.mark.parametrize(
    "new",
    ('raise NotImplementedError("YOUR CODE HERE: online_softmax_step")', 'assert False, "YOUR CODE HERE"'),
)
def test_not_written_yet(learner, new):
    learner("s02", "m_new = np.maximum(m, S.max(axis=1))", new)
    done = learner.check("s02")
    assert done.returncode == 1
    assert "Not written yet" in done.stdout and "Hint: when m grows" in done.stdout
    assert "exception" not in done.stdout and "failed" not in done.stdout


def test_a_syntax_error_is_shown_where_it_is(learner):
    learner("s01", "def naive_attention(Q,", "def naive_attention(Q:,")
    done = learner.check("s01")
    assert done.returncode == 1 and "SyntaxError" in done.stdout and "def naive_attention(Q:," in done.stdout
    assert re.findall(r'File "(.*)", line', done.stdout)[0].endswith("stages/s01_naive/kernel.py")


def test_a_forgotten_return_is_a_wrong_result(learner):
    learner("s01", "return call.finish()", "call.finish()")
    done = learner.check("s01")
    assert done.returncode == 1 and "the given out and lse were not returned" in done.stdout


def test_a_damaged_region_does_not_hide_the_verdict(learner):
    learner("s02", "    # END SOLUTION\n", "")
    learner("s02", "O = alpha[:, None] * O + P @ V_j", "O = O + P @ V_j")
    done = learner.check("s02")
    assert done.returncode == 1 and "cases failed" in done.stdout and "is not closed" in done.stdout


# ---- in this process ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, says",
    (
        ((), "STAGE"),
        (("s99",), "stage is 's99'; accepted: s01_naive"),
        (("s01", "--case", "nothing-like-it"), "argument --case: no case of s01_naive has 'nothing-like-it'"),
        (("s01", "--some"), "--some"),
    ),
)
def test_wrong_arguments(capsys, arguments, says):
    with pytest.raises(SystemExit) as stopped:
        tool.main(arguments)
    assert stopped.value.code == 2 and says in capsys.readouterr().err


def test_a_stage_that_cannot_run_here_says_why(capsys, monkeypatch):
    monkeypatch.setattr(tool, "where", lambda stage, dtype=None: Where(None, "needs a GPU of some kind"))
    assert tool.main(["s01"]) == 1
    assert "needs a GPU of some kind" in capsys.readouterr().out


def test_a_dtype_that_does_not_run_here_says_why(capsys, monkeypatch):
    def no_float64(stage, dtype=None):
        return Where(None, "there are no doubles here") if dtype == "float64" else Where("host", "NumPy")

    monkeypatch.setattr(tool, "where", no_float64)
    assert tool.main(["s01", "--case", "d64-64x64"]) == 0
    printed = capsys.readouterr().out
    assert "cases in float64. there are no doubles here" in printed
    monkeypatch.setattr(tool, "where", lambda stage, dtype=None: Where(None if dtype else "host", "not today"))
    assert tool.main(["s01", "--case", "d64-64x64"]) == 1


def test_interrupted(capsys, monkeypatch):
    verdicts = iter((Verdict(True, 0.0, 1.0, 0.0), Verdict(True, 0.0, 1.0, 0.0)))

    def check(stage, case):
        try:
            return next(verdicts)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(tool, "check", check)
    assert tool.main(["s01"]) == 130
    printed = capsys.readouterr().out
    assert "interrupted after 2 of" in printed and "one tile" in printed


def test_every_case_is_about_something(stage):
    """Every property occurs in the grid, and every case has one: else the table could miss a failure."""
    has = tool.properties(stage)
    cases = quick_grid(stage)
    absent = {name for name, test in has.items() if not any(map(test, cases))}
    assert absent <= ({"padded head dims"} if not stage.capability.headdims else set())
    assert all(any(test(case) for test in has.values()) for case in cases)


def some_outcomes(stage, fails, error=None) -> tuple[list, list]:
    """The quick grid, and its outcomes where the cases that `fails` says fail."""
    cases = tool.simplest_first(stage, quick_grid(stage))
    right, wrong = Verdict(True, 0.0, 1.0, 0.0), Verdict(False, 2.0, 1.0, 0.0)
    done = [tool.Outcome(case, (None if error else wrong) if fails(case) else right, fails(case) and error or None)
            for case in cases]  # fmt: skip
    return cases, done


@pytest.mark.parametrize("name", tool.ADVICE)
def test_what_tells_the_failures_apart_is_found(name):
    stage = get("s02" if name == "16-bit inputs" else "s20")  # the CUDA stages know nothing else
    has = tool.properties(stage)[name]
    cases, done = some_outcomes(stage, has)
    assert tool.common_cause(stage, cases, done) == name
    assert tool.common_cause(stage, *some_outcomes(stage, has, RuntimeError("race"))) is None
    alone = [outcome for outcome in done if not outcome.ok]
    assert tool.common_cause(stage, cases, alone) is None, "nothing passed that could be compared"
    few = [outcome for outcome in done if outcome.ok] + [outcome for outcome in done if not outcome.ok][:2]
    assert tool.common_cause(stage, cases, few) is None, "two failures have much in common by chance"
    every_other = {outcome.case for outcome in done if not outcome.ok} & set(cases[::2])
    assert tool.common_cause(stage, *some_outcomes(stage, every_other.__contains__)) is None, "half of them passed"


def test_failures_of_two_kinds_have_no_common_cause():
    stage = get("s20")
    has = tool.properties(stage)
    assert tool.common_cause(stage, *some_outcomes(stage, lambda c: c.batch > 1 or has["strided inputs"](c))) is None


def test_of_two_that_hold_for_the_same_cases_neither_is_named(monkeypatch):
    stage = get("s20")
    has = tool.properties(stage)
    monkeypatch.setattr(tool, "properties", lambda stage: has | {"batches": has["several batches"]})
    assert tool.common_cause(stage, *some_outcomes(stage, has["several batches"])) is None


def test_every_advice_is_a_sentence(stage):
    assert set(tool.ADVICE) <= set(tool.properties(stage))
    assert all(advice[0].isupper() and advice[-1] in ".?" and advice[-2] not in ".?" for advice in tool.ADVICE.values())


def test_simplest_first(stage):
    first, *_, last = tool.simplest_first(stage, quick_grid(stage))
    assert not first.causal and tool.properties(stage)["one tile"](first)
    about = [sum(test(case) for test in tool.properties(stage).values()) for case in (first, last)]
    assert about[0] + 3 < about[1]
