"""What the lessons are made with: pieces of files, recorded figures, what runs, exercises and their answers."""

from __future__ import annotations

import ast
import importlib
import io
import pkgutil

import pytest
from PIL import Image

import tools.lesson.exercises
from stages import STAGES, get
from tests.conftest import place_or_skip
from tools import lesson
from tools.bench.shapes import Shape
from tools.lesson import answers, live, shown
from tools.lesson.pieces import LessonError
from tools.plot import traffic

for module in pkgutil.iter_modules(tools.lesson.exercises.__path__):
    importlib.import_module(f"tools.lesson.exercises.{module.name}")
EXERCISES = sorted(answers._EXERCISES.values(), key=lambda one: one.name)


# ---- exercises ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", EXERCISES, ids=lambda one: one.name)
def test_the_solution_is_right_and_wrong_answers_are_not(one):
    assert answers.verdict(one.name, one.solution) == ""
    assert one.wrong, "an exercise without a wrong answer: who knows whether its check can fail?"
    for number, wrong in enumerate(one.wrong):
        assert answers.verdict(one.name, wrong), f"wrong answer {number} passes"


@pytest.mark.parametrize("one", EXERCISES, ids=lambda one: one.name)
def test_no_answer_is_no_answer(one):
    def stub(*arguments):
        """A docstring."""
        ...

    def longer(first, second):
        """A docstring
        of two lines."""
        ...

    def passes(first):
        pass  # a comment

    for nothing in (None, ..., stub, longer, passes):
        assert answers.verdict(one.name, nothing) == "no answer yet"
    assert "no answer yet" in repr(lesson.answer(one.name, None))
    assert one.hints
    for number in range(1, len(one.hints) + 1):
        assert f"Hint {number}" in repr(lesson.hint(one.name, number))
    with pytest.raises(LessonError, match="accepted: 1 to"):
        lesson.hint(one.name, len(one.hints) + 1)
    assert repr(lesson.solution(one.name))


def test_a_triton_kernel_that_was_not_written_is_no_answer():
    triton = pytest.importorskip("triton")

    @triton.jit
    def stub(S, L, row_stride, columns):
        """A docstring."""
        ...

    assert answers.verdict("s11.logsumexp", stub) == "no answer yet"
    assert "@triton.jit" in repr(lesson.solution("s11.logsumexp"))


def test_every_stage_has_an_exercise():
    assert {one.name.partition(".")[0] for one in EXERCISES} == {stage.short for stage in STAGES}


def test_an_answer_that_raises_is_wrong_and_an_unknown_exercise_an_error():
    assert "ZeroDivisionError" in answers.verdict("s01.bytes", lambda seqlen, d: 1 / 0)
    with pytest.raises(LessonError, match="s01.bytes, s01.softmax"):
        answers.find("s01.nothing")
    with pytest.raises(LessonError, match="exercise is 'x99.y'"):
        answers.find("x99.y")


def test_what_an_answer_raises_is_said_with_the_line():
    def raises(seqlen, d):
        half = seqlen // 2
        return half / (d - d)

    said = answers.verdict("s01.bytes", raises)
    assert "ZeroDivisionError" in said and "`return half / (d - d)`" in said
    assert f"line {raises.__code__.co_firstlineno + 2}:" in said

    def forgets(S):
        S - S.max()

    assert answers.verdict("s01.softmax", forgets) == (
        "your function returned None; wanted: an array of shape (4, 7). Is there a `return`?"
    )
    said = answers.verdict("s20.accumulator", lambda lane, register: lane)
    assert said.startswith("your function returned int; wanted: a tuple of 2 (int)")


def test_a_triton_kernel_that_raises_says_the_line():
    triton = pytest.importorskip("triton")
    place_or_skip(get("s11"), "float16")
    import triton.language as tl

    @triton.jit
    def raises(S, L, row_stride, columns, B: tl.constexpr):
        i = tl.program_id(0)
        tl.store(L + i, tl.load(S + tl.arange(0, B)))

    assert "`tl.store(L + i" in answers.verdict("s11.logsumexp", raises)


def test_a_list_of_findings_ends_before_the_help():
    does_not_compile = answers.find("s20.quad_sum").solution.replace("v += shfl_xor(v, 2)", "v += nothing(v)")
    said = repr(lesson.answer("s20.quad_sum", does_not_compile))
    assert "does not compile" in said and "\n```\n\n(hint(" in said
    diverges = answers.find("s20.quad_sum").wrong[5]  # only even lanes come to the shuffle
    assert "quad_sum:\n\n- " in repr(lesson.answer("s20.quad_sum", diverges))


@pytest.mark.parametrize("one", EXERCISES, ids=lambda one: one.name)
def test_a_solution_is_shown_as_code_of_its_own(one):
    if callable(one.solution):
        shown_ = lesson.solution(one.name).markdown.removeprefix("```python\n").removesuffix("\n```")
        ast.parse(shown_)
        assert "solution=" not in shown_


# ---- pieces ---------------------------------------------------------------------------------------------------------


