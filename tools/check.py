"""Check one stage after editing it: its quick grid, the simplest cases first, with what is wrong in words.

    python -m tools.check s12
    python -m tools.check s12 --case causal --all

Stops after 10 wrong cases, and at the first exception, unless --all is given. When something is wrong, the hints
of the stage's solution regions are shown.

Exit codes: 0 every case passed; 1 a case failed, the code is not written yet, or the stage cannot run here;
2 wrong arguments; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from reference import Case, Verdict, check, quick_grid
from stages import Stage, StageUnavailable, get
from stages.common.where import where
from tools.regions import RegionError, find_regions

STOP_AFTER = 10  # wrong cases
# An assignment's handout has a check.py in its root, and no Makefile.
HAS_MAKE = not (Path(__file__).resolve().parents[1] / "check.py").is_file()
SEVERAL = 3  # wrong cases from which what they have in common says something
LUCKY = 0.1  # the share of a property's cases that a kernel which is wrong there may pass
NOT_WRITTEN = "YOUR CODE HERE"  # what a stage says whose solution was taken out
MESSAGE_LINES = 30  # of an exception: a compiler's log can be endless


def properties(stage: Stage) -> dict[str, Callable[[Case], bool]]:
    """What a case can be about, in the order in which a kernel grows. A case has several of these."""
    padded_to = stage.capability.headdims

    def rows(c: Case) -> int:  # of a tile, of Q and of K and V
        return stage.tile_rows(c.headdim, getattr(torch, c.dtype).itemsize)

    return {
        "one tile": lambda c: max(c.seqlen_q, c.seqlen_k) <= rows(c),
        "several tiles": lambda c: max(c.seqlen_q, c.seqlen_k) > rows(c),
        "ragged lengths": lambda c: bool(c.seqlen_q % rows(c) or c.seqlen_k % rows(c)),
        "not causal": lambda c: not c.causal,
        "causal, equal lengths": lambda c: c.causal and c.seqlen_q == c.seqlen_k,
        "causal, unequal lengths": lambda c: c.causal and c.seqlen_q != c.seqlen_k,
        "rows that see no key": lambda c: c.causal and c.seqlen_q > c.seqlen_k,
        "several batches": lambda c: c.batch > 1,
        "grouped-query heads": lambda c: c.nheads != c.nheads_k,
        "a softmax_scale of its own": lambda c: c.softmax_scale is not None,
        "large logits": lambda c: c.family in ("shifted", "negative"),
        "spikes, one-hot rows": lambda c: c.family in ("spikes", "one_hot"),
        "constant V": lambda c: c.family == "constant_v",
        "padded head dims": lambda c: bool(padded_to) and c.headdim not in padded_to,
        "strided inputs": lambda c: c.layout != "contiguous",
        "16-bit inputs": lambda c: c.dtype in ("float16", "bfloat16"),
        "real activations": lambda c: c.family == "activations",
    }


# What to look at when all that failed, and next to nothing that passed, is about one thing. In sentences.
ADVICE = {
    "several tiles": "One tile is right. Does what was summed under an old maximum shrink when the maximum grows?",
    "ragged lengths": "Keys past the end need a score of -inf; that their loads are masked is not enough.",
    "causal, equal lengths": "Key j is visible to query i iff j <= i + seqlen_k - seqlen_q.",
    "causal, unequal lengths": "The mask's diagonal ends in the bottom right corner: j <= i + seqlen_k - seqlen_q.",
    "rows that see no key": "Their maximum is -inf, and -inf - -inf is NaN; their output is 0 and their lse -inf.",
    "several batches": "Is the batch's offset in every address?",
    "grouped-query heads": "Query head h reads key/value head h // (nheads // nheads_k).",
    "a softmax_scale of its own": "The scale is an argument, and the scores, their maximum and the lse are all scaled.",
    "large logits": "Subtract the row's maximum before exp, and let the running maximum start at -inf.",
    "padded head dims": "The default scale is that of the head dim before padding.",
    "strided inputs": "Every dimension but the last has a stride of its own, for each of q, k, v and out.",
    "16-bit inputs": "Accumulate in float32; round P and O only.",
}

# A case without any of these is as plain as a case can be.
PLAIN = ("one tile", "not causal")


def simplest_first(stage: Stage, cases: Sequence[Case]) -> list[Case]:
    """Cases by how many things they are about at once, then by their cost."""
    tests = [has for name, has in properties(stage).items() if name not in PLAIN]

    def difficulty(case: Case):
        work = case.batch * case.nheads * case.seqlen_q * case.seqlen_k * case.headdim
        return sum(has(case) for has in tests), work

    return sorted(cases, key=difficulty)


@dataclass(frozen=True)
class Outcome:
    """What became of one case: a verdict, or the exception that came instead."""

    case: Case
    verdict: Verdict | None
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        return self.verdict is not None and self.verdict.ok

    @property
    def problem(self) -> str:
        """In one line."""
        if self.error is not None:
            message = str(self.error).strip().partition("\n")[0]
            return f"{type(self.error).__name__}: {message}"
        return self.verdict.problem


def outcomes(stage: Stage, cases: Sequence[Case], keep_going: bool = False) -> Iterator[Outcome]:
    """Run the cases, up to STOP_AFTER wrong ones or the first exception; to the end if `keep_going`."""
    wrong = 0
    for case in cases:
        try:
            outcome = Outcome(case, check(stage, case))
        except Exception as error:
            outcome = Outcome(case, None, error)
        yield outcome
        wrong += not outcome.ok
        if not keep_going and (outcome.error is not None or wrong == STOP_AFTER):
            return


def chain(error: BaseException) -> list[BaseException]:
    """The exception and what it came from, innermost last."""
    links = [error]
    while (cause := links[-1].__cause__ or links[-1].__context__) is not None and cause not in links:
        links.append(cause)
    return links


def not_written(error: BaseException) -> bool:
    return any(NOT_WRITTEN in str(link) for link in chain(error))


def learners_traceback(error: BaseException, folder: Path) -> str:
    """The part of a traceback that lies in the stage's folder, and the exception's message.

    Triton's interpreter wraps what is raised in a kernel: the line that matters is that of the innermost exception.
    """
    shown, frames = error, []
    for link in chain(error):
        inside = [f for f in traceback.extract_tb(link.__traceback__) if Path(f.filename).parent == folder]
        if inside:
            shown, frames = link, inside
    if not frames and not isinstance(error, SyntaxError):  # which says itself where it is
        frames = traceback.extract_tb(error.__traceback__)[-1:]
    lines = "".join(traceback.format_list(frames) + traceback.format_exception_only(shown)).splitlines()
    if len(lines) > MESSAGE_LINES:
        lines[MESSAGE_LINES:] = [f"... {len(lines) - MESSAGE_LINES} more lines"]
    return "\n".join(lines)


def verdicts(console: Console, stage: Stage, cases: Sequence[Case], done: Sequence[Outcome]) -> None:
    """Print how the cases did by property, and the simplest failing one. A case counts in each of its properties."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("what the cases are about", no_wrap=True)
    for name in ("passed", "failed", "not run"):
        table.add_column(name, justify="right")
    table.add_column("simplest that failed" if any(not outcome.ok for outcome in done) else "")
    run = {outcome.case for outcome in done}
    examples: list[Outcome] = []
    for name, has in properties(stage).items():
        mine = [outcome for outcome in done if has(outcome.case)]
        failed = [outcome for outcome in mine if not outcome.ok]
        waiting = sum(1 for case in cases if has(case) and case not in run)
        if not mine and not waiting:
            continue
        reference = ""
        if failed:
            if failed[0] not in examples:
                examples.append(failed[0])
            reference = f"({examples.index(failed[0]) + 1})"
        style = "red" if failed else "green" if mine else "dim"
        counts = (str(n) if n else "" for n in (len(mine) - len(failed), len(failed), waiting))
        table.add_row(f"[{style}]{name}[/]", *counts, reference)
    console.print(table)
    for number, outcome in enumerate(examples, start=1):
        console.print(f"({number}) {outcome.case}\n    {escape(outcome.problem)}")
    if examples:
        console.print()


