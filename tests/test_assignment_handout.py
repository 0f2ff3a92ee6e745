"""What a student gets: it says before handing in what the grader would say, its sentences are true, and it gives no
answer away."""

# ruff: noqa: E741  (the papers' symbols)
from __future__ import annotations

import dataclasses
import importlib
import json
import re
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

from stages import get
from stages.common.where import emulator_lacks
from tools.assignment.allowed import refusals
from tools.assignment.build import student
from tools.assignment.definition import FOLDER, DefinitionError, load, names
from tools.assignment.grading import grade, worker_for
from tools.assignment.kinds import MEMORY, REFUSED
from tools.assignment.leaks import leaks
from tools.assignment.tree import handout

needs_emulator = pytest.mark.skipif(emulator_lacks() is not None, reason=str(emulator_lacks()))
S01, S02 = (get(name).kernel_file.read_text(encoding="utf-8") for name in ("s01", "s02"))
SWIZZLE = get("s21").kernel_file.read_text(encoding="utf-8")
FEW = ("s02", "--case", "d16-64x64")


def changed(text, *pairs):
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def texts(folder):
    return {path: path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.suffix in (".md", ".ipynb")}


@pytest.fixture(scope="module")
def handouts(tmp_path_factory):
    root = tmp_path_factory.mktemp("handouts")
    for name in names():
        student(load(name), root / name)
    return root


def run(folder, program, *arguments):
    command = [sys.executable, "-B", program, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def ps1(tmp_path):
    """A handout with both solutions in it, and a way to write something else."""
    assignment = load("ps1")
    student(assignment, tmp_path)

    def write(second, first=S01):
        for path, text in zip(assignment.submitted, (first, second)):
            (tmp_path / path).write_text(text, encoding="utf-8")
        return tmp_path

    write(S02)
    return write


# ---- what the texts say ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_no_make(handouts, name):
    """A handout has no Makefile, so no text sends anybody to one, and no program where it has looked for one."""
    assert not (handouts / name / "Makefile").exists()
    for path, text in texts(handouts / name).items():
        assert not re.search(r"`make\b|\bmake (check|emulate|doctor|demo|test)\b", text), path
    assert "`make" not in (handouts / name / "stages" / "common" / "record.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", names())
def test_what_may_be_said_is_said_of_the_right_language(handouts, name):
    readme = (handouts / name / "README.md").read_text(encoding="utf-8")
    backends = {stage.capability.backend for stage in load(name).stages}
    assert ("getattr" in readme) == (backends != {"cuda"}) and ("`ptx.cuh` and in CUDA's" in readme) == (
        "cuda" in backends
    )
    assert "pip install torch --index-url https://download.pytorch.org/whl/cpu" in readme
    assert (handouts / name / "student.md").is_file() and "student.md" in readme


def test_what_depends_on_what_is_said(handouts):
    readme = (handouts / "ps1" / "README.md").read_text(encoding="utf-8")
    told = " ".join(readme[readme.index("**Tests 3.2 to 3.7 depend on test 3.1.**") :].split())
    points = sum(test.points for test in load("ps1").tests if test.number.startswith("3."))
    assert f"{points:g} points in all" in told and "`online_softmax_step` has to be called for every K/V tile" in told
    assert "`python check.py s02` shows it" in told
    assert "depend on test" not in (handouts / "ps3" / "README.md").read_text(encoding="utf-8")


def test_only_what_is_needed_ships(handouts):
    """No emulator without a CUDA kernel; with one, all that it imports."""
    ps1 = {path.relative_to(handouts / "ps1").as_posix() for path in (handouts / "ps1").rglob("*")}
    assert not [path for path in ps1 if "emulator" in path or path.endswith((".cuh", "cuda.py", "symbols.py"))]
    assert (handouts / "ps3" / "tools" / "emulator" / "__main__.py").is_file()


@needs_emulator
def test_the_emulator_runs_in_a_handout(handouts, tmp_path):
    """As README.md says to, and as a page."""
    command = [sys.executable, "-B", "-m", "tools.emulator", "s20", "--summary", "--html", str(tmp_path / "page.html")]
    done = subprocess.run(command, cwd=handouts / "ps3", capture_output=True, text=True)
    assert done.returncode == 0 and "bank conflicts" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "page.html").is_file()


