"""Building an assignment: handout, autograder and solution, and the proof that they fit each other."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stages import Stage
from tools.assignment import selfcheck
from tools.assignment.definition import ROOT, Assignment, Test
from tools.assignment.functions import FUNCTIONS, RELATIVE
from tools.assignment.hidden import generator, new_secret
from tools.assignment.notebook import notebook, stubs
from tools.assignment.tree import CUDA_TOOLS, FRAME, GRADER_TOOLS, archive, copy, handout
from tools.results import write_text

TEMPLATES = Path(__file__).resolve().parent / "templates"
PUBLIC = "public"  # the secret of what everybody may see
EXECUTABLE = stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH


class BuildError(RuntimeError):
    """The self-check found that the products do not fit each other. The message says what."""


def build(
    assignment: Assignment,
    out: Path,
    *,
    secret: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    check: bool = True,
) -> Path:
    """Build into `out`/NAME, whole or not at all -> that folder.

    secret: of the hidden cases; None: that of the last build, or a new one.
    Raises BuildError when the self-check finds something; what was there before is then left as it is.
    """
    target = Path(out) / assignment.name
    secret = secret or kept_secret(target) or new_secret()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{assignment.name}."))
    try:
        student(assignment, temporary / "student")
        archive(temporary / "student", temporary / "student.zip")
        solution(assignment, temporary / "solution")
        autograder(assignment, secret, temporary / "autograder")
        archive(temporary / "autograder", temporary / "autograder.zip")
        write_text(temporary / "secret.txt", secret + "\n")
        os.chmod(temporary / "secret.txt", 0o600)
        workflow(assignment, temporary / "github")
        nbgrader(assignment, temporary / "student", temporary / "autograder", temporary / "nbgrader")
        if check:
            found = selfcheck.problems(assignment, temporary, say)
            if found:
                raise BuildError("\n".join(found))
        shutil.rmtree(temporary / "autograder")  # the zip is what counts
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        os.chmod(target, 0o755)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def kept_secret(target: Path) -> str | None:
    path = target / "secret.txt"
    return path.read_text(encoding="utf-8").strip() or None if path.is_file() else None


def student(assignment: Assignment, to: Path) -> None:
    """The handout: a repository of its own, with what the assignment needs and holes where the work is."""
    handout(assignment, to)
    for name in ("check.py", "submit.py", "workbench.py"):
        shutil.copyfile(TEMPLATES / name, to / name)
    copy(TEMPLATES, ["checks"], to)
    shutil.copyfile(ROOT / "LICENSE", to / "LICENSE")
    shutil.copyfile(ROOT / "docs" / "classroom" / "student.md", to / "student.md")
    write_text(to / "README.md", readme(assignment))
    write_text(to / f"{assignment.name}.ipynb", notebook(assignment, readme(assignment), source=False))
    write_text(to / "stubs.json", json.dumps(stubs(assignment), indent=1) + "\n")
    write_text(to / "requirements.txt", requirements(assignment))
    examples = public_examples(assignment)
    if examples:
        np.savez_compressed(to / "examples.npz", **{k: v for e in examples for k, v in e["arrays"].items()})
    about = {
        "name": assignment.name,
        "title": assignment.title,
        "stages": {stage.short: stage.name for stage in assignment.stages},
        "submit": list(assignment.submitted),
        "accept": list(assignment.accept),
        "tasks": {stage.short: tasks(assignment, stage) for stage in assignment.stages},
        "tiles": tiles(assignment),
        "tolerance": RELATIVE * 100,  # as functions.py compares
        "points": [{"number": t.number, "title": t.title, "points": t.points} for t in assignment.tests],
        "examples": [{k: v for k, v in e.items() if k != "arrays"} for e in examples],
    }
    write_text(to / "assignment.json", json.dumps(about, indent=1) + "\n")


def tasks(assignment: Assignment, stage: Stage) -> dict[str, dict]:
    """A stage's holes: what is said of each, and in base64 what is said only to who asks, where that is more."""
    return {
        task.name: {
            "says": task.says,
            "hint": base64.b64encode(task.hint.encode()).decode() if task.hint != task.says else "",
        }
        for task in assignment.tasks_of(stage)
    }