def common_cause(stage: Stage, cases: Sequence[Case], done: Sequence[Outcome]) -> str | None:
    """The one property that tells the cases that failed from those that passed; None where no property does.

    Every failed case has it, and next to no passed one: a wrong kernel may be right by luck of the data, with up to
    LUCKY of the cases about a property. Of several the narrowest is taken, which the fewest of `cases` have; where two
    are as narrow, neither is known to be the cause. A few failures have many things in common by chance, and an
    exception (a race, a wild access, an error in the code) says itself what is wrong: None for both, and where nothing
    passed.
    """
    failed = [outcome for outcome in done if not outcome.ok]
    if not SEVERAL <= len(failed) < len(done) or any(outcome.error is not None for outcome in failed):
        return None
    found = {}
    for name, has in properties(stage).items():
        about = sum(has(outcome.case) for outcome in done)
        if all(has(outcome.case) for outcome in failed) and about - len(failed) <= LUCKY * about:
            found[name] = sum(map(has, cases))
    narrowest = [name for name, count in found.items() if count == min(found.values())]
    return narrowest[0] if len(narrowest) == 1 else None


def show_advice(console: Console, stage: Stage, cases: Sequence[Case], done: Sequence[Outcome]) -> None:
    """What to look at, where all that failed is about one thing and what is not about it passed."""
    name = common_cause(stage, cases, done)
    if name not in ADVICE:
        return
    about = [outcome for outcome in done if properties(stage)[name](outcome.case)]
    failed = sum(not outcome.ok for outcome in about)
    console.print(
        f"Every case that failed is about [bold]{name}[/], and {failed} of the {len(about)} about it failed. "
        f"{escape(ADVICE[name])}"
    )


