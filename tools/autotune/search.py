"""Successive halving: every configuration on a short length with few samples, the best of them on longer ones.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization" (2016).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stages.common.tiles import Tiles
from tools.autotune.space import Dropped
from tools.bench.measure import Effort
from tools.bench.shapes import harmonic_mean

SEQLENS = (1024, 4096, 16384)  # the objective: the harmonic mean of the throughput at these


@dataclass(frozen=True)
class Rung:
    """Measure at `seqlens`; the `keep` best go on, and the default with them."""

    seqlens: tuple[int, ...]
    effort: Effort
    keep: int


RUNGS = (
    Rung(SEQLENS[:1], Effort(rounds=5, budget_ms=20, least=3), keep=24),
    Rung(SEQLENS[1:2], Effort(rounds=7, budget_ms=50, least=3), keep=12),
    Rung(SEQLENS, Effort(rounds=20, budget_ms=200, least=7), keep=12),
)

# (seqlen, configurations, effort) -> TFLOP/s of each, or what went wrong
Measure = Callable[[int, Sequence[Tiles], Effort], Mapping[Tiles, float | str]]
# (configurations, best first; how many are wanted) -> those that may go on, and the ones refused on the way
Admit = Callable[[Sequence[Tiles], int], tuple[list[Tiles], list[Dropped]]]


@dataclass
class Outcome:
    """tflops: of every configuration that was measured, by length, the last measurement of each. ranking: those that
    were measured at all lengths, best first. dropped: those that failed or were refused."""

    tflops: dict[Tiles, dict[int, float]] = field(default_factory=dict)
    ranking: list[Tiles] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def score(self, tiles: Tiles) -> float:
        """The harmonic mean of TFLOP/s over the lengths so far."""
        return harmonic_mean(self.tflops[tiles].values())


def halve(
    candidates: Sequence[Tiles], default: Tiles, measure: Measure, admit: Admit, rungs: Sequence[Rung] = RUNGS
) -> Outcome:
    """Let `candidates` pass the rungs. `admit` is asked once, before the second rung: it may be costly.

    The default goes through all rungs, unless it fails or is refused.
    """
    outcome = Outcome()
    alive = list(candidates)
    for i, rung in enumerate(rungs):
        for seqlen in rung.seqlens:
            alive = _measure(outcome, alive, seqlen, measure, rung.effort)
        alive.sort(key=outcome.score, reverse=True)
        going_on = alive[: rung.keep]
        if i == 0:
            # The default first: whether it may run does not depend on its rank.
            first = sorted(alive, key=lambda tiles: tiles != default) if default in alive else alive
            going_on, refused = admit(first, rung.keep)
            outcome.dropped += refused
        elif default in alive and default not in going_on:
            going_on = [*going_on, default]
        alive = sorted(going_on, key=outcome.score, reverse=True)
    outcome.ranking = alive
    return outcome


def _measure(outcome: Outcome, alive: Sequence[Tiles], seqlen: int, measure: Measure, effort: Effort) -> list[Tiles]:
    """Measure at one length -> those that did not fail."""
    found = measure(seqlen, alive, effort) if alive else {}
    for tiles in alive:
        if isinstance(found[tiles], str):
            by = "wrong" if found[tiles].startswith("wrong") else "failed"
            outcome.dropped.append(Dropped(tiles, by, found[tiles]))
            outcome.tflops.pop(tiles, None)
        else:
            outcome.tflops.setdefault(tiles, {})[seqlen] = found[tiles]
    return [tiles for tiles in alive if not isinstance(found[tiles], str)]
