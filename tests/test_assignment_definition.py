"""Definitions: what is refused and in which words, what is noted, and that the guide has all there is."""

from __future__ import annotations

import itertools
import json
import re
import zipfile

import pytest

from reference.cases import LAYOUTS, Case
from reference.inputs import FAMILIES, captured_shape
from stages import STAGES, get
from tools.assignment import __main__ as command
from tools.assignment import hidden, selfcheck
from tools.assignment.definition import (
    CASE_FIELDS,
    FOLDER,
    KINDS,
    DefinitionError,
    _Reader,
    load,
    names,
    notes,
    require_text,
    span,
    tomllib,
)  # fmt: skip
from tools.assignment.functions import FUNCTIONS
from tools.assignment.selfcheck import gives_away, shipped_answers
from tools.check import properties

ALL = names()


def test_there_are_five():
    assert ALL[:5] == ["ps1", "ps2", "ps3", "ps4", "ps5"]


@pytest.mark.parametrize("name", ALL)
def test_a_definition(name):
    """Points add up to 100, every test's cases have the property it names, whatever the secret."""
    assignment = load(name)
    assert assignment.points == 100
    assert assignment.goals and assignment.hours[0] <= assignment.hours[1]
    for test in assignment.tests:
        for secret in ("a", "b", "c"):
            assert len(hidden.cases(test, secret)) == len(test.cases)
        assert test.seconds < assignment.minutes * 60
    assert len((assignment.folder / "README.md").read_text(encoding="utf-8")) > 1000  # a handout's text


def definition(tmp_path, change, name="ps1"):
    folder = tmp_path / "psx"
    folder.mkdir(exist_ok=True)
    text = (FOLDER / name / "assignment.toml").read_text(encoding="utf-8")
    (folder / "assignment.toml").write_text(change(text), encoding="utf-8")
    return load("psx", tmp_path)


@pytest.mark.parametrize(
    "old, new, says",
    (
        ('title = "The', 'tilte = "The', "title is missing"),
        ('stages = ["s01", "s02"]', 'stages = ["s01", "s99"]', "stage is 's99'"),
        ('stages = ["s01", "s02"]', 'stages = ["s02", "s01"]', "in order"),
        ("hours = [4, 6]", "hours = [6, 4]", "from and to"),
        ("hours = [4, 6]", "hours = ['4', 6]", "from and to"),
        ("hours = [4, 6]", "hours = [4, 6]\nfoo = 1", "'foo' that means nothing here; accepted: title, stages"),
        ("points = 8", "pionts = 8", "test 1.1: points is missing; there is a key 'pionts'"),
        ('only_if = "3.1"', 'only_iff = "3.1"', "'only_iff' that means nothing here; is 'only_if' meant?"),
        (
            'about = "not causal"',
            'about = "big logits"',
            "test 1.1: about is 'big logits'; accepted: one tile, several",
        ),
        ('state = "new"', 'state = "new"\nabout = "one tile"', "a test of kind function has no cases"),
        ("lengths = [512, 2048]", "lengths = [2048, 512]", "the smaller first"),
        ("lengths = [512, 2048]", "lengths = [512]", "two whole numbers"),
        ('kind = "memory"', 'kind = "emulator"', "which is for cuda stages; s02 is numpy"),
        ('cases = [{ seqlen_q = "5..40"', 'casse = [{ seqlen_q = "5..40"', "cases is missing; is 'casse' meant?"),
        ('kind = "memory"', 'kind = "memory"\nbytes = 3', "'bytes' that means nothing"),
        ("bytes_per_row = 6000", "", "bytes_per_row is missing"),
        ('state = "growing"', 'state = "grown"', "state is 'grown'; accepted: new, growing"),
        ('state = "growing"', 'state = "growing"\ncases = [{ headdim = 16 }]', "of kind function has no cases"),
        ('name = "naive"', 'name = "nave"', "marks no region 'nave'; accepted: naive"),
        (
            'first = "L = np.logaddexp(L_a, L_b)"',
            'first = "L = 1"',
            "is no line of stages/s02_online_softmax/kernel.py",
        ),
        (
            'first = "L = np.logaddexp(L_a, L_b)"',
            'first = "L = logaddexp(L_a, L_b)"',
            "is 'L = np.logaddexp(L_a, L_b)' meant?",
        ),
        (
            'first = "for j in range(0, seqlen_k, Bc):"',
            'first = \'"""\'',
            "of stages/s02_online_softmax/kernel.py; accepted: one",
        ),
        ('last = "return w_a', 'last = "return w_b', "from line"),
        ("points = 8", "points = 0", "accepted: above 0"),
        ("points = 8", 'points = "8"', "points is '8'; accepted: a number"),
        ('kind = "memory"', 'kind = "memroy"', "accepted: attention, function, memory"),
        ('number = "1.2"', 'number = "1.1"', "a second test of that number"),
        ('only_if = "3.1"', 'only_if = "4.1"', "the number of a test before it"),
        ('seqlen_q = "10..50"', 'seqlen_q = "10.50..3"', "accepted: a value, a list of values"),
        ('seqlen_q = "10..50"', 'seqlen_q = "50..10"', "test 1.1, case 3: seqlen_q is '50..10', which leaves nothing"),
        ('seqlen_q = "10..50"', "seqlen_q = []", "which leaves nothing to draw"),
        ('seqlen_q = "10..50"', "seqlen_q = 0", "whole numbers from 1"),
        ('seqlen_q = "10..50"', "seqlen_q = [1, true]", "whole numbers from 1"),
        ("headdim = 32, family", "head_dim = 32, family", "a case has a key 'head_dim'; is 'headdim' meant?"),
        (
            'dtype = "float64"',
            'dtype = "fp64"',
            "test 1.1, case 2: dtype is 'fp64'; accepted: float16, bfloat16, float32, float64",
        ),
        ('family = "constant_v"', 'family = "spike"', "family is 'spike'; accepted: normal, shifted"),
        ('family = "constant_v"', 'family = ["normal", "spike"]', "accepted: normal, shifted"),
        ('family = "constant_v"', 'layout = "sliced_"', "accepted: contiguous, transposed, sliced"),
        ("nheads = 4, nheads_k = 2", "nheads = 4, nheads_k = 3", "test 1.1, case 2: nheads is 4 and nheads_k 3"),
        ("nheads = 4, nheads_k = 2", 'nheads = 4, nheads_k = "1..3"', "nheads is 4 and nheads_k 3"),
        ("nheads = 4, nheads_k = 2", "nheads = 3", "nheads is 3 and nheads_k 2; accepted: an nheads_k that divides"),
        ("causal = true", "causal = 1", "causal is 1; accepted: true, false"),
        ("softmax_scale = [0.3", "softmax_scale = [-0.3", "accepted: a number above 0"),
        (
            'seqlen_k = "100..150", headdim = 32',
            'seqlen_k = "100..450", headdim = 32',
            "which were captured at seqlen up to",
        ),
        ("minutes = 10 ", "minutes = [10 ", "not TOML"),
    ),
)
def test_a_wrong_definition_says_so(tmp_path, old, new, says):
    def change(text):
        assert old in text
        return text.replace(old, new, 1)

    with pytest.raises(DefinitionError, match="assignment.toml") as error:
        definition(tmp_path, change)
    assert says in str(error.value)


