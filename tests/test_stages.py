"""The one suite that every stage passes: its grid of cases, and what the contract promises beyond numbers.

`pytest tests/test_stages.py -k s12` runs one stage's part; `--grid full` the product of the axes.
"""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference import Case, check, full_grid, judge, quick_grid
from reference.check import expect
from stages import STAGES, get
from stages.common.where import where
from tests.conftest import dtypes_here, place_or_skip


def pytest_generate_tests(metafunc):
    if "case" not in metafunc.fixturenames:
        return
    grid = metafunc.config.getoption("--grid")
    parameters = []
    for stage in STAGES:
        cases = dict.fromkeys((*quick_grid(stage), *(full_grid(stage) if grid == "full" else ())))
        parameters += [pytest.param(stage, case, id=f"{stage.short}-{case}") for case in cases]
    metafunc.parametrize("stage, case", parameters)


def test_stage(stage, case):
    place_or_skip(stage, case.dtype)
    verdict = check(stage, case)
    assert verdict.ok, f"{stage.name}, {case}: {verdict}"


@settings(
    derandomize=True,
    database=None,
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_shape(runnable, data):
    """Lengths, heads and head dims that nobody picked by hand."""
    largest = min(runnable.capability.max_headdim or 96, 96)
    nheads_k = data.draw(st.integers(1, 3), "nheads_k")
    case = Case(
        dtype=data.draw(st.sampled_from(dtypes_here(runnable)), "dtype"),
        headdim=data.draw(st.integers(1, largest), "headdim"),
        seqlen_q=data.draw(st.integers(1, 150), "seqlen_q"),
        seqlen_k=data.draw(st.integers(1, 150), "seqlen_k"),
        causal=data.draw(st.booleans(), "causal"),
        batch=data.draw(st.integers(1, 2), "batch"),
        nheads=nheads_k * data.draw(st.integers(1, 3), "group"),
        nheads_k=nheads_k,
        seed=data.draw(st.integers(0, 9), "seed"),
    )
    verdict = check(runnable, case)
    assert verdict.ok, f"{runnable.name}, {case}: {verdict}"


@pytest.mark.parametrize("causal", (False, True))
def test_deterministic(runnable, small, causal):
    for dtype in dtypes_here(runnable):
        case, (q, k, v) = small(dtype=dtype, causal=causal, seqlen_q=130, seqlen_k=200, family="spikes")
        first, again = (runnable.attention(q, k, v, causal=causal) for _ in range(2))
        for name, a, b in zip(("out", "lse"), first, again, strict=True):
            assert torch.equal(a, b), f"{name} differs between two calls with the same inputs ({case})"


def test_torch_in_torch_out(runnable, small):
    case, (q, k, v) = small()
    out, lse = runnable.attention(q, k, v)
    assert (out.shape, out.dtype, out.device) == (q.shape, q.dtype, q.device)
    assert (lse.shape, lse.dtype, lse.device) == (
        (case.batch, case.nheads, case.seqlen_q),
        torch.float32,
        q.device,
    )
    assert judge(out, lse, expect(q, k, v)).ok


def test_numpy_in_numpy_out(runnable, small):
    dtype = next(dtype for dtype in dtypes_here(runnable) if dtype != "bfloat16")  # NumPy has no bfloat16
    case, tensors = small(dtype=dtype)
    out, lse = runnable.attention(*(t.cpu().numpy() for t in tensors))
    assert isinstance(out, np.ndarray) and isinstance(lse, np.ndarray)
    assert (out.shape, out.dtype) == (tuple(tensors[0].shape), np.dtype(dtype))
    assert (lse.shape, lse.dtype) == ((case.batch, case.nheads, case.seqlen_q), np.float32)
    verdict = judge(torch.from_numpy(out), torch.from_numpy(lse), expect(*(t.cpu() for t in tensors)))
    assert verdict.ok, verdict


@pytest.mark.parametrize("given_out, given_lse", ((True, True), (True, False), (False, True)))
def test_out_and_lse_are_the_callers(runnable, small, given_out, given_lse):
    """Each may be given without the other, is written in place and handed back as the same object."""
    case, (q, k, v) = small()
    out = torch.full_like(q, torch.nan) if given_out else None
    lse = torch.full((case.batch, case.nheads, case.seqlen_q), torch.nan, device=q.device) if given_lse else None
    got_out, got_lse = runnable.attention(q, k, v, out=out, lse=lse)
    assert out is None or got_out is out
    assert lse is None or got_lse is lse
    verdict = judge(got_out, got_lse, expect(q, k, v))
    assert verdict.ok, verdict


def test_numpy_out_and_lse_are_the_callers(runnable, small):
    dtype = next(dtype for dtype in dtypes_here(runnable) if dtype != "bfloat16")
    case, tensors = small(dtype=dtype)
    q, k, v = (t.cpu().numpy() for t in tensors)
    out = np.full_like(q, np.nan)
    lse = np.full((case.batch, case.nheads, case.seqlen_q), np.nan, np.float32)
    got = runnable.attention(q, k, v, out=out, lse=lse)
    assert got[0] is out and got[1] is lse
    verdict = judge(torch.from_numpy(out), torch.from_numpy(lse), expect(*(t.cpu() for t in tensors)))
    assert verdict.ok, verdict


@pytest.mark.parametrize("headdim", (16, 9))  # as it is, and padded
def test_out_and_lse_may_be_strided(runnable, small, headdim):
    """Views into wider memory: what lies between their elements stays as it was."""
    case, (q, k, v) = small(headdim=headdim, nheads_k=1)
    wide_out = torch.full((*q.shape[:2], 2 * q.shape[2], headdim), torch.nan, dtype=q.dtype, device=q.device)
    wide_lse = torch.full((case.batch, case.nheads, 2 * case.seqlen_q), torch.nan, device=q.device)
    out, lse = wide_out[:, :, ::2], wide_lse[..., ::2]
    runnable.attention(q, k, v, out=out, lse=lse)
    verdict = judge(out, lse, expect(q, k, v))
    assert verdict.ok, verdict
    assert wide_out[:, :, 1::2].isnan().all() and wide_lse[..., 1::2].isnan().all()


@pytest.mark.parametrize("layout", ("contiguous", "transposed", "sliced"))
def test_inputs_are_not_modified(runnable, small, layout):
    _, (q, k, v) = small(layout=layout, causal=True)
    before = [t.clone() for t in (q, k, v)]
    runnable.attention(q, k, v, causal=True)
    for name, t, copy in zip("qkv", (q, k, v), before, strict=True):
        assert torch.equal(t, copy), f"{name} was modified"


def test_result_carries_no_gradient(runnable, small):
    _, (q, k, v) = small()
    out, lse = runnable.attention(*(t.requires_grad_() for t in (q, k, v)))
    assert not out.requires_grad and not lse.requires_grad


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the future score is NaN before it is masked
def test_future_keys_are_masked_by_choice_not_by_sums(runnable, small):
    """-inf added to the score of an infinite key is NaN; but a key that a row does not see cannot change it."""
    case, (q, k, v) = small(seqlen_q=70, seqlen_k=70, causal=True)
    clean = [t.clone() for t in runnable.attention(q, k, v, causal=True)]
    k[:, -1] = torch.inf
    out, lse = runnable.attention(q, k, v, causal=True)
    assert torch.equal(out[:, :-1], clean[0][:, :-1]) and torch.equal(lse[..., :-1], clean[1][..., :-1])


def peak_host_bytes(stage, seqlen: int) -> int:
    """What NumPy allocates in a call, at its peak; out and lse are the caller's and do not count."""
    case = Case(dtype="float32", headdim=16, seqlen_q=seqlen, seqlen_k=seqlen, nheads=1, nheads_k=1)
    q, k, v = (t.numpy() for t in case.inputs())
    out, lse = np.empty_like(q), np.empty((1, 1, seqlen), np.float32)
    stage.attention(q, k, v, out=out, lse=lse)  # imports and caches are not the stage's
    tracemalloc.start()
    try:
        stage.attention(q, k, v, out=out, lse=lse)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_naive_memory_is_quadratic_and_online_linear():
    """The point of s02: 4 times the keys and queries cost s01 16 times the memory, s02 at most 4 times."""
    naive, online = ([peak_host_bytes(get(name), n) for n in (512, 2048)] for name in ("s01", "s02"))
    assert naive[1] > 12 * naive[0], naive
    assert online[1] < 5 * online[0], online
    assert online[1] < naive[1] / 10, (naive, online)


# What a stage may hold beyond out and lse, in bytes, given its inputs: FlashAttention-1 keeps O, m and l of every
# row in global memory, in fp32.
OWN_WORKSPACE = {"s11_triton_v1": lambda q: 4 * q.numel() + 2 * 4 * q.numel() // q.shape[3]}


def peak_gpu_bytes(stage, case: Case) -> tuple[int, int]:
    """(what a call allocates on the GPU at its peak, what it is allowed to)."""
    q, k, v = case.inputs("cuda")
    stage.attention(q, k, v, causal=case.causal)  # compiling and autotuning allocate too
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = stage.attention(q, k, v, causal=case.causal)
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    allowed = sum(t.numel() * t.element_size() for t in result)
    return extra, allowed + OWN_WORKSPACE.get(stage.name, lambda q: 0)(q)


@pytest.mark.parametrize("causal", (False, True))
def test_gpu_memory_is_out_and_lse(runnable, causal):
    if where(runnable).kind != "gpu":
        pytest.skip(f"{runnable.name} runs on {where(runnable).reason}; GPU memory is measured on a GPU")
    dtype = next(dtype for dtype in dtypes_here(runnable) if dtype != "float32")
    short = Case(dtype=dtype, headdim=64, seqlen_q=1024, seqlen_k=1024, nheads=4, nheads_k=4, causal=causal)
    for case in (short, dataclasses.replace(short, seqlen_q=8192, seqlen_k=8192)):
        extra, allowed = peak_gpu_bytes(runnable, case)
        slack = 8 * 512  # the allocator rounds each tensor up to 512 bytes
        assert extra <= allowed + slack, (
            f"{runnable.name} holds {extra} bytes more than before; allowed {allowed} ({case})"
        )


# ---- what single stages add --------------------------------------------------------------------------------


@pytest.mark.parametrize("split", (1, 64, 100, 202))
def test_merge_of_two_parts_is_the_whole(split):
    """s02's rule: attention over some keys and attention over the rest, merged, is attention over all."""
    from stages.s02_online_softmax.kernel import merge, tiled_attention

    case = Case("float64", 16, 113, 203, family="spikes", nheads=1, nheads_k=1)
    Q, K, V = (t[0, :, 0].numpy() for t in case.inputs())
    first = tiled_attention(Q, K[:split], V[:split], 0.25, False)
    rest = tiled_attention(Q, K[split:], V[split:], 0.25, False)
    whole = tiled_attention(Q, K, V, 0.25, False)
    for got, expected in zip(merge(*first, *rest), whole, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)


def test_merge_of_rows_that_see_no_key():
    from stages.s02_online_softmax.kernel import merge

    nothing = np.zeros((2, 3)), np.full(2, -np.inf)
    something = np.ones((2, 3)), np.zeros(2)
    for a, b, out, lse in (
        (nothing, nothing, 0, -np.inf),
        (nothing, something, 1, 0),
        (something, nothing, 1, 0),
    ):
        merged = merge(*a, *b)
        assert (merged[0] == out).all() and (merged[1] == lse).all()
