"""The reference itself: the oracle against independent formulas, the judge against wrong results, the inputs against
their description.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib
import itertools
import math

import pytest
import torch

from reference import Case, check, full_grid, judge, oracle, plain, quick_grid
from reference.check import UNIT_ROUNDOFF, expect
from reference.guard import GUARD, Guarded
from reference.inputs import FAMILIES, RANDOM_FAMILIES, captured_shape, make_inputs
from stages import STAGES, get

DTYPES = ("float16", "bfloat16", "float32", "float64")
UNSEEN_ROWS = dict(seqlen_q=9, seqlen_k=4, causal=True)  # the first five queries see no key


def family_case(family: str, dtype: str, seqlen_k: int = 300) -> Case:
    """A case of `family` with a few hundred keys, two heads."""
    if family == "activations":
        seqlen, _, headdim = captured_shape()
        return Case(dtype, headdim, 64, min(seqlen, seqlen_k), family=family)
    return Case(dtype, 64, 64, seqlen_k, family=family)


# ---- oracle ------------------------------------------------------------------------------------------------


def by_the_book(q, k, v, scale, causal):
    """Attention in Python floats, one number at a time -> out and lse in the layouts of the contract."""
    (batch, seqlen_q, nheads, headdim), (_, seqlen_k, nheads_k, _) = q.shape, k.shape
    out = torch.zeros(q.shape, dtype=torch.float64)
    lse = torch.full((batch, nheads, seqlen_q), -math.inf, dtype=torch.float64)
    for b, h, i in itertools.product(range(batch), range(nheads), range(seqlen_q)):
        h_k = h * nheads_k // nheads
        keys = [j for j in range(seqlen_k) if not causal or seqlen_k - j >= seqlen_q - i]  # counted from the end
        weights = [
            math.exp(scale * math.fsum((q[b, i, h, x] * k[b, j, h_k, x]).item() for x in range(headdim))) for j in keys
        ]
        if keys:
            lse[b, h, i] = math.log(math.fsum(weights))
        for x in range(headdim if keys else 0):
            total = math.fsum(w * v[b, j, h_k, x].item() for w, j in zip(weights, keys, strict=True))
            out[b, i, h, x] = total / math.fsum(weights)
    return out, lse


@pytest.mark.parametrize("lengths", ((5, 5), (3, 7), (9, 4), (1, 6), (6, 1)))
@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("scale", (None, 0.7))
def test_oracle_is_the_definition(lengths, causal, scale):
    case = Case("float64", 3, *lengths, causal, batch=2, nheads=4, nheads_k=2)
    q, k, v = case.inputs()
    out, lse = oracle(q, k, v, causal=causal, softmax_scale=scale)
    expected_out, expected_lse = by_the_book(q, k, v, 3**-0.5 if scale is None else scale, causal)
    torch.testing.assert_close(out, expected_out, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("causal", (False, True))
def test_oracle_agrees_with_torch(family, causal):
    """scaled_dot_product_attention in float64, with the mask written out; and torch's logsumexp."""
    q, k, v = dataclasses.replace(family_case(family, "float64"), nheads=4, nheads_k=2).inputs()
    seqlen_q, seqlen_k = q.shape[1], k.shape[1]
    mask = torch.ones(seqlen_q, seqlen_k, dtype=torch.bool)
    if causal:
        mask = mask.tril(seqlen_k - seqlen_q)
    Q, K, V = (t.transpose(1, 2) for t in (q, k, v))
    theirs = torch.nn.functional.scaled_dot_product_attention(Q, K, V, attn_mask=mask, enable_gqa=True)
    S = (Q @ K.repeat_interleave(2, dim=1).transpose(2, 3)) * q.shape[3] ** -0.5
    out, lse = oracle(q, k, v, causal=causal)
    torch.testing.assert_close(out, theirs.transpose(1, 2), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(lse, S.masked_fill(~mask, -torch.inf).logsumexp(dim=3), rtol=1e-12, atol=1e-12)


def test_oracle_in_chunks(monkeypatch):
    """A few queries at a time, the last chunk shorter, change nothing."""
    q, k, v = Case("float64", 8, 23, 17, True).inputs()
    whole = oracle(q, k, v, causal=True)
    module = importlib.import_module("reference.oracle")  # the name itself is the function
    monkeypatch.setattr(module, "CHUNK_BYTES", 8 * 17 * 5)
    for a, b in zip(whole, oracle(q, k, v, causal=True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("function", (oracle, lambda *a, **k: (plain(*a, **k), None)), ids=("oracle", "plain"))
def test_rows_without_keys(function):
    q, k, v = Case("float32", 8, **UNSEEN_ROWS).inputs()
    out, lse = function(q, k, v, causal=True)
    assert (out[:, :5] == 0).all() and (out[:, 5:] != 0).all() and not out.isnan().any()
    assert lse is None or ((lse[..., :5] == -torch.inf).all() and lse[..., 5:].isfinite().all())


def test_grouped_heads_read_their_group():
    """Query head h reads key/value head h // group: repeating each head by hand gives the same."""
    q, k, v = Case("float64", 8, 11, 13, nheads=6, nheads_k=2).inputs()
    repeated = (t.repeat_interleave(3, dim=2) for t in (k, v))
    assert torch.equal(oracle(q, k, v)[0], oracle(q, *repeated)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_is_as_good_as_its_dtype(family, dtype):
    """The yardstick is neither exact nor sloppy: a few roundings of the largest output."""
    q, k, v = family_case(family, dtype).inputs()
    got, (exact, _) = plain(q, k, v), oracle(q, k, v)
    assert got.dtype == q.dtype and got.shape == q.shape
    error = ((got.double() - exact).abs().amax(dim=(1, 3)) / exact.abs().amax(dim=(1, 3))).max().item()
    if dtype in ("float16", "bfloat16"):
        assert error < 8 * UNIT_ROUNDOFF[q.dtype]
        assert error > UNIT_ROUNDOFF[q.dtype] / 8 or family in ("one_hot", "constant_v")  # these can be exact
    else:  # hundreds of terms are summed; and logits near 130 carry roundings of 130·u themselves
        logits = {"shifted": 130, "negative": 130, "ramp": 20}.get(family, 1)
        assert error < 64 * logits * UNIT_ROUNDOFF[q.dtype]


# ---- judge -------------------------------------------------------------------------------------------------


@pytest.fixture
def answer():
    """(expected, out, lse), out and lse exactly right: causal, two batches, four heads, some rows without keys."""
    q, k, v = Case("float16", 16, 70, 60, True, batch=2, nheads=4, nheads_k=2).inputs()
    expected = expect(q, k, v, causal=True)
    return expected, expected.out.clone(), expected.lse.clone()


def test_the_right_answer_passes(answer):
    expected, out, lse = answer
    verdict = judge(out, lse, expected)
    assert verdict.ok and verdict.error == 0 and "within" in str(verdict)


@pytest.mark.parametrize("where", ("out", "lse"))
def test_one_nan_fails(answer, where):
    expected, out, lse = answer
    (out if where == "out" else lse)[1, 3, 2] = torch.nan
    verdict = judge(out, lse, expected)
    assert not verdict.ok and where in verdict.problem and "[1, 3, 2" in verdict.problem


def test_infinite_output_fails(answer):
    expected, out, lse = answer
    out[0, 69, 0, 0] = torch.inf
    assert not judge(out, lse, expected).ok


@pytest.mark.parametrize("factor, ok", ((0.9, True), (1.1, False), (3, False), (-3, False)))
@pytest.mark.parametrize("at", ((0, 69, 0, 0), (1, 30, 3, 15), (1, 10, 2, 7)))
def test_one_element_off_by_a_multiple_of_the_bound(answer, factor, ok, at):
    expected, out, lse = answer
    batch, row, head, _ = at
    out[at] += factor * expected.bound[batch, head]
    verdict = judge(out, lse, expected)
    assert verdict.ok == ok
    assert ok or (f"batch {batch}, head {head}, row {row}" in verdict.problem and verdict.error > verdict.bound)


@pytest.mark.parametrize("factor, ok", ((0.9, True), (1.1, False), (-3, False)))
def test_one_lse_off(answer, factor, ok):
    expected, out, lse = answer
    lse[1, 2, 40] += factor * (1e-4 + 1e-5 * expected.lse[1, 2, 40].abs())
    verdict = judge(out, lse, expected)
    assert verdict.ok == ok and (ok or "lse" in verdict.problem)


def test_a_spike_in_one_head_hides_nothing_in_another(answer):
    """The error of head 1 is judged by head 1's size, however large head 0 is."""
    case = Case("float16", 64, 64, 300, family="normal")
    q, k, v = case.inputs()
    v[:, :, 0] *= 1000
    expected = expect(q, k, v)
    small = expected.bound[0, 1].item()
    assert small < expected.bound[0, 0] / 100
    out = expected.out.clone()
    out[0, 5, 1, 3] += 3 * small
    verdict = judge(out, expected.lse, expected)
    assert not verdict.ok and "head 1" in verdict.problem


WRONG_LSE = {
    "base 2": lambda lse: lse / math.log(2),
    "without the maximum": lambda lse: lse - 1,
    "zeros": torch.zeros_like,
    "swapped heads": lambda lse: lse.flip(1),
    "-inf everywhere": lambda lse: torch.full_like(lse, -torch.inf),
    "+inf where no key is seen": lambda lse: lse.where(lse != -torch.inf, torch.inf),
    "0 where no key is seen": lambda lse: lse.where(lse != -torch.inf, 0.0),
    "the lowest float where no key is seen": lambda lse: lse.where(lse != -torch.inf, -3.4e38),
}


@pytest.mark.parametrize("wrong", WRONG_LSE)
def test_wrong_lse_fails(answer, wrong):
    expected, out, lse = answer
    verdict = judge(out, WRONG_LSE[wrong](lse), expected)
    assert not verdict.ok and "lse" in verdict.problem


def test_output_on_rows_without_keys_fails(answer):
    expected, out, lse = answer
    out[0, 3, 1, 0] = 1e-7
    verdict = judge(out, lse, expected)
    assert not verdict.ok and "see no key" in verdict.problem


def without_last_key(q, k, v):
    """Sums over one key too few, divided by the sum over all: what a lost tail gives."""
    V = v.clone()
    V[:, -1] = 0
    return oracle(q, k, V)[0]


# What a kernel with nothing or little to do with the answer would return.
WRONG_OUT = {
    "zeros": lambda q, k, v: torch.zeros_like(q),
    "mean of V": lambda q, k, v: v.double().mean(dim=1, keepdim=True).expand(q.shape),
    "keys shifted by one": lambda q, k, v: oracle(q, k.roll(1, dims=1), v)[0],
    "first key twice, last never": lambda q, k, v: oracle(q, *(t[:, [0, *range(t.shape[1] - 1)]] for t in (k, v)))[0],
    "last key lost": without_last_key,
    "heads swapped": lambda q, k, v: oracle(q, k, v)[0].flip(2),
    "heads of K and V swapped": lambda q, k, v: oracle(q, k.flip(2), v.flip(2))[0],
    "scale ignored": lambda q, k, v: oracle(q, k, v, softmax_scale=1)[0],
    "twice": lambda q, k, v: 2 * oracle(q, k, v)[0],
    "1 % too large": lambda q, k, v: 1.01 * oracle(q, k, v)[0],
}
# Where a wrong result is not wrong enough to see, and why.
INVISIBLE = (
    (("constant_v",), ("mean of V", "keys shifted by one", "first key twice, last never", "scale ignored"),
     DTYPES, "with a constant V any weights that sum to 1 give the right output"),
    (("shifted", "negative"), ("first key twice, last never", "last key lost"),
     DTYPES, "the last key is one of hundreds, and a few keys have all the weight"),
    (("one_hot",), ("scale ignored",), DTYPES, "a larger scale makes one-hot weights only sharper"),
    (FAMILIES, ("1 % too large",), ("bfloat16",), "1 % is 5 units of bfloat16 roundoff: near its own error"),
)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wrong", WRONG_OUT)
def test_wrong_output_fails(family, dtype, wrong):
    for families, wrongs, dtypes, reason in INVISIBLE:
        if family in families and wrong in wrongs and dtype in dtypes:
            pytest.skip(reason)
    q, k, v = family_case(family, dtype).inputs()
    expected = expect(q, k, v)
    assert not judge(WRONG_OUT[wrong](q, k, v), expected.lse, expected).ok


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_bound_is_small(family, dtype):
    """Relative to the head's largest output: a few units in the last place, never a fixed number."""
    q, k, v = family_case(family, dtype).inputs()
    expected = expect(q, k, v)
    share = (expected.bound / expected.out.abs().amax(dim=(1, 3))).max().item()
    limit = {"float16": 3e-3, "bfloat16": 2.5e-2, "float32": 2e-4, "float64": 3e-13}[dtype]
    assert share < limit, f"the bound is {share:.1e} of the largest output"


@pytest.mark.parametrize("seqlen_k", (1000, 4099))
def test_the_bound_shrinks_with_the_output(seqlen_k):
    """Over many keys outputs come out near 0; the bound follows, so zeros and a wrong mask still fail."""
    q, k, v = Case("float16", 64, 16, seqlen_k).inputs()
    expected = expect(q, k, v)
    assert expected.bound.max() < 0.003 * expected.out.abs().max() < 0.003
    shifted = oracle(q, k, v.roll(1, dims=1))[0]
    for wrong in (torch.zeros_like(q), shifted):
        assert not judge(wrong, expected.lse, expected).ok


# ---- check and guards --------------------------------------------------------------------------------------

CHECKED = Case("float32", 16, 40, 50, causal=True, nheads=4, nheads_k=2)


def right(q, k, v, *, causal, softmax_scale, out, lse):
    exact = oracle(q, k, v, causal=causal, softmax_scale=softmax_scale)
    for to, value in zip((out, lse), exact, strict=True):
        to.copy_(value)
    return out, lse


def misbehaving(change):
    """`right`, and then `change(out, lse)`."""

    def attention(*args, **kwargs):
        result = right(*args, **kwargs)
        changed = change(*result)
        return result if changed is None else changed

    return attention


def write_beyond(t, offset: int, value: float = 0.0):
    """Write `value` at `offset` elements from the start of `t`, in or out of it."""
    t.as_strided((1,), (1,), t.storage_offset() + offset).fill_(value)


MISBEHAVIOUR = {
    "returns copies": (lambda out, lse: (out.clone(), lse.clone()), "not returned"),
    "returns only out as given": (lambda out, lse: (out, lse.clone()), "not returned"),
    "returns one tensor": (lambda out, lse: out, "not returned"),
    "returns three": (lambda out, lse: (out, lse, out), "not returned"),
    "writes before out": (lambda out, lse: write_beyond(out, -1), "outside"),
    "writes past out": (lambda out, lse: write_beyond(out, out.numel()), "outside"),
    "writes a NaN past out": (lambda out, lse: write_beyond(out, out.numel() + 3, -math.nan), "outside"),
    "writes before lse": (lambda out, lse: write_beyond(lse, -1), "outside"),
    "writes past lse": (lambda out, lse: write_beyond(lse, lse.numel() + GUARD - 1), "outside"),
    "leaves an element of out": (lambda out, lse: write_beyond(out, 17, math.nan), "out has NaN"),
    "leaves an element of lse": (lambda out, lse: write_beyond(lse, 17, math.nan), "lse has NaN"),
}


def test_check_passes_what_is_right():
    assert check(get("s01"), CHECKED, attention=right).ok


@pytest.mark.parametrize("what", MISBEHAVIOUR)
def test_check_sees(what):
    change, problem = MISBEHAVIOUR[what]
    verdict = check(get("s01"), CHECKED, attention=misbehaving(change))
    assert not verdict.ok and problem in verdict.problem


def test_check_fails_what_writes_nothing():
    verdict = check(get("s01"), CHECKED, attention=lambda *a, out, lse, **k: (out, lse))
    assert not verdict.ok and "100.0%" in verdict.problem


def test_check_fails_what_returns_nothing():
    verdict = check(get("s01"), CHECKED, attention=lambda *args, **kwargs: right(*args, **kwargs) and None)
    assert not verdict.ok and "not returned" in verdict.problem


def test_check_passes_the_arguments_on():
    case = dataclasses.replace(CHECKED, softmax_scale=0.3)
    assert check(get("s01"), case, attention=right).ok
    for argument, value in (("causal", False), ("softmax_scale", None)):
        wrong = check(get("s01"), case, attention=lambda *a, **k: right(*a, **(k | {argument: value})))  # noqa: B023
        assert not wrong.ok, argument


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32, torch.float64))
def test_guarded(dtype):
    guarded = Guarded((3, 5), dtype, "cpu")
    assert guarded.view.isnan().all() and guarded.view.is_contiguous() and guarded.intact()
    assert (guarded.view.data_ptr() - guarded.view.untyped_storage().data_ptr()) % 16 == 0
    guarded.view.fill_(1)
    assert guarded.intact()
    write_beyond(guarded.view, 15)
    assert not guarded.intact()


# ---- inputs ------------------------------------------------------------------------------------------------

HEADDIMS = (1, 16, 64, 128, 256)


def drawn(family: str, headdim: int, **sizes):
    """(S, P, V): float64 scores and weights [batch, nheads, 64, 300], and V."""
    q, k, v = make_inputs(
        family, **(dict(batch=1, seqlen_q=64, seqlen_k=300, nheads=4, nheads_k=4, headdim=headdim) | sizes)
    )
    S = torch.einsum("bihd,bjhd->bhij", q.double(), k.double()) * headdim**-0.5
    return S, S.softmax(dim=3), v


@pytest.mark.parametrize("headdim", HEADDIMS)
@pytest.mark.parametrize("family, sign", (("shifted", 1), ("negative", -1)))
def test_shifted_and_negative_logits_are_large(family, sign, headdim):
    S, _, _ = drawn(family, headdim)
    assert 120 < sign * S.mean() < 140
    assert (sign * S > 50).all()
    # Without its maximum the softmax fails in float32: exp overflows, or every term underflows.
    row_max = S.amax(dim=3)
    assert (row_max > 88.8).all() if sign > 0 else (row_max < -50).all()


@pytest.mark.parametrize("headdim", HEADDIMS)
def test_normal_logits_are_of_order_one(headdim):
    S, P, _ = drawn("normal", headdim)
    assert 0.8 < S.std() < 1.3 and P.amax(dim=3).median() < 0.1


@pytest.mark.parametrize("headdim", HEADDIMS[1:])
def test_spikes_are_in_some_heads_only(headdim):
    """In even heads the maximum jumps at the middle key and the last; odd heads are ordinary."""
    S, P, V = drawn("spikes", headdim)
    spiked = P[0, :, :, [150, 299]].sum(dim=2).mean(dim=1)  # the weight on the two keys, by head
    assert (spiked[::2] > 5 * spiked[1::2].max()).all()
    assert V[0, :, ::2].abs().max() > 10 * V[0, :, 1::2].abs().max()
    jumps = (S[0, 0, :, 299] > S[0, 0, :, :150].amax(dim=1)).double().mean()
    assert jumps > 0.2, "the running maximum hardly ever jumps at the last key"


@pytest.mark.parametrize("headdim", HEADDIMS[1:])  # at head dim 1 a key is 1 or -1: there is nothing to pick
def test_one_hot_picks_its_key(headdim):
    _, P, _ = drawn("one_hot", headdim)
    weight, key = P.max(dim=3)
    assert weight.median() > 0.97
    assert key.unique().numel() > 40, "queries pick different keys"
    assert (key[..., -1] == 299).all(), "the last query picks the last key, so that a lost tail shows"


@pytest.mark.parametrize("headdim", HEADDIMS)
def test_constant_v_is_constant_a_head(headdim):
    _, _, V = drawn("constant_v", headdim)
    per_head = V[0, 0, :, 0]
    assert (V == per_head[None, None, :, None]).all()
    assert len(set(per_head.tolist())) == 4 and (per_head != 0).all()


def test_activations_are_real():
    """Logits spread widely; some rows look at a few tokens, others at nearly all."""
    seqlen, nheads, headdim = captured_shape()
    sizes = dict(seqlen_q=seqlen, seqlen_k=seqlen, nheads=nheads, nheads_k=nheads)
    S, P, _ = drawn("activations", headdim, **sizes)
    assert S.isfinite().all() and S.std() > 1
    entropy = -(P * P.clamp_min(1e-300).log()).sum(dim=3)
    assert entropy.min() < 0.5 * math.log(seqlen) < entropy.max()


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_are_the_same_every_time(family):
    case = family_case(family, "float32")
    first, again, other = (c.inputs() for c in (case, case, dataclasses.replace(case, seed=1)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("family", (*RANDOM_FAMILIES, "ramp"))
def test_inputs_are_finite_in_every_dtype(family):
    for dtype in DTYPES:
        for t in family_case(family, dtype).inputs():
            assert t.isfinite().all() and t.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("layout", ("transposed", "sliced"))
def test_layouts_hold_the_same_values(layout):
    case = Case("float32", 8, 6, 7, nheads=4, nheads_k=2)
    laid_out = dataclasses.replace(case, layout=layout).inputs()
    for name, plain_, laid in zip("qkv", case.inputs(), laid_out, strict=True):
        assert torch.equal(plain_, laid), name
        assert not laid.is_contiguous() and laid.stride(3) == 1


def test_between_the_heads_of_a_slice_lies_nan():
    q, _, _ = Case("float32", 8, 6, 7, layout="sliced").inputs()
    assert q.as_strided(q.shape, q.stride(), q.storage_offset() + 8).isnan().all()


@pytest.mark.parametrize(
    "fields, says",
    (
        (dict(family="gaussian"), "gaussian"),
        (dict(layout="diagonal"), "diagonal"),
        (dict(family="activations", headdim=7), "headdim 7"),
        (dict(family="activations", headdim=32, seqlen_q=10**6), "1000000"),
    ),
)
def test_bad_cases_say_so(fields, says):
    with pytest.raises(ValueError, match=f"{says}.*accepted"):
        Case(**fields).inputs()


# ---- grids -------------------------------------------------------------------------------------------------

AXES = {
    "dtype": lambda c: c.dtype,
    "headdim": lambda c: c.headdim,
    "lengths": lambda c: (c.seqlen_q, c.seqlen_k),
    "causal": lambda c: c.causal,
    "heads": lambda c: (c.batch, c.nheads, c.nheads_k),
    "family": lambda c: c.family,
    "layout": lambda c: c.layout,
    "softmax_scale": lambda c: c.softmax_scale,
}


def synthetic(grid):
    """Those of the product: not the few that are there for their own sake."""
    return [case for case in grid if case.family in RANDOM_FAMILIES]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.short)
@pytest.mark.parametrize("axes", list(itertools.combinations(AXES, 2)), ids="-".join)
def test_quick_grid_covers_every_pair(stage, axes):
    a, b = (AXES[name] for name in axes)
    quick, full = synthetic(quick_grid(stage)), synthetic(full_grid(stage))
    lengths = {(c.seqlen_q, c.seqlen_k) for c in quick}
    there = {(a(c), b(c)) for c in quick}
    values = [{axis(c) for c in full if (c.seqlen_q, c.seqlen_k) in lengths} for axis in (a, b)]
    missing = set(itertools.product(*values)) - there
    assert not missing, f"no case of {stage.name} has {axes} = {missing}"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.short)
def test_quick_grid_favours_no_value(stage):
    """Where an axis does not matter for the pairs its values take turns: none has less than half its share."""
    cases = synthetic(quick_grid(stage))
    for name, axis in AXES.items():
        counts = collections.Counter(map(axis, cases))
        assert min(counts.values()) >= len(cases) / len(counts) / 2, f"{stage.name}, {name}: {dict(counts)}"


MET = (("dtype", "headdim", "causal"), ("lengths", "causal"), ("heads", "causal"), ("family",), ("layout",))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.short)
def test_full_grid_turns_every_value(stage):
    """Every family, layout and scale meets the other axes, and each other; the product of those axes is whole."""
    cases = synthetic(full_grid(stage))
    for turning, names in itertools.product(("family", "layout", "softmax_scale"), MET):
        if turning in names:
            continue
        values = {AXES[turning](c) for c in cases}
        met = collections.defaultdict(set)
        for c in cases:
            met[tuple(AXES[name](c) for name in names)].add(AXES[turning](c))
        assert all(seen == values for seen in met.values()), (turning, names)
    fixed = [AXES[name] for name in ("dtype", "headdim", "lengths", "causal", "heads")]
    product = math.prod(len({axis(c) for c in cases}) for axis in fixed)
    assert len({tuple(axis(c) for axis in fixed) for c in cases}) == product == len(cases)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.short)
