"""A whole run: the compilers work one part ahead of the GPU, and a part is written when it is done."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stages.common.tiles import Tiles
from tools.autotune import gpu, prune, search, show, space
from tools.autotune.prune import Kept
from tools.autotune.space import Dropped, Part
from tools.autotune.table import Table


class NothingWorks(Exception):
    """No configuration of a part is left. The message says what became of them."""


@dataclass
class Pruning:
    """One part on its way through the compilers, which begin as soon as this is made."""

    part: Part
    arch: str
    pool: concurrent.futures.Executor
    refused: Sequence[Dropped] = ()  # before anything is compiled
    illegal: list[Dropped] = field(init=False)
    futures: list[concurrent.futures.Future] = field(init=False)

    def __post_init__(self) -> None:
        legal, self.illegal = space.split(self.part, space.number(self.arch))
        out = {one.tiles for one in self.refused}
        ladders = prune.ladders(self.part, [tiles for tiles in legal if tiles not in out], self.arch)
        self.futures = [self.pool.submit(prune.climb, ladder) for ladder in ladders]

    def fates(self, progress: Callable[[int, int], None] = lambda done, of: None) -> list[Kept | Dropped]:
        """What became of the legal ones, by the instantiation that is measured. Waits for the compilers."""
        for done, _ in enumerate(concurrent.futures.as_completed(self.futures), start=1):
            progress(done, len(self.futures))
        return [*self.refused, *(fate for future in self.futures for fate in future.result())]

    def others(self, candidates: Sequence[Tiles]) -> list[concurrent.futures.Future]:
        """The fate of each by the instantiations that are not measured."""
        jobs = ((tiles, prune.all_jobs(self.part, tiles, self.arch)[1:]) for tiles in candidates)
        return [self.pool.submit(prune.runs_clean, item) for item in jobs]


SPARE = 8  # of those that go on some will spill in another instantiation: so many more are compiled at once


def admit(
    pruning: Pruning, ranked: Sequence[Tiles], keep: int, meanwhile: Callable[[], None] = lambda: None
) -> tuple[list[Tiles], list[Dropped]]:
    """The first `keep` of `ranked` that spill in no instantiation, and those refused on the way.

    meanwhile: is called once the compilers have their work.
    """
    admitted: list[Tiles] = []
    refused: list[Dropped] = []
    at = 0
    while at < len(ranked) and len(admitted) < keep:
        batch = ranked[at : at + keep - len(admitted) + SPARE]
        at += len(batch)
        futures = pruning.others(batch)
        if at == len(batch):
            meanwhile()
        for future in futures:
            fate = future.result()
            if isinstance(fate, Dropped):
                refused.append(fate)
            else:
                admitted.append(fate.tiles)
    return admitted[:keep], refused


def tune(
    parts: Sequence[Part],
    table: Table,
    arch: str,
    pool: concurrent.futures.Executor,
    device,
    progress: Callable[[Part, str], None],
    finished: Callable[[Part, list[Dropped]], None],
) -> list[str]:
    """Tune each of `parts` into `table` -> what went wrong, a line a part that could not be tuned.

    An interrupt passes through, and so does gpu.ConfigurationLost, after the configuration has been noted in the table.
    """
    problems = []
    to_come = iter(parts)
    compiling: list[Pruning] = []

    def keep_compilers_busy() -> None:
        for part in itertools.islice(to_come, 2 - len(compiling)):
            compiling.append(Pruning(part, arch, pool, table.lost_in(part)))

    for part in parts:
        keep_compilers_busy()
        pruning = compiling.pop(0)
        try:
            finished(part, _tune(pruning, table, device, keep_compilers_busy, progress))
        except NothingWorks as problem:
            problems.append(f"{part}: {problem}")
        except gpu.ConfigurationLost as lost:
            if lost.tiles is not None:
                table.add_lost(part, lost.tiles, str(lost))
            raise
    return problems


def _tune(pruning: Pruning, table: Table, device, meanwhile: Callable, progress: Callable) -> list[Dropped]:
    """One part, from its compilers to the table -> what was dropped of it. Raises NothingWorks."""
    part = pruning.part

    def say(what: str) -> None:
        progress(part, what)

    say("compiling")
    fates = pruning.fates(lambda done, of: say(f"compiling {done} of {of}"))
    kept = {fate.tiles: fate for fate in fates if isinstance(fate, Kept)}
    dropped = pruning.illegal + [fate for fate in fates if isinstance(fate, Dropped)]

    def measure(seqlen: int, candidates: Sequence[Tiles], effort) -> dict[Tiles, float | str]:
        return gpu.throughput(device, part, seqlen, candidates, effort, lambda what: say(f"{seqlen}: {what}"))

    def let_in(ranked: Sequence[Tiles], keep: int) -> tuple[list[Tiles], list[Dropped]]:
        say("compiling the other instantiations of the best")
        return admit(pruning, ranked, keep, meanwhile)

    with gpu.machine_code_of(pruning.arch):
        outcome = search.halve(list(kept), part.default, measure, let_in)
        dropped += outcome.dropped
        say("checking the best")
        while outcome.ranking:
            problem = gpu.unsound(part, outcome.ranking[0])
            if problem is None:
                break
            dropped.append(problem)
            outcome.tflops.pop(outcome.ranking.pop(0))
    if not outcome.ranking:
        raise NothingWorks(f"no configuration is left; dropped by {show.counted(dropped)}")
    table.add(part, pruning.arch, kept, outcome, dropped)
    return dropped
