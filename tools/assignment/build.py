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
from tools.assignment.tree import GRADER_TOOLS, archive, copy, handout, stripped
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
        if check:
            found = selfcheck.problems(assignment, temporary, say)
            if found:
                raise BuildError("\n".join(found))
        shutil.rmtree(temporary / "autograder")  # the zip is what is proven
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
    for name in ("check.py", "submit.py"):
        shutil.copyfile(TEMPLATES / name, to / name)
    shutil.copyfile(ROOT / "LICENSE", to / "LICENSE")
    write_text(to / "README.md", (assignment.folder / "README.md").read_text(encoding="utf-8"))
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
    write_text(to / "requirements.txt", requirements(assignment))
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


def requirements(assignment: Assignment) -> str:
    lines = ["numpy>=1.26", "rich>=13", "tomli>=2; python_version < '3.11'", "torch>=2.6"]
    if any(stage.capability.backend == "triton" for stage in assignment.stages):
        lines.append("triton>=3.2; sys_platform == 'linux'")
    return "\n".join(lines) + "\n"


__all__ = ["BuildError", "build", "kept_secret", "stripped"]