@pytest.mark.parametrize(
    "name, old, new, says",
    (
        ("ps3", 'needs = "gpu"', "", "needs is missing; accepted for kind speed: gpu"),
        ("ps3", 'dtype = "float16"', 'dtype = "float32"', "dtype is 'float32'; accepted: float16, bfloat16"),
        ("ps3", 'headdim = "33..63"', 'headdim = "33..163"', "whole numbers from 1 to 128"),
        ("ps4", 'during = "some"', "", "during and barriers are missing"),
        (
            "ps4",
            'kind = "overlap"\nduring = "some"',
            'kind = "launches"\nprograms = "head"',
            "for triton stages; s22 is cuda",
        ),
        ("ps4", 'check = "races"', 'check = "race"', "accepted: conflicts, races"),
        ("ps4", 'kind = "emulator"\ncheck = "races"', 'kind = "overlap"\nduring = "all"', "has 2 cases"),
    ),
)
def test_what_cuda_stages_do_not_take_is_refused(tmp_path, name, old, new, says):
    def change(text):
        assert old in text
        return text.replace(old, new, 1)

    with pytest.raises(DefinitionError) as error:
        definition(tmp_path, change, name)
    assert says in str(error.value)


def test_an_unknown_assignment(tmp_path):
    with pytest.raises(DefinitionError, match="NAME is 'ps99'; accepted: ps1"):
        load("ps99")


@pytest.mark.parametrize("draw", (lambda a: hidden.cases(a.tests[0], "secret"), hidden.require_cases))
def test_a_case_without_the_property_is_refused(tmp_path, draw):
    assignment = definition(tmp_path, lambda t: t.replace('about = "not causal"', 'about = "several batches"', 1))
    with pytest.raises(DefinitionError, match="test 1.1, case 1: .* is never about 'several batches'"):
        draw(assignment)


def test_hidden_cases_depend_on_the_secret_alone():
    test = load("ps1").tests[0]
    assert hidden.cases(test, "a") == hidden.cases(test, "a") != hidden.cases(test, "b")
    lengths = {(c.seqlen_q, c.seqlen_k) for s in range(20) for c in hidden.cases(test, str(s))}
    assert len(lengths) > 20


# ---- what is noted --------------------------------------------------------------------------------------------------