# ---- what they do not say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_nothing_is_given_away(handouts, name):
    assert leaks(load(name), handouts / name) == []


@pytest.mark.parametrize(
    "place, text",
    (
        ("notes.md", "The trick: XOR the 16-byte\nchunk with something."),
        ("stages/s20_mma/README.md", "xor   the 16-Byte"),
        ("stages/common/ptx.cuh", "// for that, XOR the\n// 16-byte chunk"),
        ("stages/common/x.py", "# for that, XOR\n    # the 16-byte chunk"),
        ("book.ipynb", json.dumps({"cells": [{"source": "one can XOR the\n16-byte chunk"}]})),
    ),
)
def test_a_secret_phrase_is_found_wherever_it_is(tmp_path, place, text):
    assignment = load("ps3")
    handout(assignment, tmp_path)
    (tmp_path / place).write_text(text, encoding="utf-8")
    (leak,) = leaks(assignment, tmp_path)
    assert leak.file.as_posix() == place and "gives s21 swizzle away" in str(leak) and "XOR the 16-byte" in str(leak)


def test_ideas_and_cards_keep_the_secret(tmp_path):
    """The definition's idea is in the record and on the card; the sentence is off the earlier card, the rest stays."""
    assignment = load("ps3")
    handout(assignment, tmp_path)
    card, record = (
        (tmp_path / "stages" / "s21_swizzle" / name).read_text(encoding="utf-8")
        for name in ("README.md", "__init__.py")
    )
    idea = assignment.ideas["s21"]
    assert idea in card and f'idea="{idea}"' in record and get("s21").idea not in card + record
    compile(record, "__init__.py", "exec")
    earlier = (tmp_path / "stages" / "s20_mma" / "README.md").read_text(encoding="utf-8")
    assert earlier.endswith("## What it does not fix\nThe bank conflicts.\n") and "XOR" not in earlier
    plain = dataclasses.replace(assignment, ideas={}, omit=())
    handout(plain, tmp_path)
    files = {leak.file.as_posix() for leak in leaks(plain, tmp_path)}
    assert files == {
        f"stages/{name}" for name in ("s21_swizzle/README.md", "s21_swizzle/__init__.py", "s20_mma/README.md")
    }


def test_a_sentence_that_no_card_says(tmp_path):
    stale = dataclasses.replace(load("ps3"), omit=("The moon is a cheese.",))
    with pytest.raises(DefinitionError, match="omit has 'The moon is a cheese.', which no card"):
        handout(stale, tmp_path)


@pytest.mark.parametrize(
    "old, new, says",
    (
        ("ideas = { s21", "ideas = { s22", "ideas: has 's22'; accepted: s21"),
        ('ideas = { s21 = "Find', 'ideas = { s21 = 5, s22 = "Find', "ideas: s21 is 5; accepted: text"),
        ('omit = ["They', 'omit = ["", "They', "omit has ''; accepted: texts"),
        ('secret_phrases = ["XOR the', 'secret_phrases = [7, "XOR the', "secret_phrases has 7; accepted: texts"),
    ),
)
def test_a_wrong_definition(tmp_path, old, new, says):
    folder = tmp_path / "psx"
    folder.mkdir()
    text = changed((FOLDER / "ps3" / "assignment.toml").read_text(encoding="utf-8"), (old, new))
    (folder / "assignment.toml").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text("text", encoding="utf-8")
    with pytest.raises(DefinitionError, match=re.escape(says)):
        load("psx", tmp_path)


def test_the_rule_is_given_only_to_who_asks(handouts):
    """Stub, file, notebook and check.py ask; check.py --hint answers; no file has the answer as it is read."""
    folder = handouts / "ps1"
    for task in load("ps1").tasks:
        if not task.question:
            continue
        for path in (f"stages/{task.stage.name}/kernel.py", "ps1.ipynb", "stubs.json"):
            text = (folder / path).read_text(encoding="utf-8")
            assert task.question in text and task.hint not in text, path
        assert not [path for path in folder.rglob("*") if path.is_file() and task.hint.encode() in path.read_bytes()]
        done = run(folder, "check.py", "--hint", task.name)
        assert done.returncode == 0 and done.stdout == f"{task.name}: {task.hint}\n"
    assert sum(bool(task.question) for task in load("ps1").tasks) == 2
    wrong = run(folder, "check.py", "--hint", "nave")
    assert wrong.returncode == 2 and "--hint is 'nave'; accepted: naive, online_softmax_step" in wrong.stderr


