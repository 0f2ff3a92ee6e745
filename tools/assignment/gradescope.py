"""Grades as Gradescope reads them: results.json, checked against its specification before it is written.

https://gradescope-autograders.readthedocs.io/en/latest/specs/ : an unknown status or a wrong type fails the whole run
there, and the student sees nothing. So `problems` is asked first.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from pathlib import Path

from tools.assignment import feedback
from tools.assignment.definition import ROOT, Assignment
from tools.assignment.grading import Graded, Grades
from tools.assignment.kinds import NO_SCORE, Outcome
from tools.results import write_text

VISIBILITY = ("hidden", "after_due_date", "after_published", "visible")
FORMATS = ("text", "html", "simple_format", "md", "ansi")
TOP = {
    "score": float, "execution_time": float, "output": str, "output_format": FORMATS, "test_output_format": FORMATS,
    "test_name_format": FORMATS, "visibility": VISIBILITY, "stdout_visibility": VISIBILITY, "extra_data": dict,
    "tests": list, "leaderboard": list,
}  # fmt: skip
TEST = {
    "score": float, "max_score": float, "status": ("passed", "failed"), "name": str, "name_format": FORMATS,
    "number": str, "output": str, "output_format": FORMATS, "tags": list, "visibility": VISIBILITY, "extra_data": dict,
}  # fmt: skip
LEADERBOARD = {"name": str, "value": (float, str), "order": ("asc", "desc")}
OUTPUT_CHARACTERS = 6000


def results(grades: Grades) -> dict:
    """The whole of results.json. What was not graded has neither score nor status."""
    tests = [_test(graded) for graded in grades.graded]
    for test in grades.assignment.tests[len(grades.graded) :]:
        tests.append(_waiting(test))
    data = {
        "score": float(grades.score),
        "execution_time": round(grades.seconds, 2),
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
        "extra_data": {
            "points": grades.assignment.points,
            "complete": grades.complete,
            **origin(grades.assignment),
            "files": {
                file: {"whole": outcome.whole, "status": outcome.status, "message": clean(outcome.message)}
                for file, outcome in grades.wholes.items()
            },
            "notes": {g.test.number: list(g.outcome.notes) for g in grades.graded if g.outcome.notes},
            "values": {g.test.number: g.outcome.values for g in grades.graded if g.outcome.values},
        },
    }
    said = [grades.note, *(f"{file}: {outcome.message}" for file, outcome in grades.wholes.items())]
    if any(said):
        data["output"] = clean("\n\n".join(filter(None, said)))
    board = leaderboard(grades)
    if board:
        data["leaderboard"] = board
    return data


@functools.cache
def build(assignment_name: str, root: Path = ROOT) -> str:
    """A fingerprint of the definition and the grader: the same in the repository and in an unpacked autograder."""
    digest = hashlib.sha256((root / "assignments" / assignment_name / "assignment.toml").read_bytes())
    for folder in ("tools/assignment", "tools/emulator", "reference", "stages/common"):
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix not in (".pyc", ".md"):  # a handout's texts are others
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:10]


def origin(assignment: Assignment) -> dict[str, str]:
    """When something is graded, now, and by what."""
    when = time.strftime("%Y-%m-%d %H:%M %z")
    return {"assignment": assignment.name, "graded": when, "build": build(assignment.name)}


def reference_to(outcome: Outcome) -> str:
    """What each test says of what is wrong with the whole file: that is said once, above all."""
    return f"{feedback.WHOLE}{outcome.whole}. See above."


def _test(graded: Graded) -> dict:
    test, outcome = graded.test, graded.outcome
    message = reference_to(outcome) if outcome.whole else outcome.message
    data = {
        "name": f"{test.title} ({test.stage.short})",
        "number": test.number,
        "output": clean(message or "Passed."),
        "output_format": "text",
        "visibility": "visible",
        "tags": [test.stage.name, outcome.status.replace(" ", "-"), *(["bonus"] if test.bonus else [])],
        "extra_data": {
            "seconds": round(graded.seconds, 2),
            "status": outcome.status,
            "points": float(test.points),
            "causes": [clean(cause) for cause in causes(graded)],
        },
    }
    if outcome.status not in NO_SCORE:
        data |= {
            "score": float(graded.score),
            "max_score": 0.0 if test.bonus else float(test.points),
            "status": "passed" if outcome.ok else "failed",
        }
    return data


def causes(graded: Graded) -> tuple[str, ...]:
    """What may have cost the test's points, the likeliest first."""
    outcome = graded.outcome
    if outcome.ok or outcome.status in NO_SCORE:
        return ()
    if outcome.whole:
        return (f"{graded.test.stage.short}'s file: {outcome.whole}",)
    return outcome.causes or (outcome.message.partition("\n")[0].rstrip(":."),)


