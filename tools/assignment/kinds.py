"""What a test does: it makes a job for the student's process, and judges what came back."""

from __future__ import annotations

import dataclasses
import re
import statistics
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from reference import Case, judge
from reference.check import Expected, expect
from stages.common.where import installed, where
from tools.assignment.definition import Assignment, Task, Test
from tools.assignment.diagnose import diagnose
from tools.assignment.functions import FUNCTIONS, answer_problem
from tools.assignment.hidden import cases, generator
from tools.assignment.overlap import parse
from tools.assignment.places import ASKED
from tools.assignment.places import problem as problem_of_places
from tools.assignment.process import Answer, Job, Worker
from tools.assignment.tensors import restore
from tools.assignment.through import pairs
from tools.assignment.worker import GUARD
from tools.check import ADVICE, NOT_WRITTEN

# What torch may do in a call: make room, copy, look at the same memory another way.
TORCH_OPS = {
    "detach", "alias", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "zeros", "zeros_like",
    "new_zeros", "ones", "ones_like", "new_ones", "full", "full_like", "new_full", "fill_", "zero_", "copy_",
    "_to_copy", "clone", "view", "_unsafe_view", "reshape", "_reshape_alias", "as_strided", "slice", "select",
    "transpose", "permute", "t", "expand", "unsqueeze", "squeeze", "unbind", "split", "constant_pad_nd", "lift_fresh",
    "contiguous", "is_pinned", "set_", "_pin_memory",
}  # fmt: skip

YARDSTICK = "tools.assignment.yardstick"  # PyTorch's own attention, called as a stage is

PASSED, WRONG, UNWRITTEN, REFUSED, CRASHED, TIME, MEMORY, MISSING, UNGRADED, UNMEASURED = (
    "passed", "wrong", "not written", "refused", "crashed", "time", "memory", "missing", "not graded", "not measured",
)  # fmt: skip
NO_SCORE = (UNGRADED, UNMEASURED)  # the first because of what there is here, the second because it went amiss


@dataclass(frozen=True)
class Outcome:
    """What became of a test. status: one of the names above; message: for the student, without hidden inputs;
    notes: for the instructor; values: what was measured.

    whole: in a few words, what is wrong with the file as a whole, of which every test of it says the same; else "".
    causes: what each may explain the test by itself, the likeliest first: to add up what a mistake has cost.
    """

    status: str
    message: str = ""
    notes: tuple[str, ...] = ()
    values: dict = field(default_factory=dict)
    whole: str = ""
    causes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.status == PASSED


class Failed(Exception):
    """A test's outcome, found on the way."""

    def __init__(self, status: str, message: str, *notes: str, whole: str = ""):
        self.outcome = Outcome(status, message, notes, whole=whole)


@dataclass
class Context:
    """What a test has to work with. source: the submitted file's text; failed: whether a simpler test of the same file,
    one before this, has failed."""

    assignment: Assignment
    test: Test
    worker: Worker
    secret: str
    source: str
    failed: bool = False

    @property
    def stage(self):
        return self.test.stage

    def run(self, job: Job) -> list[dict]:
        """The calls' answers. Raises Failed for what went wrong on the way to them."""
        self.answer = self.carry_out(job)
        return checked(self, self.answer, job)

    def carry_out(self, job: Job) -> Answer:
        return self.worker.run(
            job,
            backend=self.stage.capability.backend,
            module=self.stage.entry_module,
            file=f"stages/{self.stage.name}/{self.stage.kernel_file.name}",
        )


def checked(context: Context, answer: Answer, job: Job) -> list[dict]:
    if answer.ended == "time":
        raise Failed(TIME, f"stopped after {job.seconds:g} seconds: is there a loop that does not end?")
    if answer.ended == "memory":
        raise Failed(MEMORY, f"stopped: it took more than {context.assignment.memory_mb} MB of memory.")
    if answer.ended:
        text = "the process with the submission ended without an answer (a crash, or an exit)."
        if context.stage.capability.backend == "triton":
            text += "\nIn Triton's interpreter a load or a store beyond its tensor does that: has each its mask?"
        raise Failed(CRASHED, text, answer.log)
    if "error" in answer.data:
        raise failure(context, answer.data["error"], answer.log)
    answers = answer.data["calls"]
    for call in answers:
        if not isinstance(call, dict):
            raise Failed(CRASHED, "the process with the submission gave no answer that can be read.", answer.log)
        if "error" in call:
            raise failure(context, call["error"], answer.log)
    if len(answers) != len(job.calls):
        raise Failed(CRASHED, "the process with the submission gave too few answers.", answer.log)
    return answers