def tiles(assignment: Assignment) -> list[dict]:
    """The tests of memory, as `python check.py` tries them."""
    found = []
    for test in assignment.tests:
        if test.kind == "memory" and test.stage.capability.backend == "numpy":
            hanging = [other for other in assignment.tests if other.only_if == test.number]
            without = f"; {_numbers(hanging)} score nothing without it" if hanging else ""
            wanted = {key: test.options[key] for key in ("lengths", "bytes_per_row")}
            wanted |= {"function": test.options.get("through", ""), "headdim": test.options.get("headdim", 32)}
            found.append({"number": test.number, "stage": test.stage.short, "without": without, **wanted})
    return found


def _numbers(tests: list[Test]) -> str:
    """ "3.2 to 3.7" of several, the number of one."""
    numbers = [test.number for test in tests]
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 2 else " and ".join(numbers)


def readme(assignment: Assignment) -> str:
    """The handout's text: what the definition says of it, around what assignments/NAME/README.md says."""
    hours = " to ".join(f"{h:g}" for h in dict.fromkeys(assignment.hours))
    files = "\n".join(f"    {path}" for path in assignment.submitted)
    rows = [f"| {t.number} | {t.title} | {t.points:g}{' (bonus)' if t.bonus else ''} |" for t in assignment.tests]
    table = "\n".join(["| test | what | points |", "| --- | --- | ---: |", *rows, *_hanging(assignment)])
    return f"""# {assignment.name}: {assignment.title}

Expect {hours} hours. Afterwards you can

{chr(10).join(f"- {goal};" for goal in assignment.goals[:-1])}
- {assignment.goals[-1]}.

{(assignment.folder / "README.md").read_text(encoding="utf-8").strip()}

## Set-up

Linux (or WSL 2 on Windows), Python 3.10 or newer{_compiler(assignment)}:

    python3 -m venv .venv
    .venv/bin/python -m pip install torch --index-url https://download.pytorch.org/whl/cpu
    .venv/bin/python -m pip install -r requirements.txt

and `.venv/bin/python` for `python` below and above. The second line is PyTorch's CPU build, which is enough and much
smaller; with a GPU that you want to use, leave the line out. `student.md` says how to work, and how to read the result.

## Handing in

    python submit.py

writes `submission.zip`. It holds

{files}

and nothing else counts: whatever you change elsewhere, the grader has its own.

{textwrap.fill(_may_say(assignment), 120)}

Hidden cases have the properties below, in other sizes and with other numbers than `check.py` has.

## Points

{table}
"""


def _may_say(assignment: Assignment) -> str:
    """What a file may say, in the words of its language."""
    languages = {"cuda" if stage.capability.backend == "cuda" else "python" for stage in assignment.stages}
    said = {
        "python": "A Python file may import what it imports now, and do nothing by reflection (`getattr`, `eval`, "
        "names that begin with two underscores).",
        "cuda": "A kernel may include what it includes now, and call what is in it, in `ptx.cuh` and in CUDA's "
        "mathematics: no assembly, no other shared memory than `smem`.",
    }
    refused = "A file that says more is refused and scores nothing; `check.py` and `submit.py` say so beforehand, with "
    return " ".join((*(said[language] for language in sorted(languages)), f"{refused}the line."))


def _hanging(assignment: Assignment) -> list[str]:
    """Which tests depend on which other, in a paragraph for each."""
    paragraphs = []
    for test in assignment.tests:
        hanging = [other for other in assignment.tests if other.only_if == test.number]
        if not hanging:
            continue
        points = test.points + sum(other.points for other in hanging)
        text = (
            f"**Tests {_numbers(hanging)} depend on test {test.number}.** Where it finds the opposite of its title, "
            f"they score nothing either: {points:g} points in all."
        )
        if test.options.get("through"):
            text += (
                f" `{test.options['through']}` has to be called for every K/V tile that a Q tile sees, with at most a "
                "tile, and the result has to be made of what it returns."
            )
        if any(tried["number"] == test.number for tried in tiles(assignment)):
            text += f" `python check.py {test.stage.short}` shows it beforehand."
        paragraphs += ["", textwrap.fill(text, 120)]
    return paragraphs


