"""One shape: every implementation is checked, warmed up, sampled in turns with the others, and checked again.

In turns, because a GPU's clock moves with its temperature and load: what is timed an hour or a second apart
does not compare.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from reference.check import Expected, expect, judge
from stages.common.cuda import specialise
from stages.common.record import Stage
from tools.bench import peers
from tools.bench.devices import DeviceLost
from tools.bench.shapes import Shape
from tools.results import percentile

# A peer may round more often than a stage may: it is timed all the same, its error is recorded, and only
# what is no attention at all is refused.
PEER_SLACK = 8


@dataclass(frozen=True)
class Effort:
    """How many samples: one a round, fewer when those would take more than `budget_ms`, but at least
    `least`."""

    rounds: int = 30
    budget_ms: float = 1000.0
    least: int = 5

    def samples(self, ms: float) -> int:
        return max(self.least, min(self.rounds, int(self.budget_ms / max(ms, 1e-3))))


QUICK = Effort(rounds=10, budget_ms=300.0)


class WrongResult(Exception):
    """An implementation's result is not attention. error and bound: the worst, nan when there is a NaN."""

    def __init__(self, problem: str, error: float, bound: float) -> None:
        super().__init__(problem)
        self.error, self.bound = error, bound


@dataclass
class Entry:
    """One implementation at one shape.

    call:      what is timed, () -> result
    checked:   () -> (out, lse or None); a stage's go into NaN-filled memory
    measured:  what the memory meter runs
    """

    name: str
    kind: str  # "stage" or "peer"
    call: Callable | None = None
    checked: Callable | None = None
    measured: Callable | None = None
    samples: list[float] = field(default_factory=list)
    planned: int = 0
    peak_bytes: int = 0
    max_error: float | None = None
    bound: float | None = None
    error: str = ""


@specialise("now")  # a sample must not fall on the change from the general kernel to the special one
def measure(
    shape: Shape,
    stages: Sequence[Stage],
    peer_names: Sequence[str],
    device,
    dtype: torch.dtype,
    effort: Effort = Effort(),  # noqa: B008 (frozen)
    progress: Callable[[str], None] = lambda text: None,
) -> list[dict]:
    """Measure `stages` and peers at `shape` -> one record each (without `run`, which the caller knows).

    An implementation that fails or is wrong gets `error` and no timing, and the others go on. Raises
    DeviceLost.
    """
    entries = [Entry(stage.name, "stage") for stage in stages] + [Entry(name, "peer") for name in peer_names]
    device.new_shape()
    progress("inputs and reference")
    try:
        q, k, v = device.inputs(shape, dtype)
        truths = list(_truths(shape, q, k, v))
    except (RuntimeError, MemoryError) as problem:
        device.assert_alive()
        for entry in entries:
            entry.error = f"inputs: {_describe(problem, '')}"
        return [_record(entry, shape, device, dtype) for entry in entries]
    by_name = {stage.name: stage for stage in stages}
    for entry in entries:
        progress(f"{entry.name}: first call")
        _attempt(entry, device, _begin, entry, by_name.get(entry.name), shape, (q, k, v), truths, device, effort)
    _sample(entries, device, progress)
    for entry in entries:
        if not entry.error:
            progress(f"{entry.name}: check")
            _attempt(entry, device, _end, entry, truths, device)
    return [_record(entry, shape, device, dtype) for entry in entries]


def _begin(entry: Entry, stage: Stage | None, shape: Shape, qkv: tuple, truths, device, effort: Effort) -> None:
    if stage is None:
        _prepare_peer(entry, shape, *qkv)
    else:
        _prepare_stage(entry, stage, shape, *qkv, device)
    _check(entry, truths)
    entry.planned = effort.samples(device.warm_up(entry.call))


def _end(entry: Entry, truths, device) -> None:
    _check(entry, truths)
    entry.peak_bytes = device.peak_bytes(entry.measured)


def _prepare_stage(entry: Entry, stage: Stage, shape: Shape, q, k, v, device) -> None:
    attention = stage.attention

    def checked():
        out = torch.full_like(q, torch.nan)
        lse = torch.full((shape.batch, shape.nheads, shape.seqlen_q), torch.nan, device=q.device)
        result = attention(q, k, v, causal=shape.causal, out=out, lse=lse)
        if result[0] is not out or result[1] is not lse:
            raise WrongResult("the given out and lse were not returned", float("nan"), float("nan"))
        return result

    entry.checked = checked
    entry.call = entry.measured = lambda: attention(q, k, v, causal=shape.causal)
    if device.where == "host":
        arrays = [t.numpy() for t in (q, k, v)]

        def with_outputs_by_numpy():
            out = np.empty_like(arrays[0])
            lse = np.empty((shape.batch, shape.nheads, shape.seqlen_q), np.float32)
            return attention(*arrays, causal=shape.causal, out=out, lse=lse)

        entry.measured = with_outputs_by_numpy


def _prepare_peer(entry: Entry, shape: Shape, q, k, v) -> None:
    entry.call = entry.measured = peers.build(entry.name, shape, q, k, v)
    entry.checked = lambda: (entry.call(), None)