def failure(context: Context, error, log: str) -> Failed:
    """An exception in the student's code. Its text can hold hidden inputs, so only its kind and place are told."""
    if not isinstance(error, dict):
        return Failed(CRASHED, "the process with the submission gave no answer that can be read.", log)
    kind, text, line = str(error.get("type")), str(error.get("text")), error.get("line")
    if NOT_WRITTEN in text:
        for task in context.assignment.tasks_of(context.stage):
            if f"{NOT_WRITTEN}: {task.name}:" in text:
                return Failed(UNWRITTEN, f"{task.name} is not written yet: the file still says {NOT_WRITTEN!r} there.")
        return Failed(UNWRITTEN, f"something is not written yet: the file still says {NOT_WRITTEN!r}.")
    lines = context.source.splitlines()
    place = ""
    if isinstance(line, int) and 0 < line <= len(lines):
        place = f", in line {line} of the file:\n    {lines[line - 1].strip()}"
    if kind in ("CompileError", "CompilationError"):
        shown = textwrap.indent(_tail(text, 12), "    ")
        return Failed(CRASHED, f"the kernel does not compile:\n{shown}", text, log, whole="it does not compile")
    if kind in ("SyntaxError", "IndentationError", "TabError", "ModuleNotFoundError", "ImportError"):
        whole = "it cannot be imported" if "Import" in kind or "Module" in kind else "it is not Python"
        return Failed(CRASHED, f"{kind}: {_tail(text, 3)}{place}", text, log, whole=whole)
    absent = re.match(r"module '[^']*' has no attribute '(\w+)'", text) if kind == "AttributeError" else None
    if absent and line is None:  # it was asked for from outside
        whole = undefined(absent[1]) if absent[1] == ENTRY else ""
        return Failed(CRASHED, f"{undefined(absent[1])}.", text, log, whole=whole)
    if kind == "MemoryError" or "DefaultCPUAllocator" in text:
        return Failed(MEMORY, f"it asked for more memory than there is{place}", text, log)
    advice = "The text is not shown, since it may quote hidden inputs; `python check.py` shows what comes up there."
    return Failed(CRASHED, f"{kind} was raised{place}\n{advice}", text, log)


ENTRY = "attention"  # the function that every stage is called by


def undefined(name: str) -> str:
    return f"`{name}` is not defined in the file"


def sentence(text: str) -> str:
    """With one full stop."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def looks(causes: tuple[str, ...]) -> list[str]:
    """Lines; several causes are those of different cases, or they would contradict each other."""
    first, *others = causes
    where = " in some cases" if others else ""
    return [sentence(f"What the result looks like{where}: {first}"), *(sentence(f"In others: {c}") for c in others)]


def _tail(text: str, n: int) -> str:
    return "\n".join(text.strip().splitlines()[:n])


# ---- attention ------------------------------------------------------------------------------------------------------


def attention_call(job: Job, context: Context, case: Case, again: bool = False, settings: dict | None = None) -> dict:
    """A call of the stage's attention, and its inputs; again: a second time, other numbers in the same tensors."""
    place = where(context.stage, case.dtype)
    inputs = case.inputs("cpu")
    other = dataclasses.replace(case, seed=case.seed ^ 0x5EED).inputs("cpu") if again else ()
    emulate = None
    if place.kind == "emulator":
        emulate = {"limit_s": context.test.seconds, **(settings or {})}
    job.calls.append(
        {
            "kind": "attention",
            "arguments": [job.tensor(t) for t in inputs],
            "again": [job.tensor(t) for t in other],
            "causal": case.causal,
            "softmax_scale": case.softmax_scale,
            "device": place.device,
            "emulate": emulate,
        }  # fmt: skip
    )
    return {"case": case, "inputs": [inputs, other] if again else [inputs]}


def results(call: dict, case: Case, out: bytes) -> list[tuple]:
    """(out, lse, intact) of each run of a call, from the bytes that came back. Raises Failed if some are missing."""
    shapes = (
        ((case.batch, case.seqlen_q, case.nheads, case.headdim), getattr(torch, case.dtype)),
        ((case.batch, case.nheads, case.seqlen_q), torch.float32),
    )
    found = []
    try:
        for pair in call["runs"]:
            tensors = []
            for record, (shape, dtype) in zip(pair, shapes, strict=True):
                size = torch.Size(shape).numel()
                expected = {"dtype": case.dtype if dtype != torch.float32 else "float32", "stride": [1]}
                if record["shape"] != [size + 2 * GUARD] or any(record[k] != v for k, v in expected.items()):
                    raise ValueError
                buffer = restore(record, out)
                tensors.append((buffer[GUARD : GUARD + size].view(shape), buffer))
            intact = all(bool(b[:GUARD].isnan().all() and b[-GUARD:].isnan().all()) for _, b in tensors)
            found.append((tensors[0][0], tensors[1][0], intact))
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
        raise Failed(CRASHED, "the process with the submission gave no answer that can be read.") from None
    return found


def check_ops(call: dict) -> None:
    """Raises Failed when torch did the stage's work."""
    ops = call.get("ops")
    if not isinstance(ops, list):
        raise Failed(CRASHED, "the process with the submission gave no answer that can be read.")
    strange = sorted({str(op).removeprefix("aten.") for op in ops} - TORCH_OPS)
    if strange:
        raise Failed(REFUSED, f"torch computed {', '.join(strange[:4])} for the stage; the kernel has to compute.")


