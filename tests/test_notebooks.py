"""The lessons: in step with their texts, executed, fit for GitHub, and still saying what they say when run again."""

from __future__ import annotations

import re

import pytest

from stages import STAGES, get
from stages.common.where import gpu_arch
from tools.notebooks import __main__ as command
from tools.notebooks import pair as pairing
from tools.notebooks.execute import Failed, execute
from tools.notebooks.pair import Pair, from_text, load, pairs, problems, said, save

TEXT = """# A lesson

```python
print("one")
```

More.

```python tags=["exercise"]
1 + 1
```
"""


@pytest.fixture
def lesson(tmp_path) -> Pair:
    path = tmp_path / "s99_made_up.md"
    path.write_text(TEXT, encoding="utf-8")
    return Pair(path)


def test_every_stage_has_a_lesson_and_every_lesson_a_stage():
    assert [pair.name for pair in pairs()] == [stage.name for stage in STAGES]


@pytest.mark.parametrize("pair", pairs(), ids=lambda pair: pair.name.partition("_")[0])
def test_a_lesson_is_in_step_and_fit_to_be_shown(pair):
    assert problems(pair) == []


@pytest.mark.parametrize("pair", pairs(), ids=lambda pair: pair.name.partition("_")[0])
def test_a_lesson_says_the_same_when_it_is_run_again(pair):
    """Top to bottom, in a process of its own. On a GPU, stages run elsewhere, and say so: there it only has to run."""
    again = execute(pair)
    if gpu_arch() is None:
        assert said(again) == said(load(pair))


@pytest.mark.parametrize("pair", pairs(), ids=lambda pair: pair.name.partition("_")[0])
def test_a_lesson_holds_no_copy_of_its_kernel(pair):
    """It shows pieces of the stage's file. Three lines of a kernel in a row are a copy."""
    kernel = [_squeezed(line) for line in get(pair.name).kernel_file.read_text(encoding="utf-8").splitlines()]
    kernel = [line for line in kernel if len(line) > 20]
    runs = {tuple(kernel[i : i + 3]) for i in range(len(kernel) - 2)}
    code = [cell.source for cell in from_text(pair).cells if cell.cell_type == "code"]
    for source in code:
        lines = [line for line in map(_squeezed, source.splitlines()) if len(line) > 20]
        assert not runs & {tuple(lines[i : i + 3]) for i in range(len(lines) - 2)}


def _squeezed(line: str) -> str:
    return "".join(line.partition("#")[0].partition("//")[0].split())


@pytest.mark.parametrize("pair", pairs(), ids=lambda pair: pair.name.partition("_")[0])
def test_links_of_a_lesson_lead_somewhere(pair):
    text = re.sub(r"^```.*?^```", "", pair.text.read_text(encoding="utf-8"), flags=re.M | re.S)  # kernel[grid](x, y)
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in link:
            assert (pair.text.parent / link).exists(), link


# ---- the tool -------------------------------------------------------------------------------------------------------


def test_execute_save_and_check(lesson):
    made = execute(lesson)
    save(lesson, made)
    assert problems(lesson) == []
    assert said(load(lesson)) == ["one\n", "2"]


def test_the_same_text_gives_the_same_file(lesson):
    save(lesson, execute(lesson))
    first = lesson.notebook.read_bytes()
    save(lesson, execute(lesson))
    assert lesson.notebook.read_bytes() == first


def test_a_change_of_the_text_is_seen(lesson):
    save(lesson, execute(lesson))
    lesson.text.write_text(TEXT.replace("More.", "Less."), encoding="utf-8")
    assert "out of step" in problems(lesson)[0]


def test_what_is_wrong_with_a_notebook_is_said(lesson):
    assert "is not there" in problems(lesson)[0]
    save(lesson, from_text(lesson))
    assert [line for line in problems(lesson) if "was not executed" in line]
    made = execute(lesson)
    made.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}
    save(lesson, made)
    assert "state of widgets" in problems(lesson)[0]
    made = execute(lesson)
    made.cells[1].outputs[0].text = "x" * (pairing.MAX_BYTES + 1)
    save(lesson, made)
    assert "accepted: 1,000,000" in problems(lesson)[0]
    made = execute(lesson)
    made.cells[1].outputs[0].name = "stderr"
    save(lesson, made)
    assert "wrote to stderr" in problems(lesson)[0]


def test_a_cell_that_raises_fails_and_leaves_the_notebook_as_it_was(lesson, monkeypatch, capsys):
    save(lesson, execute(lesson))
    before = lesson.notebook.read_bytes()
    lesson.text.write_text(TEXT.replace("1 + 1", "1 / 0"), encoding="utf-8")
    with pytest.raises(Failed, match=r"s99_made_up: [\s\S]*1 / 0[\s\S]*ZeroDivisionError"):
        execute(lesson)
    monkeypatch.setattr(command, "pairs", lambda names: [lesson])
    assert command.main([]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert lesson.notebook.read_bytes() == before


def test_the_command_makes_checks_and_goes_back_to_text(lesson, monkeypatch, capsys):
    monkeypatch.setattr(command, "pairs", lambda names: [lesson])
    assert command.main(["--check"]) == 1
    assert command.main(["s99"]) == 0
    assert "1 of 1: s99_made_up" in capsys.readouterr().out
    assert command.main(["--check"]) == 0
    assert command.main(["--from-notebook", "s99"]) == 0
    assert from_text(lesson).cells[1].source == 'print("one")'
    assert problems(lesson) == []


@pytest.mark.parametrize("argv", (["s98"], ["--jobs", "0"], ["--limit", "0"], ["--from-notebook"], ["--check", "s98"]))
def test_wrong_arguments(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        command.main(argv)
    assert exit_.value.code == 2