def test_a_piece_is_what_stands_in_the_file():
    kernel = get("s20").kernel_file.read_text(encoding="utf-8")
    made = lesson.code("s20", function="load_tile")
    body = made.markdown.partition("```cpp\n")[2].removesuffix("\n```")
    assert body in kernel
    assert body.startswith("// Start copying") and body.endswith("}")
    assert "stages/s20_mma/kernel.cu#L" in made.markdown
    assert "def merge(" in repr(lesson.code("s02", function="merge"))
    region = repr(lesson.code("s02", region="online_softmax_step"))
    assert "m_new = np.maximum" in region and "SOLUTION" not in region
    assert repr(lesson.code("s20", "// S = Q Kᵀ", lines=2)).count("\n") == 3
    assert "mma_m16n8k16" not in repr(lesson.code("s20", "// S = Q Kᵀ", "ldmatrix_x4(K_frag"))
    assert "cp_async_commit" in repr(lesson.code("s20", function="cp_async_commit", file="stages/common/ptx.cuh"))


@pytest.mark.parametrize(
    "asks",
    (
        {"function": "nothing"},
        {"region": "nothing"},
        {"start": "no such text"},
        {"start": "// S = Q Kᵀ", "stop": "no such text"},
    ),
)
@pytest.mark.parametrize("name", ("s12", "s20"))
def test_a_piece_that_is_not_there_is_an_error(asks, name):
    with pytest.raises(LessonError, match="no such text|nothing|// S"):
        lesson.code(name, **asks)


def test_a_difference_has_the_lines_that_differ():
    made = lesson.difference("s20", "s21").markdown
    assert "-  return row * (d * 2) + chunk * 16;" in made
    assert "+  return row * (d * 2) + (chunk ^ row % 8) * 16;" in made
    assert "1 changed" in made


# ---- recorded -------------------------------------------------------------------------------------------------------


def test_recorded_figures_are_those_of_the_documents():
    assert lesson.quoted("speedup", stage="s21", over="s20", headdim="128", seqlen="4k").endswith("×")
    table = repr(lesson.measured("s20", "s21"))
    assert lesson.quoted("speedup", stage="s21", over="s20", headdim="128", seqlen="4k") in table
    assert "shared load conflicts" in repr(lesson.bought("s20", "s21", "counters"))
    assert lesson.instructions("s20", "HMMA")["HMMA"] > 0
    assert lesson.quoted("ablation", toggle="always_rescale", headdim="64").strip("-+") in repr(
        lesson.ablated("always_rescale")
    )
    for wrong in (
        lambda: lesson.ablated("nothing"),
        lambda: lesson.quoted("speedup", stage="s21"),
        lambda: lesson.measured("s01"),
        lambda: lesson.bought("s01", "s02", "loop"),
        lambda: lesson.instructions("s20", "NOTHING"),
    ):
        with pytest.raises(LessonError):
            wrong()


# ---- live -----------------------------------------------------------------------------------------------------------


def test_trying_a_stage_says_where_it_ran_and_how_it_did():
    assert ": right; error" in repr(lesson.try_stage("s02"))
    assert "NumPy" in repr(lesson.here("s01"))


def test_counters_and_planted_bugs_of_a_cuda_stage():
    place_or_skip(get("s21"))
    swizzled = "(chunk ^ row % 8) * 16"
    table = repr(lesson.counted("s20", "s21", seqlen_q=64, seqlen_k=64, names=["ldmatrix_conflicts", "cp_async"]))
    conflicts = next(line for line in table.splitlines() if "ldmatrix conflicts" in line)
    assert conflicts.rstrip("| ").endswith(" 0")
    half = lesson.planted("s21", (swizzled, "(chunk ^ row % 4) * 16"), label="half of it")
    assert "half of it" in repr(lesson.counted("s21", half, seqlen_q=64, seqlen_k=64))
    assert ": right" in repr(lesson.found(get("s21"), seqlen_q=64, seqlen_k=64)) or "nothing was found" in repr(
        lesson.found("s21", seqlen_q=64, seqlen_k=64)
    )
    broken = lesson.planted("s21", (swizzled, "(chunk ^ row % 8) * 32"))
    assert "nothing was found" not in repr(lesson.found(broken, seqlen_q=64, seqlen_k=64))
    gone = lesson.planted("s21", (swizzled, "nothing_of_that_name"))
    assert "does not compile" in repr(lesson.found(gone, seqlen_q=64, seqlen_k=64))


@pytest.mark.parametrize(
    "name, old, new",
    (("s02", "alpha[:, None] * O +", "O +"), ("s12", "O_i = O_i * alpha[:, None]", "O_i = O_i"))
)  # fmt: skip
def test_bugs_are_planted_in_stages_of_python_too(name, old, new):
    place_or_skip(get(name), "float16")
    broken = lesson.planted(name, (old, new), label="no rescaling")
    assert repr(lesson.try_stage(broken)).startswith("no rescaling on ")
    assert ": WRONG; out is off by" in repr(lesson.try_stage(broken))
    assert ": right" in repr(lesson.try_stage(name)), "the stage itself is as it was"