def check_call(context: Context, call: dict, asked: dict, out: bytes) -> tuple[tuple[str, ...], str]:
    """(what may be wrong, for the student, the likeliest first; note for the instructor) of one call."""
    case = asked["case"]
    check_ops(call)
    runs = results(call, case, out)
    counted = call.get("counted")
    if len(runs) != len(asked["inputs"]) or not isinstance(counted, list) or len(counted) != len(runs):
        raise Failed(CRASHED, "the process with the submission gave no answer that can be read.")
    for number, ((o, lse, intact), (q, k, v), noted) in enumerate(zip(runs, asked["inputs"], counted)):
        if context.stage.capability.backend == "triton" and not noted.get("launches"):
            raise Failed(REFUSED, "no Triton kernel was launched.")
        programs = noted.get("programs") or {}
        if int(programs.get("block", 0)) > largest_block(context.stage, case):
            raise Failed(REFUSED, "the kernel loads more at once than a tile: K and V have to come a tile at a time.")
        if not noted.get("returned"):
            return ("the out and lse that were given are not what was returned",), str(case)
        if not intact:
            return ("something was written outside out or lse",), str(case)
        judged = case
        if "heads" in asked:
            if o.isnan().any() or lse.isnan().any():
                return ("out or lse has NaN, or was not written",), str(case)
            o, lse, q, k, v = one_head(asked["heads"][number], case, o, lse, q, k, v)
            judged = dataclasses.replace(case, batch=1, nheads=1, nheads_k=1)
        expected = expect(q, k, v, causal=case.causal, softmax_scale=case.softmax_scale)
        verdict = judge(o, lse, expected)
        if not verdict.ok:
            if number:
                first = runs[0][0]
                kept = "a second call is wrong though the first was right: something is kept between calls"
                if torch.equal(runs[number][0], first):
                    kept = "a second call with other numbers in the same tensors gave the first call's result"
                return (kept,), str(case)
            found = found_by_emulator(context, noted, case)
            causes = (found,) if found else explain(context, judged, q, k, v, o, lse, expected)
            return causes, f"{case}: {verdict.problem}"
    return (), ""


def largest_block(stage, case: Case) -> int:
    """Elements that a Triton stage may load at once in a case: two tiles, for who tries larger ones."""
    d = stage.capability.padded_headdim(case.headdim)
    rows = stage.tile_rows(d, getattr(torch, case.dtype).itemsize)
    return 2 * rows * max(rows, d)


def one_head(number: int, case: Case, out, lse, q, k, v) -> tuple:
    """Head `number`, counted over batch and heads, of a result and its inputs, each in its own layout."""
    b, h = divmod(number % (case.batch * case.nheads), case.nheads)
    h_k = h // (case.nheads // case.nheads_k)
    here, here_k = (slice(b, b + 1), slice(None), slice(h, h + 1)), (slice(b, b + 1), slice(None), slice(h_k, h_k + 1))
    return out[here], lse[b : b + 1, h : h + 1], q[here], k[here_k], v[here_k]


PROBE_S = 10  # of computing, for where the chunks of a tile lie
# What is read while it is being written: by a result that is right, and by one that is not.
IN_FLIGHT = (
    "the copy was asked for before all had read what was there",
    "a wait is missing, or the copy goes where another tile is still needed",
)
# What other findings' own words leave open.
MEANING = {
    "that nothing has written": "what other threads copy is there only after their wait and a barrier after that",
    "while this cp.async is under way": "a copy is asked for only if somebody will wait for it",
}


def finding(noted: dict, right: bool = False) -> str:
    """What the emulator found first (a race, an access out of bounds, a deadlock), or "". right: whether the result
    is, as it can be all the same: whether it is and whether there is a race are two tests, with points of their own."""
    found = (noted.get("report") or {}).get("findings")
    if not found:
        return ""
    # A read that comes before the write is both; only the race names the lines between which a barrier is missing.
    first = next((f for f in found if f["kind"] != "uninitialised"), found[0])
    if "has not waited for it" in str(first["message"]):
        # Copies land late before they land early: had this one been for this read, the result would be wrong.
        too_early, not_there = IN_FLIGHT
        return f"the emulator found: {first['kind']}: {first['message']}; {too_early if right else not_there}"
    meant = "".join(f"; {meaning}" for words, meaning in MEANING.items() if words in str(first["message"]))
    return f"the emulator found: {first['kind']}: {first['message']}{meant}"


def found_by_emulator(context: Context, noted: dict, case: Case) -> str:
    """`finding`, or why the threads are not to blame for it."""
    found = finding(noted)
    return found and (misplaced(context, context.stage.capability.padded_headdim(case.headdim)) or found)