# ---- before handing in ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_solutions_are_packed(handouts, name, tmp_path):
    """What scores everything is not stopped; nor is what is not begun, with a note."""
    assignment = load(name)
    student(assignment, tmp_path)
    done = run(tmp_path, "submit.py")
    assert done.returncode == 0 and done.stdout.count("still says YOUR CODE HERE") == len(assignment.stages), (
        done.stderr
    )
    for stage, path in zip(assignment.stages, assignment.submitted):
        (tmp_path / path).write_bytes(stage.kernel_file.read_bytes())
    done = run(tmp_path, "submit.py")
    assert (done.returncode, done.stderr) == (0, "") and "note" not in done.stdout
    with zipfile.ZipFile(tmp_path / "submission.zip") as packed:
        assert packed.namelist() == list(assignment.submitted)


REFUSED_FILE = "import warnings\n" + S02 + "\n\nx = eval('1')\n"


@pytest.mark.parametrize(
    "text, says",
    (
        ("", "stages/s02_online_softmax/kernel.py is empty."),
        (" \n\n", "stages/s02_online_softmax/kernel.py is empty."),
        (S02 + "if x\n", f"kernel.py, line {S02.count(chr(10)) + 1} is no Python: expected ':': if x"),
        (S02.replace("def merge", "def merg"), "kernel.py: merge is not defined."),
        (S02.replace("def attention", "def attend"), "kernel.py: attention is not defined."),
        (REFUSED_FILE, "kernel.py, line 1: import warnings is not accepted in this stage; accepted: numpy, math"),
    ),
)
def test_what_would_score_nothing_is_said(ps1, text, says):
    """By both programs; submit.py packs it only when told to, and says what an older zip is."""
    folder = ps1(text)
    packed = folder / "submission.zip"
    done = run(folder, "submit.py")
    assert done.returncode == 1 and says in done.stderr and "Not packed. --anyway" in done.stderr
    assert not packed.exists() and not done.stdout
    checked = run(folder, "check.py", *FEW)
    assert checked.returncode == 1 and says in checked.stdout
    done = run(folder, "submit.py", "--anyway")
    assert done.returncode == 0 and says in done.stderr
    with zipfile.ZipFile(packed) as zipped:
        assert zipped.read("stages/s02_online_softmax/kernel.py").decode() == text
    assert "is an older one" in run(folder, "submit.py").stderr


def test_every_refusal_of_the_grader_is_named(ps1):
    found = refusals(get("s02"), REFUSED_FILE)
    assert len(found) == 2
    done = run(ps1(REFUSED_FILE), "submit.py")
    for refusal in found:
        assert f"stages/s02_online_softmax/kernel.py, {refusal}\n" in done.stderr


def test_bytes_that_are_no_text(ps1):
    folder = ps1(S02)
    path = folder / "stages/s02_online_softmax/kernel.py"
    for data, says in (
        (b"x = 1\n\xff", "no text in UTF-8: byte 6 is not"),
        (b"x = 1\0", "no text: it holds zero bytes"),
    ):
        path.write_bytes(data)
        done = run(folder, "submit.py")
        assert done.returncode == 1 and says in done.stderr
    path.unlink()
    done = run(folder, "submit.py")
    assert done.returncode == 1 and "kernel.py is missing." in done.stderr
    path.write_bytes(b"\xef\xbb\xbf" + S02.replace("\n", "\r\n").encode())  # as editors on Windows leave it
    assert run(folder, "submit.py").returncode == 0


@needs_emulator
@pytest.mark.parametrize(
    "old, new, says",
    (
        ("(chunk ^ row % 8) * 16;", "(chunk ^ row % 8) * 16", "does not compile: expected"),
        ("(chunk ^ row % 8) * 16;", 'chunk * 16; asm("nop");', "asm is not accepted in a kernel"),
        ("attention_kernel(", "attention_kern(", "attention_kernel is not defined"),
    ),
)
def test_a_kernel_that_would_score_nothing(handouts, tmp_path, old, new, says):
    student(load("ps3"), tmp_path)
    (path,) = load("ps3").submitted
    (tmp_path / path).write_text(changed(SWIZZLE, (old, new)), encoding="utf-8")
    done = run(tmp_path, "submit.py")
    assert done.returncode == 1 and re.search(rf"{re.escape(path)}(, line \d+|:).*{re.escape(says)}", done.stderr), done