def _truths(shape: Shape, q, k, v) -> Iterator[tuple[int, int, Expected]]:
    """What the reference expects of two (batch, head) of the whole call, one drawn at random and the last:
    the oracle of all of them at 16k takes longer than the benchmark."""
    drawn = random.Random(str(shape))
    pairs = {
        (drawn.randrange(shape.batch), drawn.randrange(shape.nheads)),
        (shape.batch - 1, shape.nheads - 1),
    }
    for b, h in sorted(pairs):
        h_k = h // (shape.nheads // shape.nheads_k)
        one = q[b : b + 1, :, h : h + 1], k[b : b + 1, :, h_k : h_k + 1], v[b : b + 1, :, h_k : h_k + 1]
        yield b, h, expect(*one, causal=shape.causal)


def _check(entry: Entry, truths) -> None:
    """Judge one call; keeps the worst error ÷ bound. Raises WrongResult."""
    out, lse = entry.checked()
    # All of it: an unwritten tile may lie in any head.
    for name, result in (("out", out), ("lse", lse)):
        if result is not None and bool(result.isnan().any()):
            share = result.isnan().double().mean().item()
            raise WrongResult(f"{name} has NaN or was not written: {share:.1%}", float("nan"), float("nan"))
    for b, h, expected in truths:
        one_lse = expected.lse if lse is None else lse[b : b + 1, h : h + 1]
        verdict = judge(out[b : b + 1, :, h : h + 1], one_lse, expected)
        right = verdict.ok if entry.kind == "stage" else verdict.error <= PEER_SLACK * verdict.bound
        if not right:
            raise WrongResult(f"at batch {b}, head {h} of the call: {verdict}", verdict.error, verdict.bound)
        if entry.max_error is None or verdict.error * entry.bound > entry.max_error * verdict.bound:
            entry.max_error, entry.bound = verdict.error, verdict.bound


def _attempt(entry: Entry, device, action: Callable, *arguments):
    """action(*arguments); whatever goes wrong becomes the entry's error, and its memory is given back.

    Raises DeviceLost when the GPU does not answer afterwards.
    """
    with peers.quiet() as caught:
        try:
            return action(*arguments)
        except WrongResult as wrong:
            entry.error = f"wrong: {wrong}"
            entry.max_error, entry.bound = wrong.error, wrong.bound
        except Exception as problem:
            entry.error = _describe(problem, peers.reasons(caught))
    # Outside the except block: there, the traceback still holds the tensors of the frames that it passed.
    entry.call = entry.checked = entry.measured = None
    try:
        device.assert_alive()
    except DeviceLost as lost:
        raise DeviceLost(f"{entry.name}: {entry.error}; after it the GPU no longer answers ({lost})") from None
    device.free()
    return None


def _describe(problem: Exception, why: str) -> str:
    if isinstance(problem, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in str(problem).lower():
        return "out of memory"
    lines = str(problem).strip().splitlines() or [""]
    text = f"{type(problem).__name__}: {lines[0]}"[:300]
    return f"{text} ({why})" if why else text


def in_turns(planned: Mapping[str, int]) -> Iterator[list[str]]:
    """Who is sampled in each round, so that everyone gets as many as planned, spread evenly over all
    rounds. The order changes from round to round: nobody always runs behind the same neighbour."""
    shuffle = random.Random(0).shuffle
    rounds = max(planned.values(), default=0)
    for r in range(rounds):
        names = [name for name, n in planned.items() if (r + 1) * n // rounds > r * n // rounds]
        shuffle(names)
        yield names


def _sample(entries: list[Entry], device, progress) -> None:
    live = {entry.name: entry for entry in entries if not entry.error}
    turns = list(in_turns({name: entry.planned for name, entry in live.items()}))
    for i, names in enumerate(turns, start=1):
        progress(f"round {i} of {len(turns)}")
        started = []
        for entry in (live[name] for name in names):
            if not entry.error:
                sample = _attempt(entry, device, device.time, entry.call)
                if not entry.error:
                    started.append((entry, sample))
        times = device.read([sample for _, sample in started])
        for (entry, _), ms in zip(started, times, strict=True):
            entry.samples.append(ms)


def _record(entry: Entry, shape: Shape, device, dtype: torch.dtype) -> dict:
    record = {
        "name": entry.name,
        "kind": entry.kind,
        "where": device.where,
        "device": device.name,
        "dtype": str(dtype).removeprefix("torch."),
        **{name: getattr(shape, name) for name in ("batch", "nheads", "nheads_k", "seqlen_q", "seqlen_k", "headdim")},
        "causal": shape.causal,
        "mode": "fwd",
        "max_error": _finite(entry.max_error),
        "bound": _finite(entry.bound),
    }
    if entry.error:
        return record | {"error": entry.error}
    ms = statistics.median(entry.samples)
    return record | {
        "ms_median": _six_digits(ms),
        "ms_p10": _six_digits(percentile(entry.samples, 10)),
        "ms_p90": _six_digits(percentile(entry.samples, 90)),
        "tflops": _six_digits(shape.flops / ms / 1e9),
        "peak_bytes": entry.peak_bytes,
        "ms_samples": [_six_digits(sample) for sample in entry.samples],
    }


def _six_digits(x: float) -> float:
    return float(f"{x:.6g}")


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
