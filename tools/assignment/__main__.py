"""Assignments from the stages: build a handout, grade what comes back.

    python -m tools.assignment list
    python -m tools.assignment build ps1          dist/ps1: handout, autograder, solution, proven to fit each other
    python -m tools.assignment check ps1          the same proof, nothing kept
    python -m tools.assignment grade ps1 WORK     one submission: a folder, a zip, a file
    python -m tools.assignment batch ps1 FOLDER   a folder of them, to OUT/grades.csv and a page each
    python -m tools.assignment compare ps1 FOLDER which of them are alike, between their SOLUTION comments
    python -m tools.assignment local ps1 WORK     one, by autograder.zip, with what Gradescope's container has
    python -m tools.assignment show RESULTS       a results.json in Markdown
    python -m tools.assignment test ps1 WORK 1.1  one test, for a notebook's cell; keeps what the others came to

The hidden cases of `grade` and `batch` are drawn from the secret of the last build (dist/NAME/secret.txt, or
secret.txt in an unpacked autograder); ASSIGNMENT_SECRET in the environment is another one.

Exit codes: 0 done (`grade`: every test that could be graded passed); 1 not so; 2 wrong arguments; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.assignment.definition import ROOT, Assignment, DefinitionError, load, names, notes, require_text
from tools.assignment.strip import StripError
from tools.assignment.submission import SubmissionError


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.assignment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="the assignments that there are")
    for name, text in (("build", "build and prove one, or all"), ("check", "prove one, or all, and keep nothing")):
        sub = commands.add_parser(name, help=text)
        sub.add_argument("name", metavar="NAME", help="ps1, or all")
        sub.add_argument("--out", type=Path, default=ROOT / "dist", metavar="FOLDER", help="default: dist")
    sub = commands.add_parser("grade", help="grade one submission")
    sub.add_argument("name", metavar="NAME", help="ps1")
    sub.add_argument("submission", type=Path, metavar="WORK", help="a folder, a zip or a file")
    sub.add_argument("--out", type=Path, metavar="FILE", help="write results.json here, anew after every test")
    sub.add_argument("--page", type=Path, metavar="FILE", help="write a page of feedback here")
    sub.add_argument("--quiet", action="store_true", help="print nothing")
    sub = commands.add_parser("batch", help="grade a folder of submissions")
    sub.add_argument("name", metavar="NAME", help="ps1")
    sub.add_argument("folder", type=Path, metavar="FOLDER", help="its folders, zips and files are a submission each")
    sub.add_argument("--out", type=Path, default=Path("grades"), metavar="FOLDER", help="default: grades")
    sub.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="side by side; default: all cores"
    )
    sub.add_argument(
        "--again", action="append", default=[], metavar="WHO", help="grade this one again, though nothing has changed"
    )
    sub = commands.add_parser("compare", help="which submissions are alike")
    sub.add_argument("name", metavar="NAME", help="ps1")
    sub.add_argument("folder", type=Path, metavar="FOLDER", help="its folders, zips and files are a submission each")
    sub.add_argument("--top", type=int, default=20, metavar="N", help="so many pairs; default: 20")
    sub = commands.add_parser("local", help="run the built autograder.zip as Gradescope does")
    sub.add_argument("name", metavar="NAME", help="ps1")
    sub.add_argument("submission", type=Path, metavar="WORK", help="a folder or a zip")
    sub.add_argument("--cpu", type=float, default=0.5, metavar="SHARE", help="of a processor; default: 0.5")
    sub.add_argument("--memory", type=int, default=768, metavar="MB", help="default: 768")
    sub.add_argument("--minutes", type=float, default=10, metavar="N", help="default: 10")
    sub = commands.add_parser("show", help="a results.json in Markdown")
    sub.add_argument("results", type=Path, metavar="RESULTS")
    sub = commands.add_parser("serve", help="grade what lines on stdin name (for batch)")
    sub.add_argument("name", metavar="NAME", help="ps1")
    sub = commands.add_parser("test", help="one test, for a notebook's cell")
    sub.add_argument("name", metavar="NAME", help="ps1")
    sub.add_argument("submission", type=Path, metavar="WORK", help="a folder")
    sub.add_argument("number", metavar="TEST", help="1.1")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    console = Console(highlight=False, quiet=getattr(args, "quiet", False))
    try:
        return COMMANDS[args.command](args, console)
    except (DefinitionError, StripError, SubmissionError) as error:
        p.error(str(error))
    except KeyboardInterrupt:
        return 130


def list_all(args, console: Console) -> int:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("name", "title", "stages", "tests", "points", "bonus", "hours", "needs"):
        table.add_column(column, justify="right" if column in ("tests", "points", "bonus") else "left")
    remarks = []
    for name in names():
        a = load(name)
        hours = "–".join(f"{h:g}" for h in a.hours)
        stages = ", ".join(stage.short for stage in a.stages)
        bonus = f"{a.bonus:g}" if a.bonus else ""
        table.add_row(
            a.name, escape(a.title), stages, str(len(a.tests)), f"{a.points:g}", bonus, hours, "\n".join(needs(a))
        )
        remarks += [f"{name}: {note}" for note in notes(a)]
    console.print(table)
    for remark in remarks:
        console.print(f"[yellow]{escape(remark)}[/]", soft_wrap=True)
    return 0


def needs(assignment: Assignment) -> list[str]:
    """What grading it takes besides the Python packages."""
    found = []
    if any(stage.capability.backend == "cuda" for stage in assignment.stages):
        found.append("C++ compiler")
    if any(test.kind == "compiled" for test in assignment.tests):
        found.append("CuPy")
    tests = [f"{test.number}{', bonus' if test.bonus else ''}" for test in assignment.tests if test.needs == "gpu"]
    if tests:
        found.append(f"GPU ({'; '.join(tests)})")
    return found


def build_some(args, console: Console) -> int:
    from tools.assignment.build import BuildError, build
    from tools.assignment.hidden import require_cases
    from tools.assignment.selfcheck import gives_away

    code = 0
    for name in names() if args.name == "all" else [args.name]:
        assignment = load(name)
        require_text(assignment)
        require_cases(assignment)
        console.print(f"[bold]{name}[/]: {escape(assignment.title)}")
        for note in (*notes(assignment), *gives_away(assignment)):
            console.print(f"  [yellow]note: {escape(note)}[/]", soft_wrap=True)
        try:
            if args.command == "check":
                with tempfile.TemporaryDirectory() as folder:
                    build(assignment, Path(folder), say=lambda line: console.print(f"  {escape(line)}"))
            else:
                made = build(assignment, args.out, say=lambda line: console.print(f"  {escape(line)}"))
                for product in sorted(path.name for path in made.iterdir()):
                    console.print(f"  {escape(os.path.relpath(made / product))}", soft_wrap=True)
        except BuildError as error:
            console.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
            code = 1
    return code


def secret_of(name: str) -> str:
    """Of the hidden cases. Raises DefinitionError where there is none yet."""
    from tools.assignment.build import kept_secret

    found = os.environ.get("ASSIGNMENT_SECRET") or kept_secret(ROOT) or kept_secret(ROOT / "dist" / name)
    if not found:
        raise DefinitionError(f"{name} has no secret yet; accepted: build it first, or set ASSIGNMENT_SECRET")
    return found


def grade_one(args, console: Console) -> int:
    from tools.assignment import descendants, feedback, gradescope
    from tools.assignment.grading import grade

    assignment = load(args.name)
    if not args.submission.exists():
        raise DefinitionError(f"WORK is {str(args.submission)!r}, which is not there; accepted: a folder, zip or file")
    secret = secret_of(args.name)
    os.environ.pop("ASSIGNMENT_SECRET", None)
    descendants.adopt()
    signal.signal(signal.SIGTERM, _interrupted)

    def after_each(grades) -> None:
        if args.out:
            gradescope.write(grades, args.out)
        if len(grades.graded) == 1 and grades.note:
            console.print(escape(grades.note), soft_wrap=True)
        _print(console, grades)

    try:
        grades = grade(assignment, args.submission, secret, after_each=after_each)
        if args.page:
            args.page.parent.mkdir(parents=True, exist_ok=True)
            who = args.submission.stem
            args.page.write_text(feedback.page(gradescope.results(grades), assignment.title, who), encoding="utf-8")
    finally:
        descendants.end_all()
    console.print(f"\n[bold]{grades.score:g} of {assignment.points:g} points[/], in {grades.seconds:.0f} s")
    return 0 if all(g.score is None or g.outcome.ok for g in grades.graded) else 1


def _interrupted(*_) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second would meet what cleans up after the first
    raise KeyboardInterrupt


def _print(console: Console, grades) -> None:
    """The last test; what is wrong with a whole file only where it comes up."""
    from tools.assignment import gradescope

    graded = grades.graded[-1]
    message = graded.outcome.message
    if graded.outcome.whole and any(g.outcome.whole and g.test.stage is graded.test.stage for g in grades.graded[:-1]):
        message = gradescope.reference_to(graded.outcome)
    style = "green" if graded.outcome.ok else "yellow" if graded.score is None else "red"
    marks = graded.outcome.status if graded.score is None else f"{graded.score:g} / {graded.test.points:g}"
    console.print(f"[{style}]{graded.test.number:>4}  {marks:>12}[/]  {escape(graded.test.title)}")
    if not graded.outcome.ok:
        for line in message.splitlines():
            console.print(f"                    {escape(line)}", soft_wrap=True)


def batch_all(args, console: Console) -> int:
    from tools.assignment.batch import Batch, Entry, to_look_at, ungraded_of_all

    assignment = load(args.name)
    if not args.folder.is_dir():
        raise DefinitionError(f"FOLDER is {str(args.folder)!r}; accepted: a folder of submissions")
    if (args.folder / "stages").is_dir():
        raise DefinitionError(f"FOLDER is {str(args.folder)!r}, which is one submission; accepted: a folder of them")
    if args.jobs < 1:
        raise DefinitionError(f"--jobs is {args.jobs}; accepted: 1 or more")
    signal.signal(signal.SIGTERM, _interrupted)

    def say(entry: Entry, done: int, of: int) -> None:
        style = "red" if entry.state == "failed" else "dim" if entry.state == "kept" else "default"
        score = f"{entry.data['score']:g}"
        console.print(f"[{style}]{done:>4} of {of}  {score:>5}  {escape(entry.who)}  {entry.state}[/]")

    batch = Batch(assignment, secret_of(args.name), args.out, args.jobs, args.again)
    try:
        entries = batch.run(args.folder, say)
    except KeyboardInterrupt:
        console.print("[yellow]interrupted; the same command goes on where this one stopped[/]")
        return 130
    console.print(f"{len(entries)} submissions: {escape(os.path.relpath(args.out / 'grades.csv'))}")
    if batch.skipped:
        console.print(f"nobody's work, and left out: {escape(', '.join(batch.skipped))}", soft_wrap=True)
    ungraded = ungraded_of_all(entries)
    if ungraded:
        console.print(f"graded for nobody, since it cannot be here: test {', '.join(sorted(ungraded))}")
    table = Table("to look at", "score", "why", box=box.SIMPLE, pad_edge=False)
    for entry in sorted(entries, key=lambda entry: entry.who):
        reasons = to_look_at(entry, ungraded)
        if reasons:
            table.add_row(escape(entry.who), f"{entry.data['score']:g}", escape("\n".join(reasons)))
    if table.rows:
        console.print(table)
    return 0


def compare_all(args, console: Console) -> int:
    from tools.assignment import compare

    assignment = load(args.name)
    if not args.folder.is_dir():
        raise DefinitionError(f"FOLDER is {str(args.folder)!r}; accepted: a folder of submissions")
    if args.top < 1:
        raise DefinitionError(f"--top is {args.top}; accepted: 1 or more")
    compare.show(console, assignment, args.folder, args.top)
    return 0


def run_local(args, console: Console) -> int:
    from tools.assignment import feedback, limits, selfcheck

    archive = ROOT / "dist" / args.name / "autograder.zip"
    load(args.name)
    if not args.submission.exists():
        raise DefinitionError(f"WORK is {str(args.submission)!r}; accepted: a folder or a zip")
    if not 0 < args.cpu <= 1:
        raise DefinitionError(f"--cpu is {args.cpu}; accepted: above 0, at most 1")
    if not archive.is_file():
        raise DefinitionError(f"{args.name} is not built; accepted: make assignment NAME={args.name} first")
    with selfcheck.laid_out(archive, args.submission) as (root, environment):
        used = limits.run(
            selfcheck.command(root), cpu=args.cpu, memory_mb=args.memory, minutes=args.minutes, cwd=root,
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        sys.stdout.write(feedback.summary(selfcheck.results_of(root)))
    ended = f"; ended for its {used.why}" if used.why else ""
    at_least = used.cpu_seconds / args.cpu
    console.print(f"\n{used.cpu_seconds:.0f} s of computing, on {args.cpu:g} of a core {at_least:.0f} s", end="")
    console.print(f" (here {used.seconds:.0f} s); at most {used.peak_mb:.0f} MB{ended}")
    return 1 if used.why else 0


def serve(args, console: Console) -> int:
    from tools.assignment import batch

    secret = secret_of(args.name)
    os.environ.pop("ASSIGNMENT_SECRET", None)
    signal.signal(signal.SIGTERM, _interrupted)
    return batch.serve(load(args.name), secret)


def show(args, console: Console) -> int:
    from tools.assignment import feedback

    try:
        data = json.loads(args.results.read_text(encoding="utf-8"))
        text = feedback.summary(data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DefinitionError(f"RESULTS is {str(args.results)!r}: {error}; accepted: a results.json") from None
    sys.stdout.write(text)
    return 0


def test_one(args, console: Console) -> int:
    """Grade all of a submission once, and answer for one test from what came out."""
    from tools.assignment import gradescope
    from tools.assignment.batch import fingerprint
    from tools.assignment.submission import read

    assignment = load(args.name)
    if args.number not in {test.number for test in assignment.tests}:
        numbers = ", ".join(test.number for test in assignment.tests)
        raise DefinitionError(f"TEST is {args.number!r}; accepted: {numbers}")
    files = read(assignment, args.submission).files
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_text(text, encoding="utf-8")
        kept = ROOT / "graded" / f"{args.name}-{fingerprint(Path(folder))}.json"
        data = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else None
        if data is None or not data["extra_data"]["complete"]:
            quiet = Console(quiet=True)
            grade_one(argparse.Namespace(name=args.name, submission=Path(folder), out=kept, page=None), quiet)
            data = json.loads(kept.read_text(encoding="utf-8"))
        assert not gradescope.problems(data)
    (test,) = [test for test in data["tests"] if test["number"] == args.number]
    print(f"{test['number']} {test['name']}: {test.get('status', 'not graded')}\n{test['output']}")
    return 0 if test.get("status") == "passed" else 1


COMMANDS = {
    "list": list_all, "build": build_some, "check": build_some, "grade": grade_one, "batch": batch_all, "show": show,
    "compare": compare_all, "local": run_local,
    "serve": serve,
    "test": test_one,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
