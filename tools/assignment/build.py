"""Building an assignment: handout, autograder and solution, and the proof that they fit each other."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tools.assignment import selfcheck
from tools.assignment.definition import ROOT, Assignment
from tools.assignment.functions import FUNCTIONS
from tools.assignment.hidden import generator, new_secret
from tools.assignment.notebook import notebook, stubs
from tools.assignment.tree import GRADER_TOOLS, archive, copy, handout
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
    shutil.copyfile(ROOT / "LICENSE", to / "LICENSE")
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
        "points": [{"number": t.number, "title": t.title, "points": t.points} for t in assignment.tests],
        "examples": [{k: v for k, v in e.items() if k != "arrays"} for e in examples],
    }
    write_text(to / "assignment.json", json.dumps(about, indent=1) + "\n")


def readme(assignment: Assignment) -> str:
    """The handout's text: what the definition says of it, around what assignments/NAME/README.md says."""
    hours = " to ".join(f"{h:g}" for h in dict.fromkeys(assignment.hours))
    files = "\n".join(f"    {path}" for path in assignment.submitted)
    rows = [f"| {t.number} | {t.title} | {t.points:g}{' (bonus)' if t.bonus else ''} |" for t in assignment.tests]
    table = "\n".join(["| test | what | points |", "| --- | --- | ---: |", *rows])
    return f"""# {assignment.name}: {assignment.title}

Expect {hours} hours. Afterwards you can

{chr(10).join(f"- {goal};" for goal in assignment.goals[:-1])}
- {assignment.goals[-1]}.

{(assignment.folder / "README.md").read_text(encoding="utf-8").strip()}

## Set-up

Linux (or WSL 2 on Windows), Python 3.10 or newer{_compiler(assignment)}:

    python3 -m venv .venv
    .venv/bin/python -m pip install -r requirements.txt

and `.venv/bin/python` for `python` below and above. PyTorch's CPU build is enough, and much smaller.

## Handing in

    python submit.py

writes `submission.zip`. It holds

{files}

and nothing else counts: whatever you change elsewhere, the grader has its own. A file may import what it imports
now, and do nothing by reflection; what is refused is named, with its line. Hidden cases have the properties below, in
other sizes and with other numbers than `check.py` has.

## Points

{table}
"""


def _compiler(assignment: Assignment) -> str:
    return " and g++" if any(stage.capability.backend == "cuda" for stage in assignment.stages) else ""


def public_examples(assignment: Assignment) -> list[dict]:
    """One example, of everybody's secret, for every test of a single function."""
    examples = []
    for test in assignment.tests:
        if test.kind != "function":
            continue
        rng = generator(PUBLIC, test.number)
        question = FUNCTIONS[test.options["function"]](rng, {**test.options, "count": 1})[0]
        key = f"t{test.number.replace('.', '_')}"
        arrays = {f"{key}_in{i}": a for i, a in enumerate(question.arguments)}
        arrays |= {f"{key}_out{i}": a for i, a in enumerate(question.expected)}
        examples.append(
            {
                "key": key,
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
    copy(ROOT, GRADER_TOOLS, to)
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