def test_points_that_do_not_add_up_are_noted_and_not_refused(tmp_path):
    assert not any(notes(load(name)) for name in ALL[:5])
    (note,) = notes(definition(tmp_path, lambda text: text.replace("points = 8", "points = 10", 1)))
    assert "add up to 102" in note


def test_a_handout_needs_its_text(tmp_path):
    assignment = definition(tmp_path, lambda text: text)
    with pytest.raises(DefinitionError, match="psx/README.md is missing; accepted: the middle of the handout's text"):
        require_text(assignment)
    (assignment.folder / "README.md").write_text("text")
    require_text(assignment)


@pytest.mark.parametrize("value, values", (("3..5", [3, 4, 5]), ("5..3", []), ([1, 2], [1, 2]), ("x", ["x"]), (7, [7])))
def test_what_a_pattern_leaves_open(value, values):
    assert span(value) == values
    drawn = {hidden.draw(value, hidden.generator("x", i)) for i in range(40)} if values else set()
    assert drawn == set(values)


def test_what_the_handouts_give_away(tmp_path):
    for name in ALL[:5]:  # and no set of somebody's own
        own(tmp_path, name, (FOLDER / name / "assignment.toml").read_text(encoding="utf-8"))
    assert gives_away(load("ps1"), tmp_path) == ["its answers are in the handouts of ps2, ps3, ps4, ps5"]
    assert gives_away(load("ps4"), tmp_path)[:2] == [
        "ships whole: s01, s02 (the answers of ps1); s11, s12 (the answers of ps2); s21 (the answers of ps3)",
        "hand it out after the last deadline of ps1, ps2, ps3",
    ]


MERGE = """
title = "The merge rule"
stages = ["s02"]
goals = ["merge"]
hours = [1, 2]

[[task]]
stage = "s02"
name = "merge"
hint = "two weights"
first = "L = np.logaddexp(L_a, L_b)"
last = "return w_a * O_a + w_b * O_b, L"

[[test]]
number = "1.1"
title = "Merging"
stage = "s02"
points = 100
kind = "function"
function = "merge"
"""


def own(folder, name: str, text: str):
    (folder / name).mkdir()
    (folder / name / "assignment.toml").write_text(text, encoding="utf-8")
    return load(name, folder)


def test_a_file_that_two_assignments_share_gives_answers_away(tmp_path):
    """A set on the merge rule alone ships the step and the walk of ps1, and ps1 does not ship its answer."""
    merge = own(tmp_path, "ps6", MERGE)
    assert shipped_answers(merge, load("ps1")) == (["s01"], ["s02 key_loop", "s02 online_softmax_step"])
    assert shipped_answers(load("ps1"), merge) == ([], [])
    assert shipped_answers(load("ps3"), merge) == (["s02"], [])
    own(tmp_path, "ps1", (FOLDER / "ps1" / "assignment.toml").read_text(encoding="utf-8"))
    (tmp_path / "ps7").mkdir()
    (tmp_path / "ps7" / "assignment.toml").write_text("title = 3")
    first, second, third, unread = gives_away(merge, tmp_path)
    assert first == "ships whole: s01 (the answers of ps1)"
    assert second == "ships beside its own holes: s02 key_loop, s02 online_softmax_step (of ps1)"
    assert third == "hand it out after the last deadline of ps1" and unread.startswith("not compared with ps7: ")


def test_check_says_what_a_handout_ships(monkeypatch, capsys):
    monkeypatch.setattr("tools.assignment.build.build", lambda *_, **__: None)
    assert command.main(["check", "ps2"]) == 0
    assert "note: ships whole: s01, s02 (the answers of ps1)" in capsys.readouterr().out


def test_check_refuses_what_build_could_not_use(monkeypatch, capsys, tmp_path):
    assignment = own(tmp_path, "ps6", MERGE)
    monkeypatch.setattr(command, "load", lambda name: assignment)
    with pytest.raises(SystemExit) as stopped:
        command.main(["check", "ps6"])
    assert stopped.value.code == 2 and "README.md is missing" in capsys.readouterr().err


