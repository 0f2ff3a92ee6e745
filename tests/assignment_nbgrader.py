"""nbgrader for real: generate, autograde, feedback and export, on the notebooks that a build makes.

    python -m tests.assignment_nbgrader ps1

takes dist/ps1/nbgrader (so build it first), hands in the untouched release and the solution, and fails unless they
score nothing and everything. Takes minutes, so it is a command and no test.

Exit codes: 0 so it is; 1 not so; 2 wrong arguments.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.assignment.definition import ROOT, names


def solved(source: Path, release: Path) -> str:
    """The release's notebook with the source's solutions, as a student would have typed them."""
    answers = {c["metadata"]["nbgrader"]["grade_id"]: c["source"] for c in _cells(source) if _is_solution(c)}
    notebook = json.loads(release.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if _is_solution(cell):
            cell["source"] = answers[cell["metadata"]["nbgrader"]["grade_id"]]
    return json.dumps(notebook)


def _cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _is_solution(cell: dict) -> bool:
    return cell["metadata"].get("nbgrader", {}).get("solution", False)


def run(name: str) -> int:
    with tempfile.TemporaryDirectory(prefix="nbgrader-") as folder:
        course = Path(folder) / "course"
        shutil.copytree(ROOT / "dist" / name / "nbgrader", course)
        # nbgrader calls commands that are installed beside this Python.
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))

        def nbgrader(*arguments: str) -> None:
            done = subprocess.run(
                [sys.executable, "-m", "nbgrader", *arguments], cwd=course, capture_output=True, text=True,
                env={**os.environ, "PATH": path},
            )  # fmt: skip
            print(f"nbgrader {' '.join(arguments)}: {'failed' if done.returncode else 'ok'}", flush=True)
            if done.returncode:
                sys.exit(done.stderr[-3000:])

        nbgrader("generate_assignment", name)
        release = course / "release" / name
        for who in ("untouched", "solved"):
            shutil.copytree(release, course / "submitted" / who / name)
        notebook = course / "submitted" / "solved" / name / f"{name}.ipynb"
        source = course / "source" / name / f"{name}.ipynb"
        notebook.write_text(solved(source, release / f"{name}.ipynb"), encoding="utf-8")
        leaked = "BEGIN HIDDEN TESTS" in (release / f"{name}.ipynb").read_text(encoding="utf-8")
        nbgrader("autograde", name)
        nbgrader("generate_feedback", name)
        nbgrader("export")
        with (course / "grades.csv").open(encoding="utf-8", newline="") as file:
            rows = {row["student_id"]: row for row in csv.DictReader(file)}
        pages = sorted(str(p.relative_to(course)) for p in (course / "feedback").rglob("*.html"))
        print(*pages, sep="\n")
        for who, row in sorted(rows.items()):
            print(f"{who}: {row['score']} of {row['max_score']}")
        good = float(rows["untouched"]["score"]) == 0 and rows["solved"]["score"] == rows["solved"]["max_score"]
        return 0 if good and not leaked and len(pages) == 2 else 1


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in names():
        print(__doc__)
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    sys.exit(run(sys.argv[1]))
