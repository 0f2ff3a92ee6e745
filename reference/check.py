"""The verdict on a stage: run one case, compare with the oracle, say what is wrong.

The rule, for every (batch, head) by itself, so that a spike in one does not hide an error in another:

    max |out - oracle|  <=  2 · max |plain - oracle| + 2 · (rounding + sums)
    |lse - oracle|      <=  1e-4 + 1e-5 · |oracle|

    rounding  =  u · max {|oracle|, √Σⱼ (Pᵢⱼ Vⱼ)²}
    sums      =  (8 + √seqlen_k + 4 · s) · a · max Σⱼ Pᵢⱼ |Vⱼ|

plain is PyTorch's arithmetic in the same dtype (`oracle.plain`), u the dtype's unit roundoff, a that of the sums
(float32's, or float64's), s the largest logit that the inputs allow. What is added to plain's error is small beside it
wherever plain has many elements to be wrong in; on a few, plain can be exact by luck, and this is what no kernel can do
without: P and O are each rounded once, P's roundings adding up like a random walk; a sum of n terms is off by about
√n · a in some order or other, and an error of a · s in a logit is one of as much, relatively, in P.

A fixed tolerance is no test: at 16k keys a typical output is near 0.01, and an atol of 1e-2 passes zeros. NaN never
passes, nor does a write outside the output.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch

from reference.cases import Case
from reference.guard import Guarded
from reference.oracle import oracle, plain
from stages.common.record import Stage
from stages.common.where import where

UNIT_ROUNDOFF = {
    dtype: torch.finfo(dtype).eps / 2 for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
}
LSE_ATOL, LSE_RTOL = 1e-4, 1e-5


@dataclass(frozen=True)
class Verdict:
    """ok, and the worst (batch, head): the one with the largest error ÷ bound. problem is "" or says what is wrong."""

    ok: bool
    error: float
    bound: float
    lse_error: float
    problem: str = ""

    def __str__(self) -> str:
        return self.problem or f"error {self.error:.2e} within {self.bound:.2e}"


@dataclass(frozen=True)
class Expected:
    """What the reference says of one set of inputs: float64 results, and the bound on the error for each (batch,
    head)."""

    out: torch.Tensor  # [batch, seqlen_q, nheads, headdim] float64
    lse: torch.Tensor  # [batch, nheads, seqlen_q] float64
    bound: torch.Tensor  # [batch, nheads] float64


def expect(q, k, v, *, causal=False, softmax_scale=None) -> Expected:
    """Oracle and error bound for these inputs, as they are rounded."""
    out, lse = oracle(q, k, v, causal=causal, softmax_scale=softmax_scale)
    plain_error = (plain(q, k, v, causal=causal, softmax_scale=softmax_scale).double() - out).abs().amax(dim=(1, 3))
    scale = q.shape[3] ** -0.5 if softmax_scale is None else softmax_scale
    longest_q, longest_k = (t.double().norm(dim=3).amax(dim=1) for t in (q, k))  # [batch, nheads], [batch, nheads_k]
    s = scale * longest_q * longest_k.repeat_interleave(q.shape[2] // k.shape[2], dim=1)
    terms, _ = oracle(q, k, v.abs(), causal=causal, softmax_scale=scale)  # Σⱼ P|V|
    # softmax(2S) is P² but for its denominator, so Σⱼ (PV)² is attention once more.
    squares, lse_squares = oracle(q, k, v.double() ** 2, causal=causal, softmax_scale=2 * scale)
    ratio = torch.where(lse == -torch.inf, 0.0, lse_squares - 2 * lse).exp().transpose(1, 2)[..., None]
    walk = (squares * ratio).sqrt()

    def largest(t):
        return t.abs().amax(dim=(1, 3))

    u, a = UNIT_ROUNDOFF[q.dtype], UNIT_ROUNDOFF[torch.float64 if q.dtype == torch.float64 else torch.float32]
    rounding = u * torch.maximum(largest(out), largest(walk))
    sums = (8 + k.shape[1] ** 0.5 + 4 * s) * a * largest(terms)
    return Expected(out, lse, 2 * plain_error + 2 * (rounding + sums))


def judge(out, lse, expected: Expected) -> Verdict:
    """Compare a result with what the reference expects; torch tensors in the layouts of the contract."""
    out, lse = out.double(), lse.double()
    for name, got in (("out", out), ("lse", lse)):
        bad = got.isnan()
        if bad.any():
            first = ", ".join(str(int(i)) for i in bad.nonzero()[0])
            problem = f"{name} has NaN or was not written: {bad.double().mean().item():.1%}, first at [{first}]"
            return Verdict(False, float("nan"), 0.0, float("nan"), problem)
    unseen = expected.lse == -torch.inf  # rows that see no key
    if not torch.equal(lse == -torch.inf, unseen):
        b, h, row = (int(i) for i in ((lse == -torch.inf) != unseen).nonzero()[0])
        fact = "sees no key (lse should be -inf)" if unseen[b, h, row] else "does see a key"
        problem = f"lse is {lse[b, h, row].item():.3g} at batch {b}, head {h}, row {row}, which {fact}"
        return Verdict(False, float("inf"), 0.0, float("inf"), problem)
    if (out.transpose(1, 2)[unseen] != 0).any():
        return Verdict(False, float("inf"), 0.0, float("inf"), "out is not 0 on the rows that see no key")

    error = (out - expected.out).abs().amax(dim=(1, 3))  # [batch, nheads]
    ratio = torch.where(error == 0, 0.0, error / expected.bound)
    b, h = divmod(int(ratio.argmax()), ratio.shape[1])
    worst, bound = error[b, h].item(), expected.bound[b, h].item()
    lse_error = torch.where(unseen, 0.0, lse - expected.lse).abs()
    lse_worst = lse_error.max().item()
    if not (ratio <= 1).all():
        row = int((out - expected.out)[b, :, h].abs().amax(dim=1).argmax())
        problem = f"out is off by {worst:.2e}, allowed {bound:.2e}; batch {b}, head {h}, row {row}"
        return Verdict(False, worst, bound, lse_worst, problem)
    if not (lse_error <= LSE_ATOL + LSE_RTOL * torch.where(unseen, 0.0, expected.lse).abs()).all():
        problem = f"lse is off by {lse_worst:.2e}, allowed {LSE_ATOL:g} + {LSE_RTOL:g}·|lse|"
        return Verdict(False, worst, bound, lse_worst, problem)
    return Verdict(True, worst, bound, lse_worst)


@functools.lru_cache(maxsize=4096)
def _expected_on_cpu(case: Case) -> Expected:
    """Every stage of one dtype meets the same cases: the oracle answers each once a process."""
    return _expected(dataclasses.replace(case, layout="contiguous"), "cpu")


def _expected(case: Case, device) -> Expected:
    q, k, v = case.inputs(device)
    return expect(q, k, v, causal=case.causal, softmax_scale=case.softmax_scale)


def check(stage: Stage, case: Case, *, attention=None) -> Verdict:
    """Run `case` on `stage` where it runs on this machine, into guarded NaN-filled outputs, and judge the result.

    attention: what to call instead of the stage's own function (a learner's, a mutant's).
    """
    device = where(stage, case.dtype).device
    q, k, v = case.inputs(device)
    out = Guarded(tuple(q.shape), q.dtype, device)
    lse = Guarded((case.batch, case.nheads, case.seqlen_q), torch.float32, device)
    call = attention or stage.attention
    result = call(q, k, v, causal=case.causal, softmax_scale=case.softmax_scale, out=out.view, lse=lse.view)
    if not isinstance(result, tuple) or len(result) != 2 or result[0] is not out.view or result[1] is not lse.view:
        return Verdict(False, float("nan"), 0.0, float("nan"), "the given out and lse were not returned")
    if not (out.intact() and lse.intact()):
        return Verdict(False, float("nan"), 0.0, float("nan"), "wrote outside out or lse")
    expected = _expected_on_cpu(case) if device == "cpu" else _expected(case, device)
    return judge(out.view, lse.view, expected)