def misplaced(context: Context, d: int) -> str:
    """What is wrong with where the kernel's tile_offset sends the chunks of a tile, or "", or it has none."""
    if not ASKED.search(context.source):
        return ""
    rows = max(context.stage.tiles["Br"], context.stage.tiles["Bc"])
    job = Job(min(context.test.seconds, PROBE_S), [{"kind": "places", "rows": rows, "d": d, "arguments": []}])
    try:
        answer = context.carry_out(job)
        (call,) = checked(context, answer, job)
        (places,) = (restore(record, answer.out) for record in call["tensors"])
        return problem_of_places(places.tolist(), rows, d) if places.shape == (rows * d // 8,) else ""
    except (Failed, KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError):
        return ""  # it is asked only for words: the result is wrong, whatever it answers


# In what `explain` says when it knows no mistake by name.
UNEXPLAINED = ("NaN throughout", "has NaN, or", "is right, lse is not", "by more than rounding", "is 0 throughout")


def explain(context: Context, case: Case, q, k, v, out, lse, expected: Expected) -> tuple[str, ...]:
    """What may be wrong, by name if it is known, else by what is affected."""
    tile = context.stage.tile_rows(case.headdim, getattr(torch, case.dtype).itemsize)
    if (out == 0).all() and case.family != "negative":  # there it can be an underflow
        return ("out is 0 throughout",)
    known = diagnose(case, q, k, v, out, lse, tile if context.stage.tiles else None)
    if known:
        return known
    if out.isnan().all() or lse.isnan().all():
        return (f"{'out' if out.isnan().all() else 'lse'} is NaN throughout, or was not written",)
    if out.isnan().any() or lse.isnan().any():
        return (f"{'out' if out.isnan().any() else 'lse'} has NaN, or was not written everywhere",)
    error = (out.double() - expected.out).abs().amax(dim=(1, 3))
    if (error <= expected.bound).all():
        return ("out is right, lse is not",)
    return ("out is wrong by more than rounding explains",)


def likeliest(causes: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Of what may be wrong in each of several cases: one thing that explains them all, or else each one's likeliest."""
    common = [cause for cause in causes[0] if all(cause in others for others in causes)]
    return (common[0],) if common else tuple(dict.fromkeys(own[0] for own in causes))


def attention(context: Context) -> Outcome:
    """All cases have to be right. options.through: a function of the file that every tile has to pass."""
    job = Job(context.test.seconds)
    asked = [attention_call(job, context, case, again=i == 0) for i, case in enumerate(drawn(context))]
    through = context.test.options.get("through")
    watched = [watched_call(job, context, question["case"], through) for question in asked] if through else []
    answers = context.run(job)
    problems = []
    for call, question in zip(answers, asked):
        causes, note = check_call(context, call, question, context.answer.out)
        if causes:
            problems.append((causes, note))
    for call, question in zip(answers[len(asked) :], watched if not problems else []):
        causes, _ = check_call(context, call, question, context.answer.out)
        bypassed = went_round(context, call, question["case"], causes, through)
        if bypassed:
            return round_about(context, bypassed, through)
    if not problems:
        return Outcome(PASSED, values={"seconds": round(context.answer.seconds, 3)})
    about = context.test.about
    lines = [f"{len(problems)} of {len(asked)} hidden cases are wrong."]
    told = likeliest([causes for causes, _ in problems])
    lines += looks(told)
    unexplained = any(part in cause for cause in told for part in UNEXPLAINED)
    # Beside a mistake that has a name it would lead astray, and so where simpler cases are wrong too.
    if about in ADVICE and unexplained and not context.failed:
        lines.append(f"These cases are about {about}. {advice(context.stage, about)}")
    return Outcome(WRONG, "\n".join(lines), tuple(note for _, note in problems), causes=told)


def advice(stage, about: str) -> str:
    """ADVICE, for a stage that takes all keys at once without what is said of a running maximum."""
    return ADVICE[about] if stage.tiles else re.sub(r",[^,.]*\brunning maximum\b[^.]*", "", ADVICE[about])


def watched_call(job: Job, context: Context, case: Case, through: str) -> dict:
    """A call of attention in which V becomes |V| in the function that its tiles have to pass."""
    question = attention_call(job, context, case)
    job.calls[-1]["through"] = through
    ((q, k, v),) = question["inputs"]
    return question | {"inputs": [(q, k, v.abs())]}


def drawn(context: Context) -> list[Case]:
    """The test's cases, as far as they run here. Raises Failed when none does."""
    all_cases = cases(context.test, context.secret)
    here = [case for case in all_cases if where(context.stage, case.dtype)]
    if not here:
        raise Failed(UNGRADED, f"Not graded here: {where(context.stage, all_cases[0].dtype).reason}")
    return here


# ---- single functions -----------------------------------------------------------------------------------------------


def function(context: Context) -> Outcome:
    """options.function: a function of the kernel file, asked questions of tools.assignment.functions."""
    options = context.test.options
    questions = FUNCTIONS[options["function"]](generator(context.secret, context.test.number), options)
    job = Job(context.test.seconds)
    for question in questions:
        tensors = [job.tensor(torch.from_numpy(np.ascontiguousarray(a))) for a in question.arguments]
        job.calls.append({"kind": "function", "name": question.function, "arguments": tensors})
    problems = []
    for call, question in zip(context.run(job), questions):
        try:
            got = tuple(restore(record, context.answer.out).double().numpy() for record in call["tensors"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
            raise Failed(CRASHED, f"{question.function} returned nothing that can be read.") from None
        problems.append(answer_problem(question, got))
    wrong = [problem for problem in problems if problem]
    if not wrong:
        return Outcome(PASSED)
    told = tuple(dict.fromkeys(wrong))
    text = "\n".join(looks(told))
    return Outcome(WRONG, f"{len(wrong)} of {len(questions)} hidden calls are wrong.\n{text}", causes=told)


# ---- memory ---------------------------------------------------------------------------------------------------------


def memory(context: Context) -> Outcome:
    """Peak memory at two lengths: it may grow by options.bytes_per_row for each further row, and the results be right.

    options.through: a function of the file that every tile has to pass.
    """
    options, rng = context.test.options, generator(context.secret, context.test.number)
    peaks = []
    for length in options["lengths"]:
        case = Case(
            dtype="float32", headdim=options.get("headdim", 32), seqlen_q=length, seqlen_k=length, nheads=1, nheads_k=1,
            seed=rng.getrandbits(31),
        )  # fmt: skip
        job = Job(context.test.seconds)
        attention_call(job, context, dataclasses.replace(case, seqlen_q=100, seqlen_k=100))  # loads what it needs
        question = attention_call(job, context, case)
        job.calls[1]["pause"] = True
        if options.get("through"):
            watched = watched_call(job, context, case, options["through"])
        _, call, *rest = context.run(job)
        causes, note = check_call(context, call, question, context.answer.out)
        if causes:
            text = sentence(f"A long sequence is wrong, so its memory does not count: {causes[0]}")
            return Outcome(WRONG, text, (note,), causes=causes[:1])
        for again in rest:
            causes, _ = check_call(context, again, watched, context.answer.out)
            bypassed = went_round(context, again, case, causes, options["through"])
            if bypassed:
                return round_about(context, bypassed, options["through"])
        if len(context.answer.pauses) != 2:
            raise Failed(CRASHED, "the process with the submission did not pause where it should.", context.answer.log)
        before, after = context.answer.pauses
        if not before.held_bytes or not after.peak_bytes:
            raise Failed(UNMEASURED, "Not measured: the system did not say how much memory the process has held.")
        peaks.append(max(0, after.peak_bytes - before.held_bytes))
    rows = options["lengths"][-1] - options["lengths"][0]
    slope = (peaks[-1] - peaks[0]) / rows
    slope = max(slope, peaks[0] / options["lengths"][0])  # who takes much for a short one hides what a long one takes
    values = {"bytes_per_row": round(slope), "peak_bytes": peaks}
    if slope <= options["bytes_per_row"]:
        return Outcome(PASSED, f"Memory grows by {max(slope, 0):,.0f} bytes a row.", values=values)
    text = (
        f"Memory grows by {slope:,.0f} bytes for each further row; allowed are {options['bytes_per_row']:,}. "
        "Something as large as the whole matrix S is held: nothing may be larger than a tile, or a row of the result."
    )
    return Outcome(MEMORY, text, values=values)


def went_round(context: Context, call: dict, case: Case, causes: tuple, through: str) -> str:
    """How K and V get round the watched function, or "": it has to be called for each pair of tiles, with nothing
    larger than a tile, and its result has to count. causes: what is wrong with the result of the watched call."""
    Br, Bc = context.stage.tiles["Br"], context.stage.tiles["Bc"]
    tiles = case.batch * case.nheads * pairs(case.seqlen_q, case.seqlen_k, case.causal, Br, Bc)
    calls, largest = call.get("through", (0, 0))
    if not calls:
        return f"`{through}` is never called"
    if largest > max(Br, Bc) * max(Br, Bc, case.headdim):
        return f"`{through}` gets more than a tile at once"
    if calls < tiles:
        return f"`{through}` is not called for every tile"
    if causes:
        return f"it is not what comes out of `{through}`"
    return ""


def round_about(context: Context, bypassed: str, through: str) -> Outcome:
    meant = TILE_BY_TILE.format(through=through, Bc=context.stage.tiles["Bc"])
    return Outcome(REFUSED, f"The result is right, but {bypassed}.\n{meant}", causes=(bypassed,))


# Of a function that every tile has to pass.
TILE_BY_TILE = (
    "Go through K and V a tile of {Bc} keys at a time, and take each tile into the running result by a call of "
    "`{through}` with that tile's scores and V."
)


# ---- Triton ---------------------------------------------------------------------------------------------------------


def launches(context: Context) -> Outcome:
    """options.programs: "head" (batch × heads programs) or "q_tile" (each Q tile of each): who owns what."""
    job = Job(context.test.seconds)
    asked = [attention_call(job, context, case) for case in drawn(context)]
    for call, question in zip(context.run(job), asked):
        causes, note = check_call(context, call, question, context.answer.out)
        if causes:
            text = sentence(f"The result is wrong, so its launch does not count: {causes[0]}")
            return Outcome(WRONG, text, (note,), causes=causes[:1])
        case = question["case"]
        rows = context.stage.tile_rows(case.headdim, getattr(torch, case.dtype).itemsize)
        tiles = -(-case.seqlen_q // rows) if context.test.options["programs"] == "q_tile" else 1
        wanted = case.batch * case.nheads * tiles
        programs = [n for _, n in call["counted"][0]["launches"]]
        stored = call["counted"][0].get("programs")
        share = min(rows, case.seqlen_q) if tiles > 1 else case.seqlen_q
        elements = case.headdim + 1  # of a row of out, and of lse
        if programs == [wanted] and stored:
            everything = case.batch * case.nheads * case.seqlen_q * elements
            if int(stored["most"]) > share * elements or int(stored["all"]) != everything:
                return Outcome(
                    WRONG, "The programs are as many as expected, but they do not share the rows of the result."
                )
        if programs != [wanted]:
            what = "for every Q tile of every batch and head" if tiles > 1 else "for every batch and head"
            return Outcome(WRONG, f"Expected one launch with one program {what}; something else was launched.")
    return Outcome(PASSED)


# ---- CUDA in the emulator -------------------------------------------------------------------------------------------

SCHEDULES = ("forward", "reverse", "random")


def emulator(context: Context) -> Outcome:
    """options.check: "conflicts" (none in shared memory, in a kernel that does its work there) or "races" (none, in
    several orders of threads, copies landing as early and as late as they may)."""
    job = Job(context.test.seconds)
    check = context.test.options["check"]
    asked = []
    for case in drawn(context):
        if not where(context.stage, case.dtype).kind == "emulator":
            raise Failed(UNGRADED, "Not graded here: it needs the emulator; CUDA_EMULATE=1 makes it run beside a GPU.")
        if check == "conflicts":
            asked.append(attention_call(job, context, case))
            asked.append(fragments_call(job, context, case))
            continue
        for asynchronous in ("late", "early"):
            for schedule in SCHEDULES:
                settings = {"asynchronous": asynchronous, "schedule": schedule, "counters": False}
                asked.append(attention_call(job, context, case, settings=settings))
    outcome = Outcome(PASSED)
    for call, question in zip(context.run(job), asked):
        causes, note = check_call(context, call, question, context.answer.out)
        if causes and "fragments" in question:
            text = "What ldmatrix loads and the tensor cores multiply is not what the result is made of."
            return Outcome(REFUSED, text, (note,))
        if causes:
            return Outcome(WRONG, sentence(f"The result is wrong: {causes[0]}"), (note,), causes=causes[:1])
        if check == "races" and finding(call["counted"][0]):
            race = finding(call["counted"][0], right=True)
            return Outcome(WRONG, sentence(f"The result is right, but {race}"), causes=(race,))
        if check == "conflicts" and "fragments" not in question:
            outcome = _conflicts(context, call["counted"][0]["report"], question["case"])
            if not outcome.ok:
                return outcome
    return outcome


def fragments_call(job: Job, context: Context, case: Case) -> dict:
    """A call in which what ldmatrix loads has lost its sign and products count twice: see tools.assignment.overlap."""
    question = attention_call(job, context, case, settings={"counters": False})
    job.calls[-1]["instrument"] = "fragments"
    ((q, k, v),) = question["inputs"]
    scale = 2 * (case.softmax_scale or case.headdim**-0.5)
    inputs = [(q.abs(), k.abs(), 2 * v.abs())]
    return question | {"inputs": inputs, "case": dataclasses.replace(case, softmax_scale=scale), "fragments": True}


def work(context: Context, case: Case) -> dict[str, int]:
    """Instructions that the stage's products cannot do without, for a case without a mask."""
    tiles, d = context.stage.tiles, context.stage.capability.padded_headdim(case.headdim)
    Br, Bc, warps = tiles["Br"], tiles["Bc"], tiles["num_warps"]
    blocks = case.batch * case.nheads * -(-case.seqlen_q // Br) * warps
    kv_tiles = -(-case.seqlen_k // Bc)
    products = kv_tiles * (d // 16 * (Bc // 8) + Bc // 16 * (d // 8))
    return {"mma": blocks * products, "fragments": blocks * (d // 16 + products // 2)}


def _conflicts(context: Context, report: dict, case: Case) -> Outcome:
    counters = report["counters"]

    def total(name: str, *ops: str) -> int:
        return sum(int(counters.get(op, {}).get(name, 0)) for op in ops)

    matrix = ("ldmatrix", "ldmatrix.trans")
    need = work(context, case)
    if total("instructions", "mma") < need["mma"] or total("instructions", *matrix) < need["fragments"]:
        return Outcome(REFUSED, "The kernel does less than its products need: tensor cores or ldmatrix are gone round.")
    shared = (*matrix, "ld.shared", "st.shared", "cp.async")
    conflicts = total("wavefronts", *shared) - total("passes", *shared)
    values = {"conflicts": conflicts, "wavefronts": total("wavefronts", *shared)}
    if not conflicts:
        return Outcome(PASSED, "No bank conflict.", values=values)
    first = report["conflicts"][0]
    text = (
        f"{conflicts:,} bank conflicts, the first in line {first['line']}: {first['op']}, up to {first['ways']} in one "
        "bank. Eight rows, one chunk of each, have to lie in eight different places of 128 bytes."
    )
    return Outcome(WRONG, text, values=values)


def overlap(context: Context) -> Outcome:
    """options.during: of the products of a K/V tile, how many a tile's copies have to travel along with: "some" (those
    of Q Kᵀ or of P V) or "all" of them; none where it is not given. options.barriers: the most __syncthreads for each
    K/V tile."""
    job = Job(context.test.seconds)
    (case,) = drawn(context)
    if not where(context.stage, case.dtype).kind == "emulator":
        raise Failed(UNGRADED, "Not graded here: it needs the emulator; CUDA_EMULATE=1 makes it run beside a GPU.")
    question = attention_call(job, context, case)
    job.calls[0]["instrument"] = "overlap"
    (call,) = context.run(job)
    causes, note = check_call(context, call, question, context.answer.out)
    if causes:
        return Outcome(WRONG, sentence(f"The result is wrong: {causes[0]}"), (note,), causes=causes[:1])
    tiles, d = context.stage.tiles, context.stage.capability.padded_headdim(case.headdim)
    kv_tiles, warps = -(-case.seqlen_k // tiles["Bc"]), tiles["num_warps"]
    half = d // 16 * (tiles["Bc"] // 8)  # products of Q Kᵀ, and as many of P V, of a warp in a K/V tile
    wanted = {None: 0, "some": half, "all": 2 * half}[context.test.options.get("during")]
    groups = parse(str(context.answer.data.get("overlap", "")))
    blocks = case.batch * case.nheads * -(-case.seqlen_q // tiles["Br"])
    if len(groups) != blocks * warps:
        return Outcome(REFUSED, "The kernel's copies do not go by cp_async_chunk, cp_async_commit and cp_async_wait.")
    # A few bytes that travel for show are no tiles: all of Q, K and V has to.
    chunks = int(call["counted"][0]["report"]["counters"].get("cp.async", {}).get("lanes", 0))
    if chunks < blocks * (tiles["Br"] + 2 * kv_tiles * tiles["Bc"]) * d // 8:
        return Outcome(REFUSED, "The kernel copies less than Q, K and V by cp_async_chunk.")
    # Q's group and the first tile's have nothing to travel along with.
    travelling = [sorted(products)[2:] for products in groups.values()]
    late = sum(products < wanted for warp in travelling for products in warp)
    many = sum(map(len, travelling))
    values = {"groups": many, "late": late}
    if many < len(groups) * (kv_tiles - 1):
        return Outcome(REFUSED, "The kernel commits fewer groups of copies than it has K/V tiles.", values=values)
    if late:
        during = "at least one of the two products" if wanted == half else "both products of a whole iteration"
        text = (
            f"{late} of {many} groups of copies are waited for too early: apart from the first, each is to travel "
            f"during {during}. Ask for a tile as soon as its place in shared memory is free; wait as late as you can."
        )
        return Outcome(WRONG, text, values=values)
    most = context.test.options.get("barriers")
    if most is not None:
        barriers = int(call["counted"][0]["report"]["counters"].get("__syncthreads", {}).get("instructions", 0))
        each = barriers / (blocks * warps * kv_tiles)
        values["barriers"] = round(each, 2)
        if each > most:
            return Outcome(
                WRONG, f"There are {each:.1f} __syncthreads for each K/V tile; allowed: {most:g}.", values=values
            )
    return Outcome(PASSED, values=values)


# ---- what the compiler makes of it ----------------------------------------------------------------------------------


def compiled(context: Context) -> Outcome:
    """Compiled for a GPU, without one: no spills; values for the leaderboard. options.arch, headdim, dtype, causal;
    options.per_product: the most instructions of the main loop for each tensor-core product."""
    if not installed("cupy"):
        raise Failed(UNGRADED, "Not graded here: it needs CuPy and NVRTC, which are not installed.")
    from tools.edited import edited
    from tools.nvrtc import CompileError
    from tools.sass import mix, records

    options, disassembler = context.test.options, mix.find_disassembler()
    if disassembler is None:
        raise Failed(UNGRADED, "Not graded here: no disassembler was found; Triton brings one.")
    chosen = {"arch": "80", "dtype": "bfloat16", "headdim": 128, "causal": False}
    chosen = {key: options.get(key, value) for key, value in chosen.items()}
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "kernel.cu"
        kernel.write_text(context.source, encoding="utf-8")
        try:
            (one,) = records.instantiations(edited(context.stage, kernel), disassembler, **chosen)
            record = records.measure(one)
        except CompileError as error:
            raise failure(context, {"type": "CompileError", "text": str(error)}, "") from None
    loop = record["loop"]
    products = loop["opcodes"].get("HMMA", 0)
    if not products:
        return Outcome(REFUSED, "The main loop has no tensor-core product.")
    each = round(loop["total"] / products, 2)
    values = {"instructions": loop["total"], "per_product": each, "registers": record["registers"]}
    if record["spill"]:
        text = f"{record['spill']} bytes of registers are spilled to memory: too much is held at once."
        return Outcome(WRONG, text, values=values)
    most = options.get("per_product")
    fact = f"{each:g} instructions of the main loop for each product, {record['registers']} registers"
    if most is not None and each > most:
        return Outcome(WRONG, f"{fact}; wanted: at most {most:g} instructions.", values=values)
    return Outcome(PASSED, f"{fact}.", values=values)


# ---- speed, on a GPU ------------------------------------------------------------------------------------------------


ROUNDS = 3  # that are timed; one more before them to compile and warm up
CALLS = 30, 60  # a round has as many as that, from and to: nobody knows which is the last, whose result comes back
TOKENS, WIDTH = 16384, 2048  # of the inputs: batch × seqlen, heads × headdim
WINDOWS = 64  # how far the rows that a call sees can be moved


def speed(context: Context) -> Outcome:
    """How fast, against PyTorch's own attention on the same GPU and by the same clock, this process's.

    Of each round's last result one hidden head is judged: the oracle would take minutes for all.

    options: ratio, what to reach: 1 is as fast as PyTorch; headdim, seqlen, causal, dtype.
    """
    options, rng = context.test.options, generator(context.secret, context.test.number)
    n, d = options.get("seqlen", 4096), options.get("headdim", 128)
    case = Case(
        dtype=options.get("dtype", "bfloat16"), headdim=d, seqlen_q=n, seqlen_k=n, causal=options.get("causal", False),
        batch=max(1, TOKENS // n), nheads=WIDTH // d, nheads_k=WIDTH // d, seed=rng.getrandbits(31),
    )  # fmt: skip
    place = where(context.stage, case.dtype)
    if place.kind != "gpu":
        raise Failed(UNGRADED, "Not graded here: only a GPU can show it.")
    job, question = speed_call(context, case, place.device, rng)
    (call,) = context.run(job)
    ms = per_call(context.answer, job)
    question["heads"] = [rng.getrandbits(31) for _ in range(ROUNDS)]
    causes, note = check_call(context, call, question, context.answer.out)
    if causes:
        text = sentence(f"The result is wrong, so its speed does not count: {causes[0]}")
        return Outcome(WRONG, text, (note,), causes=causes[:1])
    if context.stage.capability.backend == "triton":
        for noted, windows in zip(call["counted"], job.calls[0]["rounds"][1:]):
            if len(noted["launches"]) < len(windows):
                return Outcome(REFUSED, "Not every call launched a Triton kernel.")
    theirs = context.worker.run(job, backend="torch", module=YARDSTICK, file="")
    checked(context, theirs, job)
    ratio = round(per_call(theirs, job) / ms, 3)
    flops = 4 * case.batch * case.nheads * n * n * d * (0.5 if case.causal else 1)
    tflops = round(flops / ms / 1e9, 1)
    said = f"{ratio:.2f} times the speed of PyTorch's attention on this GPU ({tflops:g} TFLOP/s)"
    values = {"ratio": ratio, "tflops": tflops}
    if ratio < options["ratio"]:
        return Outcome(WRONG, f"{said}; wanted: {options['ratio']:g} times.", values=values)
    return Outcome(PASSED, f"{said}.", values=values)


def speed_call(context: Context, case: Case, device: str, rng) -> tuple[Job, dict]:
    """Rounds of calls, and the inputs of each round's last, whose result comes back."""
    # The rows, batch by batch, and the first of them once more behind the last: any window into them is an input.
    flat = [t.reshape(-1, *t.shape[2:]) for t in case.inputs("cpu")]
    flat = [torch.cat([t, t[:WINDOWS]]) for t in flat]
    rounds = [[[rng.randrange(WINDOWS) for _ in flat] for _ in range(rng.randint(*CALLS))] for _ in range(1 + ROUNDS)]
    job = Job(context.test.seconds)
    job.calls.append(
        {
            "kind": "speed",
            "arguments": [job.tensor(t) for t in flat],
            "shape": [case.batch, case.seqlen_q, case.nheads, case.headdim],
            "rounds": rounds,
            "causal": case.causal,
            "softmax_scale": case.softmax_scale,
            "device": device,
        }
    )
    inputs = [
        [t[w : w + len(t) - WINDOWS].view(case.batch, -1, *t.shape[1:]) for t, w in zip(flat, windows[-1])]
        for windows in rounds[1:]
    ]
    return job, {"case": case, "inputs": inputs}


def per_call(answer: Answer, job: Job) -> float:
    """Milliseconds a call, of the median round: the process pauses before and after each."""
    pauses, rounds = answer.pauses, job.calls[0]["rounds"][1:]
    if len(pauses) != 2 * len(rounds):
        raise Failed(CRASHED, "the process with the submission did not pause where it should.", answer.log)
    seconds = [after.seen - before.resumed for before, after in zip(pauses[::2], pauses[1::2])]
    return statistics.median(s / len(calls) for s, calls in zip(seconds, rounds)) * 1e3


KINDS: dict[str, Callable[[Context], Outcome]] = {
    "attention": attention, "function": function, "memory": memory, "launches": launches, "emulator": emulator,
    "overlap": overlap, "compiled": compiled, "speed": speed,
}  # fmt: skip


def unwritten(tasks: tuple[Task, ...], outcome: Outcome) -> bool:
    """Whether a test failed for the reason for which a handout has to fail."""
    return outcome.status == UNWRITTEN and any(task.name in outcome.message for task in tasks)