def _waiting(test) -> dict:
    return {
        "name": f"{test.title} ({test.stage.short})",
        "number": test.number,
        "score": 0.0,
        "max_score": 0.0 if test.bonus else float(test.points),
        "status": "failed",
        "output": "Not reached: the grader was stopped before this test.",
        "output_format": "text",
        "visibility": "visible",
    }


def leaderboard(grades: Grades) -> list[dict]:
    """The definition's columns, filled from what the tests measured. Only tests that passed count; a speed counts where
    it is that of right results, also below what the test wants."""
    passed = {g.test.number: g.outcome.values for g in grades.graded if g.outcome.ok or g.test.kind == "speed"}
    board = []
    for column in grades.assignment.leaderboard:
        value = passed.get(column["test"], {}).get(column["value"])
        if isinstance(value, (int, float)) and math.isfinite(value):
            board.append({"name": column["name"], "value": value, "order": column["order"]})
    return board


def clean(text: str) -> str:
    """What every display takes: no control characters, no unpaired surrogates, not endless."""
    kept = "".join(c if c in "\n\t" or (c.isprintable() and not 0xD800 <= ord(c) <= 0xDFFF) else "?" for c in text)
    return kept if len(kept) <= OUTPUT_CHARACTERS else kept[:OUTPUT_CHARACTERS] + "\n..."


def problems(data) -> list[str]:
    """What of `data` is not as Gradescope's specification has it; empty when it is."""
    if not isinstance(data, dict):
        return ["results are no object"]
    found = _fields(data, TOP, "results")
    if not isinstance(data.get("tests"), list) and "score" not in data:
        found.append("results: neither score nor tests; accepted: one of them")
    for i, test in enumerate(data.get("tests") or [] if isinstance(data.get("tests"), list) else []):
        where = f"tests[{i}]"
        if not isinstance(test, dict):
            found.append(f"{where} is no object")
            continue
        found += _fields(test, TEST, where)
        if "score" not in data and "score" not in test and "status" in test and "max_score" in test:
            found.append(f"{where}: a status without a score")
        if any(not isinstance(tag, str) for tag in test.get("tags", []) or []):
            found.append(f"{where}: tags are text")
    for i, column in enumerate(data.get("leaderboard") or []):
        where = f"leaderboard[{i}]"
        if not isinstance(column, dict):
            found.append(f"{where} is no object")
            continue
        found += _fields(column, LEADERBOARD, where)
        found += [f"{where}: {key} is missing" for key in ("name", "value") if key not in column]
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        found.append(f"results are no JSON: {error}")
    return found


def _fields(data: dict, accepted: dict, where: str) -> list[str]:
    found = []
    for key, value in data.items():
        if key not in accepted:
            found.append(f"{where}: {key!r} is unknown; accepted: {', '.join(accepted)}")
            continue
        kinds = accepted[key]
        if kinds in (VISIBILITY, FORMATS, ("passed", "failed"), ("asc", "desc")):
            if value not in kinds:
                found.append(f"{where}: {key} is {value!r}; accepted: {', '.join(kinds)}")
            continue
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        kinds = tuple(k for kind in kinds for k in ((int, float) if kind is float else (kind,)))
        if not isinstance(value, kinds) or isinstance(value, bool):
            found.append(f"{where}: {key} is {type(value).__name__}; accepted: {kinds[-1].__name__}")
        elif isinstance(value, float) and not math.isfinite(value):
            found.append(f"{where}: {key} is {value}; accepted: a finite number")
    return found


def write(grades: Grades, path: Path) -> None:
    """Write results.json whole or not at all. Raises ValueError for what Gradescope would refuse."""
    data = results(grades)
    wrong = problems(data)
    if wrong:
        raise ValueError(f"results.json would be refused: {'; '.join(wrong)}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