# ---- single functions -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(handouts):
    """The handout's own `problem`, asked of a function that is not in a file."""
    folder = handouts / "ps1"
    sys.path.insert(0, str(folder))
    try:
        functions = importlib.import_module("checks.functions")
        examples = json.loads((folder / "assignment.json").read_text(encoding="utf-8"))["examples"]
        with np.load(folder / "examples.npz") as data:
            kept = dict(data)
        assert functions.HERE == folder

        def ask(title, function):
            (example,) = (e for e in examples if e["title"] == title)
            module = types.SimpleNamespace(__file__=str(folder / "stages" / "s02_online_softmax" / "kernel.py"))
            if function is not None:
                setattr(module, example["function"], function)
            return functions.problem(module, example, kept)

        yield ask
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "checks"]:
            del sys.modules[name]


def step(*arguments):
    from stages.s02_online_softmax.kernel import online_softmax_step

    with np.errstate(all="ignore"):
        return online_softmax_step(*arguments)


def off(place, by):
    """The step with one number of O changed."""

    def function(*arguments):
        O, m, l = step(*arguments)
        O[place] += by
        return O, m, l

    return function


@pytest.mark.parametrize(
    "function, says",
    (
        (lambda *a: None, "returned None; expected 3 values, O, m, l. Is there a return"),
        (lambda *a: step(*a)[0], "returned 1 value; expected 3 values, O, m, l"),
        (lambda *a: step(*a)[:1], "returned 1 value; expected 3 values, O, m, l"),
        (lambda *a: step(*a)[:2], "returned 2 values; expected 3 values, O, m, l"),
        (lambda *a: (*step(*a), 1), "returned 4 values; expected 3 values, O, m, l"),
        (lambda *a: list(step(*a)), "returned 1 value; expected 3"),
        (lambda *a: tuple(step(*a)[i] for i in (0, 2, 1)), "in another order: O, l, m; expected O, m, l"),
        (lambda *a: tuple(step(*a)[i] for i in (1, 2, 0)), "in another order: m, l, O; expected O, m, l"),
        (lambda *a: (step(*a)[0].T[:1], *step(*a)[1:]), "O wrong: its shape is (1, "),
        (lambda *a: (step(*a)[0], "m", 0), "m is no array of numbers, but str"),
        (lambda *a: (step(*a)[0], step(*a)[1] + np.nan, step(*a)[2]), "m wrong in "),
        (off((2, 1), 0.25), "O wrong in 1 of "),
        (off((2, 1), 0.25), "row 2, column 1 is "),
        (off((2, 1), 0.25), "off by 0.25"),
        (off((2, 0), np.inf), "row 2, column 0 is inf, expected"),
        (lambda *a: a[9], "IndexError: tuple index out of range"),
        (lambda: 0, "TypeError: "),
        (None, "online_softmax_step is not defined in stages/s02_online_softmax/kernel.py"),
        (5, "online_softmax_step is not defined"),
    ),
)
def test_a_wrong_function(asked, function, says):
    assert says in asked("The step: the maximum grows", function)


def test_a_right_function(asked):
    for title in ("the first tile", "the maximum grows", "rows that have seen no key yet"):
        assert asked(f"The step: {title}", step) == ""
        assert asked(f"The step: {title}", lambda *a: tuple(x * (1 + 1e-12) for x in step(*a))) == ""


def test_a_check_never_says_right_of_what_is_wrong(ps1):
    """None, and two values for one: a line each, no traceback, hints of these two holes alone."""
    text = changed(
        S02,
        ("return O, m_new, l\n", "pass\n"),
        ("return w_a * O_a + w_b * O_b, L", "return (w_a * O_a + w_b * O_b,)"),
    )
    done = run(ps1(text), "check.py", *FEW)
    assert done.returncode == 1 and ": right" not in done.stdout
    assert "online_softmax_step: returned None; expected" in done.stdout
    assert "merge: returned 1 value; expected 2 values, O, L" in done.stdout
    assert "--hint online_softmax_step" in done.stdout and "--hint merge" in done.stdout
    assert "\nkey_loop (" not in done.stdout and "make" not in done.stdout
    assert "python check.py s02 --case " in done.stdout