def test_planting_wants_a_text_that_stands_once_and_counters_a_cuda_stage():
    with pytest.raises(LessonError, match="0 times"):
        lesson.planted("s21", ("no such text", ""))
    with pytest.raises(LessonError, match="s02_online_softmax.s kernel has .m_new. "):
        lesson.planted("s02", ("m_new", "m"))
    with pytest.raises(LessonError, match="no CUDA stage"):
        live.emulated("s12")
    with pytest.raises(LessonError, match="no counter"):
        lesson.counted("s20", names=["nothing"], seqlen_q=16, seqlen_k=16)


# ---- recorded in Triton's interpreter -------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("seqlen_q, seqlen_k", ((128, 192), (192, 128)))
def test_bytes_asked_are_those_of_the_closed_form(seqlen_q, seqlen_k, causal):
    place_or_skip(get("s12"), "float16")
    case = {"headdim": 32, "nheads": 2, "nheads_k": 2, "seqlen_q": seqlen_q, "seqlen_k": seqlen_k, "causal": causal}
    shape = Shape(1, seqlen_q, seqlen_k, 2, 2, 32, causal)
    zeroed = 2 * 4 * seqlen_q * (32 + 2)  # O, m and l are zeroed before the kernel is launched
    for name, closed in (("s11", traffic.v1_bytes), ("s12", traffic.v2_bytes)):
        run = lesson.traced(name, **case)
        assert run.ok
        assert run.total == closed(shape, 2, 64, 64) - zeroed * (name == "s11")
        assert run.programs == (2 if name == "s11" else 2 * seqlen_q // 64)
        assert run.bytes_of("store", "Out") == 2 * seqlen_q * 32 * 2


def test_what_is_masked_is_not_asked_for():
    place_or_skip(get("s12"), "float16")
    run = lesson.traced("s12", headdim=16, nheads=1, nheads_k=1, seqlen_q=5, seqlen_k=70, causal=False)
    assert run.bytes_of("load", "Q") == 5 * 16 * 2
    assert run.bytes_of("load", "K") == 70 * 16 * 2


def test_programs_visit_tiles_in_the_order_of_the_paper():
    place_or_skip(get("s12"), "float16")
    first, second = (repr(lesson.visited(name)).splitlines() for name in ("s11", "s12"))
    assert [line.strip() for line in first[:6]] == [
        "program 0",
        "load K0 V0",
        "load Q0 Acc0 M0 L0 store Acc0 M0 L0",
        "load Q1 Acc1 M1 L1 store Acc1 M1 L1",
        "barrier",
        "load K1 V1",
    ]
    assert "program 1" not in first
    assert [line.strip() for line in second[:5]] == [
        "program 0", "load Q0", "load K0 V0", "load K1 V1", "load K2 V2",
    ]  # fmt: skip
    assert "program 1" in second
    assert "… and 1 more programs" in repr(lesson.visited("s12", programs=1))


def test_a_changed_kernel_is_recorded_and_the_stage_left_alone():
    place_or_skip(get("s12"), "float16")
    case = {"headdim": 16, "nheads": 1, "nheads_k": 1, "seqlen_q": 192, "seqlen_k": 192}
    all_keys = lesson.planted("s12", ("last_key = tl.minimum(seqlen_k, i + Br + shift)", "pass"), label="all keys")
    table = repr(lesson.asked("s12", all_keys, **case))
    loads = next(line for line in table.splitlines() if "loads of K" in line)
    assert loads == "| loads of K, bytes | 12,288 | 18,432 |"
    assert "all keys" in table and "WRONG" not in table
    with pytest.raises(LessonError, match="no Triton stage"):
        lesson.asked("s20")


def test_a_recording_of_another_process_is_the_same(monkeypatch):
    """On a GPU the interpreter is in a process of its own."""
    place_or_skip(get("s12"), "float16")
    case = {"headdim": 16, "nheads": 1, "nheads_k": 1, "seqlen_q": 40, "seqlen_k": 70}
    here = lesson.traced("s11", **case)
    monkeypatch.setattr("stages.common.interpreter.INTERPRETING", False)
    assert lesson.traced("s11", **case) == here


# ---- shown ----------------------------------------------------------------------------------------------------------


def test_pictures_are_small_and_have_words(monkeypatch):
    from tools.plot import style

    def draw(width=3.0):
        figure = style.figure(width, 2, "A title", "A subtitle")
        figure.subplots().plot([1, 2], [3, 4])
        figure.alt = f"a line, {width} wide"
        return figure

    data, metadata = lesson.show(draw())._repr_mimebundle_()
    assert Image.open(io.BytesIO(data["image/png"])).size == (330, 220)
    assert data["text/plain"] == "a line, 3.0 wide"
    assert metadata["image/png"]["alt"] == "a line, 3.0 wide"
    monkeypatch.setenv(shown.STATIC, "1")
    assert repr(lesson.slider(draw, width=(4.0, 5.0))) == "a line, 4.0 wide"


def test_tables_are_markdown():
    assert lesson.table(["a", "b"], [[1, 2]]).markdown.splitlines() == ["| a | b |", "| --- | ---: |", "| 1 | 2 |"]