def _compiler(assignment: Assignment) -> str:
    return " and g++" if any(stage.capability.backend == "cuda" for stage in assignment.stages) else ""


def public_examples(assignment: Assignment) -> list[dict]:
    """Examples, of everybody's secret, for every test of a single function."""
    examples = []
    for test in assignment.tests:
        if test.kind != "function":
            continue
        rng = generator(PUBLIC, test.number)
        questions = FUNCTIONS[test.options["function"]](rng, test.options)
        keys = [f"t{test.number.replace('.', '_')}_{n}" for n in range(len(questions))]
        arrays = {}
        for key, question in zip(keys, questions):
            arrays |= {f"{key}_in{i}": a for i, a in enumerate(question.arguments)}
            arrays |= {f"{key}_out{i}": a for i, a in enumerate(question.expected)}
        examples.append(
            {
                "keys": keys,
                "stage": test.stage.short,
                "function": question.function,
                "title": test.title,
                "arguments": len(question.arguments),
                "results": list(question.names),
                "arrays": arrays,
            }  # fmt: skip
        )
    return examples


def solution(assignment: Assignment, to: Path) -> None:
    """The files as a perfect student would hand them in."""
    for stage, path in zip(assignment.stages, assignment.submitted):
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stage.kernel_file, to / path)


def autograder(assignment: Assignment, secret: str, to: Path) -> None:
    """What Gradescope wants, and what grades anywhere: no solution in it."""
    handout(assignment, to)
    copy(ROOT, (*FRAME, *CUDA_TOOLS, *GRADER_TOOLS), to)
    copy(ROOT, [f"assignments/{assignment.name}/assignment.toml"], to)
    write_text(to / "requirements.txt", requirements(assignment, grader=True))
    write_text(to / "secret.txt", secret + "\n")
    compiler = " g++ binutils" if any(s.capability.backend == "cuda" for s in assignment.stages) else ""
    for name, fields in (("setup.sh", {"compiler": compiler}), ("run_autograder", {"name": assignment.name})):
        text = (TEMPLATES / name).read_text(encoding="utf-8")
        for key, value in fields.items():
            text = text.replace(f"{{{key}}}", value)
        write_text(to / name, text)
        os.chmod(to / name, EXECUTABLE)


def workflow(assignment: Assignment, to: Path) -> None:
    """A GitHub Actions workflow for courses that grade there."""
    text = (TEMPLATES / "grade.yml").read_text(encoding="utf-8")
    folder = to / ".github" / "workflows"
    folder.mkdir(parents=True)
    fields = {"name": assignment.name, "minutes": f"{assignment.minutes + 10:g}"}
    write_text(folder / f"grade-{assignment.name}.yml", text.format(**fields))


def nbgrader(assignment: Assignment, student: Path, grader: Path, to: Path) -> None:
    """A course folder for nbgrader: the source notebook beside the handout's files; and the grader, which stays."""
    source = to / "source" / assignment.name
    shutil.copytree(student, source)
    shutil.copytree(grader, to / "grader")
    write_text(source / f"{assignment.name}.ipynb", notebook(assignment, readme(assignment), source=True))
    text = (TEMPLATES / "nbgrader_config.txt").read_text(encoding="utf-8")
    fields = {"name": assignment.name, "seconds": f"{assignment.minutes * 60:.0f}"}
    write_text(to / "nbgrader_config.py", text.format(**fields))


def requirements(assignment: Assignment, grader: bool = False) -> str:
    """For pip. grader: with what only grading needs: a compiler for GPUs and a disassembler, where a test asks them."""
    lines = ["numpy>=1.26", "rich>=13", "tomli>=2; python_version < '3.11'", "torch>=2.6"]
    if any(stage.capability.backend == "triton" for stage in assignment.stages):
        lines.append("triton>=3.2; sys_platform == 'linux'")
    if grader and any(test.kind == "compiled" for test in assignment.tests):
        lines += ["cupy-cuda13x>=13.6", "nvidia-cuda-nvrtc==13.*", "nvidia-cuda-runtime==13.*", "triton>=3.2"]
    return "\n".join(lines) + "\n"