@pytest.mark.parametrize("grid", (quick_grid, full_grid), ids=("quick", "full"))
def test_grids(stage, grid):
    cases = grid(stage)
    assert len(set(cases)) == len(cases), "a case comes twice"
    assert len({str(case) for case in cases}) == len(cases), "two cases print alike"
    largest = stage.capability.max_headdim
    assert all(c.dtype in stage.capability.dtypes and (largest is None or c.headdim <= largest) for c in cases)
    for family in ("ramp", "activations"):
        assert {c.dtype for c in cases if c.family == family} == set(stage.capability.dtypes)
    lengths = {(c.seqlen_q, c.seqlen_k) for c in cases}
    assert any(q == k for q, k in lengths) and any(q > k for q, k in lengths) and any(q < k for q, k in lengths)
    assert (1, 1) in lengths and any(c.causal and c.seqlen_q > c.seqlen_k for c in cases)
    padded = {c.headdim for c in cases} - set(stage.capability.headdims)
    assert padded, "no head dim is padded"


def test_unit_roundoff_is_half_the_spacing_above_one():
    for dtype, u in UNIT_ROUNDOFF.items():
        one = torch.ones((), dtype=dtype)
        assert one + torch.tensor(2 * u, dtype=dtype) > one
        assert one + torch.tensor(u, dtype=dtype) == one  # a tie, to even