def test_list_shows_bonuses_and_what_grading_needs(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    assert command.main(["list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line[:4].strip() in ALL}
    assert "100          " in rows["ps1"] and "compiler" not in rows["ps1"]
    assert re.search(r"100 +30 +8–20 +C\+\+ compiler", rows["ps5"])
    assert command.needs(load("ps5")) == ["C++ compiler", "CuPy", "GPU (3.2, bonus)"]
    assert command.needs(load("ps2")) == ["GPU (3.1, bonus)"]
    monkeypatch.setattr(command, "names", lambda: ["ps6"])
    monkeypatch.setattr(command, "load", lambda _: own(tmp_path, "ps6", MERGE.replace("= 100", "= 98")))
    assert command.main(["list"]) == 0
    assert "ps6: the points add up to 98" in capsys.readouterr().out


# ---- a grader that stops --------------------------------------------------------------------------------------------


def a_grader(folder, script: str):
    """An autograder.zip whose run_autograder is `script`, and what it would be tried on."""
    with zipfile.ZipFile(folder / "autograder.zip", "w") as packed:
        packed.writestr("run_autograder", script)
        packed.writestr("setup.sh", "")
    with zipfile.ZipFile(folder / "student.zip", "w") as packed:
        packed.writestr("README.md", "")
    (folder / "solution").mkdir()
    return folder


STOPPED = [{"number": "1.1", "extra_data": {"seconds": 1}}, {"number": "1.2"}, {"number": "1.3"}]


@pytest.mark.parametrize(
    "tests, says",
    ((STOPPED, "the grader stopped at test 1.2: ValueError: why"), ([], "before it had any result: ValueError: why")),
)
def test_why_a_grader_stopped_is_said_once(tmp_path, monkeypatch, tests, says):
    results = json.dumps({"score": 0, "tests": tests, "extra_data": {"complete": False}})
    script = f"echo '{results}' > $AUTOGRADER/results/results.json\necho 'Traceback ...\nValueError: why' >&2\n"
    built = a_grader(tmp_path, script)
    for other in ("only_earlier", "no_leak", "imports"):
        monkeypatch.setattr(selfcheck, other, lambda *_: [])
    said = []
    (problem,) = selfcheck.problems(load("ps1"), built, said.append)
    assert says in problem and [line.partition(":")[0] for line in said] == ["ok"] * 3 + ["FAILED"] * 2


# ---- the guide ------------------------------------------------------------------------------------------------------

README = (FOLDER / "README.md").read_text(encoding="utf-8")


def table(start: str) -> dict[str, str]:
    """Of the guide's first table in or after the line `start`: what stands first in a row -> the rest of it."""
    rows, lines = {}, README.partition(f"\n{start}")[2].partition("\n| --- |")[2].splitlines()[1:]
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines):
        first, _, rest = line.strip("| ").partition(" |")
        rows |= dict.fromkeys(re.findall("`([^`]+)`", first) or [first], rest)
    return rows


def test_the_guide_has_every_property_and_family():
    assert list(table("| about |")) == list(properties(get("s12")))
    assert all(list(properties(stage)) == list(table("| about |")) for stage in STAGES)
    assert list(table("| family |")) == list(FAMILIES)
    seqlen, nheads, headdim = captured_shape()
    shape = f"lengths up to {seqlen}, up to {nheads} heads, `headdim` {headdim}"
    assert shape in table("| family |")["activations"]


def test_the_guide_has_every_field_of_a_case():
    fields = table("| field |")
    assert set(fields) == set(CASE_FIELDS)
    for name, text in fields.items():
        default = getattr(Case, name)
        assert name == "softmax_scale" or str(default).lower() == text.split("|")[0].strip(" `"), name
    assert all(f"`{layout}`" in fields["layout"] for layout in LAYOUTS)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.short)
def test_the_guide_has_every_dtype(stage):
    row = table("| stages in |")[{"numpy": "NumPy", "triton": "Triton", "cuda": "CUDA"}[stage.capability.backend]]
    dtypes, headdim = row.split("|")
    assert tuple(re.findall("`([^`]+)`", dtypes)) == stage.capability.dtypes
    assert headdim.strip() == (f"up to {stage.capability.max_headdim}" if stage.capability.headdims else "any")


def test_the_guide_has_every_key():
    kinds = table("| kind |")
    assert set(kinds) == set(KINDS)
    for kind, options in KINDS.items():
        for key, accepted in options.items():
            values = accepted if isinstance(accepted, tuple) and key not in ("dtype",) else ()
            assert all(f"`{word}`" in kinds[kind] or f"`{word} = " in kinds[kind] for word in (key, *values)), (
                kind,
                key,
            )
    assert all(f"`{function}`" in kinds["function"] for function in FUNCTIONS)


def test_the_guide_has_every_key_of_all_kinds():
    """What the reader asks of a definition, a task and a test, whatever its kind."""
    path = FOLDER / "ps3" / "assignment.toml"
    reader = _Reader(path)
    reader.assignment(tomllib.loads(path.read_text(encoding="utf-8")))
    tables = {"task", "test", "leaderboard"}
    assert set(reader.asked["top level"]) == {key.strip("[]") for key in table("## The definition")} >= tables
    assert set(reader.asked["task swizzle"]) == set(table("## A task"))
    assert set(reader.asked["test 1.1"]) == set(table("## A test")) | set(KINDS["attention"])
    assert all(f"`{key}`" in table("## The definition")["[[leaderboard]]"] for key in reader.asked["leaderboard 1"])