def show_hints(console: Console, stage: Stage) -> None:
    """Where to look: the solution regions with their hints, and the card."""
    try:
        regions = find_regions(stage.kernel_file)
    except RegionError as error:
        console.print(f"[red]{escape(str(error))}[/]")
        regions = ()
    for region in regions:
        place = f"{os.path.relpath(region.path)}, lines {region.begin} to {region.end}"
        console.print(f"\n[bold]{region.name}[/] ({escape(place)})\n  Hint: {escape(region.hint)}")
    console.print(f"\nThe stage's card: {escape(os.path.relpath(stage.folder / 'README.md'))}")


def choose(stage: Stage, substring: str, console: Console) -> list[Case]:
    """The cases with `substring` in their name that run here, simplest first; says which dtypes do not run."""
    wanted = [case for case in quick_grid(stage) if substring in str(case)]
    for dtype in dict.fromkeys(case.dtype for case in wanted):
        place = where(stage, dtype)
        if not place:
            count = sum(case.dtype == dtype for case in wanted)
            console.print(f"[yellow]not run: {count} cases in {dtype}. {escape(place.reason)}[/]")
    return simplest_first(stage, [case for case in wanted if where(stage, case.dtype)])


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("stage", metavar="STAGE", help="s12, 12 or s12_triton_v2")
    p.add_argument("--case", default="", metavar="TEXT", help="only cases with TEXT in their name: causal, d64, 1x130")
    p.add_argument("--all", action="store_true", help="run every case, however many fail")
    p.add_argument("--no-hints", action="store_true", help="leave out the hints of the solution regions")
    return p


def alone(stage: Stage, case: Case) -> str:
    """The command that checks one case by itself."""
    if HAS_MAKE:
        return f'make check STAGE={stage.short} CHECK_ARGS="--case {case}"'
    return f"python check.py {stage.short} --case {case}"


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    hints = not args.no_hints
    try:
        stage = get(args.stage)
    except KeyError as unknown:
        p.error(f"argument STAGE: {unknown}")
    if not any(args.case in str(case) for case in quick_grid(stage)):
        example = quick_grid(stage)[len(quick_grid(stage)) // 2]
        p.error(f"argument --case: no case of {stage.name} has {args.case!r} in its name; one is called {example}")
    torch.set_num_threads(1)  # the cases are small: more threads only wait for each other
    console = Console(highlight=False)
    console.print(f"[bold]{stage.name}[/]: {escape(stage.title)}")
    place = where(stage)
    if not place:
        console.print(f"[red]cannot run here: {escape(place.reason)}[/]{'; `make doctor` says more' * HAS_MAKE}")
        return 1
    console.print(f"runs on {escape(place.reason)}")
    cases = choose(stage, args.case, console)
    if not cases:
        return 1

    try:
        stage.attention  # noqa: B018  imports the kernel: a syntax error shows here
    except StageUnavailable as error:
        console.print(f"[red]cannot run here: {escape(str(error))}[/]")
        return 1
    except Exception as error:
        return report_error(console, stage, error, hints)

    done: list[Outcome] = []
    interrupted = False
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=len(cases))
            for outcome in outcomes(stage, cases, keep_going=args.all):
                done.append(outcome)
                progress.update(task, advance=1, description=escape(str(outcome.case)))
    except KeyboardInterrupt:
        interrupted = True

    failed = [outcome for outcome in done if not outcome.ok]
    if failed and failed[0].error is not None and not_written(failed[0].error):
        return report_error(console, stage, failed[0].error, hints)
    verdicts(console, stage, cases, done)
    if interrupted:
        console.print(f"[yellow]interrupted after {len(done)} of {len(cases)} cases[/]")
        return 130
    if not failed:
        console.print(f"[green]All {len(cases)} cases passed.[/]")
        return 0
    rest = len(cases) - len(done)
    console.print(
        f"[red]{len(failed)} of {len(done)} cases failed.[/]" + (f" --all runs the other {rest} too." if rest else "")
    )
    console.print(f"The simplest by itself: {escape(alone(stage, failed[0].case))}", soft_wrap=True)
    show_advice(console, stage, cases, done)
    if failed[0].error is not None:
        return report_error(console, stage, failed[0].error, hints)
    if hints:
        show_hints(console, stage)
    return 1


def report_error(console: Console, stage: Stage, error: Exception, hints: bool = True) -> int:
    """Say what an exception in the stage's code means for who wrote it -> exit code."""
    if not_written(error):
        console.print(f"[yellow]Not written yet: {escape(os.path.relpath(stage.kernel_file))} says {NOT_WRITTEN!r}.[/]")
    else:
        console.print("\n[red]The stage's code raised an exception:[/]")
        console.print(escape(learners_traceback(error, stage.folder)), soft_wrap=True)
    if hints:
        show_hints(console, stage)
    return 1


if __name__ == "__main__":
    sys.exit(main())