def test_hints_are_of_what_is_wrong(ps1):
    """Of the functions when they are, of the rest when the cases fail and the functions are right."""
    done = run(ps1(changed(S02, ("return w_a * O_a + w_b * O_b, L", "return w_a * O_a, L"))), "check.py", *FEW)
    assert done.returncode == 1 and "--hint merge" in done.stdout
    assert "\nonline_softmax_step (" not in done.stdout and "\nkey_loop (" not in done.stdout
    done = run(ps1(changed(S02, ("Q_i @ K_j.T", "Q_i @ K_j.T + 1"))), "check.py", *FEW)
    assert done.returncode == 1 and "\nkey_loop (" in done.stdout and "--hint" not in done.stdout
    assert "Tile by tile: tried as soon as" in done.stdout


def test_a_file_that_does_not_import(ps1):
    done = run(ps1(S02 + "\nx = L_c\n"), "check.py", *FEW)
    line = S02.count("\n") + 2
    assert done.returncode == 1 and "cannot be imported: NameError: name 'L_c' is not defined" in done.stdout
    assert f"line {line} of stages/s02_online_softmax/kernel.py" in done.stdout


# ---- tile by tile ---------------------------------------------------------------------------------------------------


CALL = "            O_i, m_i, l_i = online_softmax_step(O_i, m_i, l_i, S, V_j)\n"
RULE = """\
            m_new = np.maximum(m_i, S.max(axis=1))
            m_safe = np.where(m_new == -np.inf, 0, m_new)
            P, alpha = np.exp(S - m_safe[:, None]), np.exp(m_i - m_safe)
            O_i, m_i, l_i = alpha[:, None] * O_i + P @ V_j, m_new, alpha * l_i + P.sum(axis=1)
"""
FIRST_ONLY = f"            if j == 0:\n    {CALL}                continue\n"
WALKS = {
    "inlined": (changed(S02, (CALL, RULE)), "attention does not call online_softmax_step"),
    "all at once": (
        changed(
            S02,
            ("for j in range(0, seqlen_k, Bc):", "for j in [0]:"),
            ("K[j : j + Bc], V[j : j + Bc]", "K, V"),
        ),
        "is called with an array of 12,288 numbers; a tile has at most 4,096",
    ),
    "called for show": (
        changed(S02, (CALL, f"            online_softmax_step(O_i, m_i, l_i, S, V_j)\n{RULE}")),
        "online_softmax_step is called, but the result is not made from what it returns",
    ),
    "for the first tile only": (
        changed(S02, (CALL, FIRST_ONLY + RULE)),
        "is called 1 times in a case of 64 queries and 192 keys, in which 3 tiles are seen",
    ),
    "S held": (
        changed(S02, ("    O, L = np.empty_like(Q)", "    whole = Q @ K.T  # noqa: F841\n    O, L = np.empty_like(Q)")),
        "allowed are 6,000. Something of the size of S is held.",
    ),
}


@pytest.mark.parametrize("name", WALKS)
def test_what_test_3_1_asks_is_seen_beforehand(ps1, name):
    """By check.py in words, where every case is right; and the grader agrees."""
    text, says = WALKS[name]
    folder = ps1(text)
    done = run(folder, "check.py", *FEW)
    assert done.returncode == 1 and "cases passed." in done.stdout and says in done.stdout, done.stdout
    assert "Tile by tile (test 3.1; 3.2 to 3.7 score nothing without it)" in done.stdout
    assignment = load("ps1")
    with worker_for(assignment) as worker:
        grades = grade(assignment, folder, "x", worker=worker, select=lambda t: t.number == "3.1", static=False)
    assert grades.graded[0].outcome.status in (REFUSED, MEMORY), grades.graded[0].outcome


def test_a_walk_in_tiles(ps1):
    done = run(ps1(S02), "check.py", *FEW)
    assert (
        done.returncode == 0 and "every K/V tile passes online_softmax_step, at most a tile at a time." in done.stdout
    )
    assert re.search(r"memory grows by [\d,]+ bytes for each further row; allowed are 6,000\.\n", done.stdout)
