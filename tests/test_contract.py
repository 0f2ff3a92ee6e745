"""Bad input: every stage refuses it before it runs, writes nothing, names the argument, and says what it was and
what is accepted.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from reference import Case, judge
from reference.check import expect
from stages import STAGES, StageUnavailable, Unsupported
from stages.common import contract, cuda
from stages.common.where import where
from tests.conftest import dtypes_here
from tools.overhead import without_driver

SENTINEL = 7.0


@dataclass
class Good:
    """Arguments that the stage accepts, for a test to spoil."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor
    lse: torch.Tensor

    def arguments(self) -> dict:
        return dict(vars(self))


@pytest.fixture
def good(runnable) -> Good:
    case = Case(dtype=dtypes_here(runnable)[0], headdim=16, seqlen_q=20, seqlen_k=30, batch=2, nheads=4, nheads_k=2)
    q, k, v = case.inputs(where(runnable, case.dtype).device)
    lse = torch.full((case.batch, case.nheads, case.seqlen_q), SENTINEL, device=q.device)
    return Good(q, k, v, torch.full_like(q, SENTINEL), lse)


def refused(stage, good: Good, error, says, **spoiled):
    """The call raises `error`, its message has every string of `says`, and out and lse stay as they were."""
    arguments = good.arguments() | spoiled
    with pytest.raises(error) as raised:
        stage.attention(**arguments)
    message = str(raised.value)
    for part in (*says, "accepted"):
        assert part in message, f"{part!r} is not in {message!r}"
    assert (good.out == SENTINEL).all() and (good.lse == SENTINEL).all(), "out or lse was written"


def other_float(t):
    return torch.float64 if t.dtype != torch.float64 else torch.float32


@pytest.mark.parametrize("name", "qkv")
def test_mixed_dtypes(runnable, good, name):
    t = getattr(good, name)
    spoiled = {name: t.to(other_float(t))}
    refused(runnable, good, ValueError, ("q is", "k is", "v is", str(other_float(t))[6:]), **spoiled)


@pytest.mark.parametrize("dtype", (torch.int32, torch.complex64, torch.bool, torch.float8_e4m3fn))
def test_unsupported_dtypes(runnable, good, dtype):
    spoiled = {name: getattr(good, name).to(dtype) for name in "qkv"}
    refused(runnable, good, Unsupported, ("q has dtype", str(dtype)[6:], *runnable.capability.dtypes), **spoiled)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32", "float64"))
def test_dtypes_outside_the_record(runnable, good, dtype):
    if dtype in runnable.capability.dtypes:
        pytest.skip(f"{runnable.name} takes {dtype}")
    spoiled = {name: getattr(good, name).to(getattr(torch, dtype)) for name in "qkv"}
    refused(runnable, good, Unsupported, (f"q has dtype {dtype}", *runnable.capability.dtypes), **spoiled)


def test_dtype_that_does_not_run_here(runnable, good):
    """In the record, but not on this machine: says so, and never computes something else instead."""
    missing = [dtype for dtype in runnable.capability.dtypes if not where(runnable, dtype)]
    if not missing:
        pytest.skip(f"{runnable.name} runs in all its dtypes here")
    arguments = {name: getattr(good, name).to(getattr(torch, missing[0])) for name in "qkv"}
    with pytest.raises(StageUnavailable, match=missing[0]):
        runnable.attention(**arguments)


def test_headdim_too_large(runnable, good):
    largest = runnable.capability.max_headdim
    if largest is None:
        pytest.skip(f"{runnable.name} takes any head dim")
    wide = [torch.zeros(1, 5, 1, largest + 1, dtype=good.q.dtype, device=good.q.device) for _ in range(3)]
    says = (f"q has headdim {largest + 1}", f"1 to {largest}")
    refused(runnable, good, Unsupported, says, **dict(zip("qkv", wide, strict=True)), out=None, lse=None)


@pytest.mark.parametrize(
    "name, spoil, says",
    (
        ("q", lambda t: t[0], ("q has 3 dimensions", "(20, 4, 16)")),
        ("k", lambda t: t[0], ("k has 3 dimensions", "(30, 2, 16)")),
        ("v", lambda t: t[None], ("v has 5 dimensions", "(1, 2, 30, 2, 16)")),
        ("k", lambda t: t[:1], ("k", "(1, 30, 2, 16)")),
        ("v", lambda t: t[:, :29], ("v has shape (2, 29, 2, 16)", "(2, 30, 2, 16)")),
        ("v", lambda t: t[:, :, :1], ("v has shape (2, 30, 1, 16)", "(2, 30, 2, 16)")),
        ("v", lambda t: t[..., :15], ("v has shape (2, 30, 2, 15)", "(2, 30, 2, 16)")),
        ("q", lambda t: t[..., :15], ("headdim", "15", "16")),
        ("q", lambda t: t[:1], ("batch", "1", "2")),
        ("q", lambda t: t[:, :, :3], ("q has nheads 3", "nheads_k, 2")),
        ("q", lambda t: t[:, :, :1], ("q has nheads 1", "nheads_k, 2")),
    ),
)
def test_shapes_that_do_not_fit(runnable, good, name, spoil, says):
    refused(runnable, good, ValueError, says, **{name: spoil(getattr(good, name))}, out=None, lse=None)


@pytest.mark.parametrize("name, shape", (("batch", (65536, 1, 1, 1)), ("nheads", (1, 1, 65536, 1))))
def test_more_than_a_grid_holds(runnable, good, name, shape):
    if runnable.capability.backend == "numpy":
        pytest.skip(f"{runnable.name} launches no grid")
    many = {x: torch.zeros(shape, dtype=good.q.dtype, device=good.q.device) for x in "qkv"}
    refused(runnable, good, ValueError, (f"q has {name} 65536", "65535"), **many, out=None, lse=None)


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("name", "qkv")
def test_empty(runnable, good, name, axis):
    t = getattr(good, name)
    shape = [0 if i == axis else size for i, size in enumerate(t.shape)]
    empty = torch.empty(shape, dtype=t.dtype, device=t.device)
    says = (f"{name} is empty", str(tuple(shape)))
    refused(runnable, good, ValueError, says, **{name: empty}, out=None, lse=None)


@pytest.mark.parametrize("scale", (float("nan"), float("inf"), float("-inf"), 0, 0.0, -0.125, "0.125", True, 1j, [0.1]))
def test_scale(runnable, good, scale):
    refused(runnable, good, ValueError, (f"softmax_scale is {scale!r}", "finite", "above 0"), softmax_scale=scale)


@pytest.mark.parametrize("causal", (1, 0, "yes", None))
def test_causal(runnable, good, causal):
    refused(runnable, good, TypeError, (f"causal is {causal!r}", "True or False"), causal=causal)


@pytest.mark.parametrize("name", "qkv")
def test_mixed_devices(runnable, good, name):
    spoiled = {name: getattr(good, name).to("meta")}
    refused(runnable, good, ValueError, (name, "meta", str(good.q.device)), **spoiled, out=None, lse=None)


def test_wrong_device(runnable, good):
    spoiled = {name: getattr(good, name).to("meta") for name in "qkv"}
    says = ("q is on meta", good.q.device.type)
    refused(runnable, good, ValueError, says, **spoiled, out=None, lse=None)


def test_wrong_real_device(runnable, good):
    if not torch.cuda.is_available():
        pytest.skip("there is no second device: no GPU was found")
    other = "cpu" if good.q.is_cuda else "cuda"
    spoiled = {name: getattr(good, name).to(other) for name in "qkv"}
    refused(runnable, good, ValueError, (f"q is on {other}", good.q.device.type), **spoiled, out=None, lse=None)


@pytest.mark.parametrize("name", ("out", "lse"))
@pytest.mark.parametrize(
    "spoil, says",
    (
        (lambda t: t[..., :-1], "has shape"),
        (lambda t: t.flatten(), "has shape"),
        (lambda t: t.to(other_float(t)), "has dtype"),
        (lambda t: t.to(torch.int32), "has dtype"),
        (lambda t: t.to("meta"), "is on meta"),
        (lambda t: t[:, :1].clone().expand(t.shape), "expanded"),
    ),
)
def test_out_and_lse(runnable, good, name, spoil, says):
    refused(runnable, good, ValueError, (name, says), **{name: spoil(getattr(good, name))})


@pytest.mark.parametrize("name", ("q", "k", "v", "out", "lse"))
def test_numpy_among_torch(runnable, good, name):
    if good.q.dtype == torch.bfloat16:
        good = Good(*(t.half() if t.dtype == torch.bfloat16 else t for t in vars(good).values()))
    spoiled = {name: getattr(good, name).cpu().numpy()}
    refused(runnable, good, TypeError, (f"{name} is numpy.ndarray", "torch.Tensor"), **spoiled)


@pytest.mark.parametrize("name", "qkv")
def test_neither_numpy_nor_torch(runnable, good, name):
    spoiled = {name: getattr(good, name).tolist()}
    refused(runnable, good, TypeError, (f"{name} is builtins.list",), **spoiled)


# ---- NumPy arrays ------------------------------------------------------------------------------------------


@pytest.fixture
def arrays(runnable, good) -> dict[str, np.ndarray]:
    """`good` as NumPy arrays."""
    dtype = next(dtype for dtype in dtypes_here(runnable) if dtype != "bfloat16")
    floats = {name: getattr(good, name).to(getattr(torch, dtype)).cpu() for name in ("q", "k", "v", "out")}
    return {name: t.numpy().copy() for name, t in (floats | {"lse": good.lse.cpu()}).items()}


@pytest.mark.parametrize("name", ("out", "lse"))
@pytest.mark.parametrize("kind", ("read-only", "reversed", "byte-swapped"))
def test_numpy_outputs_that_cannot_be_written(runnable, arrays, name, kind):
    t = arrays[name]
    if kind == "read-only":
        t = t.view()
        t.flags.writeable = False
    elif kind == "reversed":
        t = t[:, ::-1]
    else:
        t = t.astype(t.dtype.newbyteorder("S"))
    with pytest.raises(ValueError) as raised:
        runnable.attention(**(arrays | {name: t}))
    message = str(raised.value)
    assert name in message and "accepted" in message
    assert all((arrays[n] == SENTINEL).all() for n in ("out", "lse")), "out or lse was written"


@pytest.mark.parametrize("dtype", ("int64", "uint16", "complex128", "object", "U3"))
def test_numpy_dtypes(runnable, arrays, dtype):
    spoiled = {name: arrays[name].astype(dtype) for name in "qkv"}
    with pytest.raises(Unsupported, match="q has dtype.*accepted"):
        runnable.attention(**(arrays | spoiled))
    assert all((arrays[n] == SENTINEL).all() for n in ("out", "lse")), "out or lse was written"


@pytest.mark.parametrize("kind", ("read-only", "reversed", "byte-swapped", "broadcast", "fortran"))
def test_numpy_inputs_of_any_layout(runnable, arrays, kind):
    """Accepted and right: the result is that of a plain copy."""
    change = {
        "read-only": lambda a: a.copy(),
        "reversed": lambda a: a[:, ::-1],
        "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder("S")),
        "broadcast": lambda a: np.broadcast_to(a[:, :1], a.shape),
        "fortran": np.asfortranarray,
    }[kind]
    inputs = {name: change(arrays[name]) for name in "qkv"}
    if kind == "read-only":
        for array in inputs.values():
            array.flags.writeable = False
    copies = {name: np.array(a, dtype=a.dtype.newbyteorder("="), order="C") for name, a in inputs.items()}
    out, lse = runnable.attention(**inputs)
    expected = expect(*(torch.from_numpy(a) for a in copies.values()))
    verdict = judge(torch.from_numpy(out), torch.from_numpy(lse), expected)
    assert verdict.ok, verdict


# ---- non-contiguous tensors: accepted, and right -----------------------------------------------------------


def in_wider_memory(t, axis: int):
    """`t` inside memory that is twice as long along `axis` and NaN elsewhere."""
    shape = list(t.shape)
    shape[axis] *= 2
    wide = torch.full(shape, torch.nan, dtype=t.dtype, device=t.device)
    view = wide.narrow(axis, t.shape[axis] // 2, t.shape[axis])
    view.copy_(t)
    return view


def misaligned(t):
    """`t` one element past a 16-byte boundary."""
    memory = torch.full((t.numel() + 1,), torch.nan, dtype=t.dtype, device=t.device)
    view = memory[1:].view(t.shape)
    view.copy_(t)
    return view


LAYOUTS = {
    "longer batch": lambda t: in_wider_memory(t, 0),
    "longer sequence": lambda t: in_wider_memory(t, 1),  # as in a key/value cache
    "more heads": lambda t: in_wider_memory(t, 2),
    "wider head": lambda t: in_wider_memory(t, 3),
    "every other element": lambda t: t.repeat_interleave(2, dim=3)[..., ::2],
    "head dim first": lambda t: t.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0),
    "sequence first": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "misaligned": misaligned,
    "one head expanded": lambda t: t[:, :, :1].expand(t.shape),
    "one batch expanded": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_any_layout(runnable, good, layout, causal):
    q, k, v = (LAYOUTS[layout](t) for t in (good.q, good.k, good.v))
    out, lse = runnable.attention(q, k, v, causal=causal)
    verdict = judge(out, lse, expect(q, k, v, causal=causal))
    assert verdict.ok, verdict


def test_scale_types(runnable, good):
    """Any real number will do: an int, a NumPy scalar."""
    for scale in (1, np.float32(0.25), np.float64(0.25)):
        out, lse = runnable.attention(good.q, good.k, good.v, softmax_scale=scale)
        verdict = judge(out, lse, expect(good.q, good.k, good.v, softmax_scale=float(scale)))
        assert verdict.ok, verdict


# ---- the short way through `prepare` -------------------------------------------------------------------------


def both_ways(monkeypatch, stage, good: Good, **options) -> tuple:
    """(the call as `prepare` makes it, the call as it makes it when it looks at everything one by one)."""
    arguments = {name: t for name, t in good.arguments().items() if t is not None}
    call = contract.prepare(stage, **arguments, **options)
    with monkeypatch.context() as patch:
        patch.setattr(contract, "_as_it_is", lambda *arguments: None)
        return call, contract.prepare(stage, **arguments, **options)


def described(call) -> dict:
    """All that a kernel and the caller get to see of a call; of what it has allocated, not the address."""
    tensors = {name: getattr(call, name) for name in ("q", "k", "v", "out", "lse")}
    layout = {name: (tuple(t.shape), t.stride(), t.dtype, t.requires_grad) for name, t in tensors.items()}
    sizes = {name: getattr(call, name) for name in ("batch", "seqlen_q", "seqlen_k", "nheads", "nheads_k", "headdim")}
    return layout | sizes | {"causal": call.causal, "scale": call.softmax_scale, "where": call.where}


def takes(stage, headdim: int) -> bool:
    return stage.capability.backend != "numpy" and headdim in stage.capability.headdims


@pytest.mark.parametrize("outputs", ("given", "allocated"))
@pytest.mark.parametrize("layout", ("as they are", "transposed", *LAYOUTS))
def test_the_short_way_makes_the_same_call(runnable, monkeypatch, layout, outputs):
    if not takes(runnable, 64):
        pytest.skip(f"{runnable.name} has no short way: NumPy stages convert what they are given")
    case = Case(dtype=dtypes_here(runnable)[0], headdim=64, seqlen_q=20, seqlen_k=30, batch=2, nheads=4, nheads_k=2)
    q, k, v = case.inputs(where(runnable, case.dtype).device)
    lay_out = LAYOUTS.get(layout) or (lambda t: t.transpose(1, 2).contiguous().transpose(1, 2))
    if layout != "as they are":
        q, k, v = (lay_out(t) for t in (q, k, v))
    given = (torch.empty(q.shape, dtype=q.dtype, device=q.device), torch.empty(2, 4, 20, device=q.device))
    good = Good(q, k, v.requires_grad_(layout == "as they are"), *(given if outputs == "given" else (None, None)))
    for aligned in (True, False):
        for options in ({}, {"causal": True, "softmax_scale": 0.5}):
            short, long = both_ways(monkeypatch, runnable, good, aligned=aligned, **options)
            assert described(short) == described(long)
            for name, ours in vars(good).items():
                in_place = {
                    ours is not None and getattr(call, name).data_ptr() == ours.data_ptr() for call in (short, long)
                }
                assert len(in_place) == 1, f"{name}, aligned={aligned}"
            assert [a is b for a, b in zip(short.finish(), long.finish())] == [outputs == "given"] * 2


def test_most_calls_go_the_short_way(runnable):
    if not takes(runnable, 64):
        pytest.skip(f"{runnable.name} has no short way: NumPy stages convert what they are given")
    case = Case(dtype=dtypes_here(runnable)[0], headdim=64, seqlen_q=20, seqlen_k=30, batch=2, nheads=4, nheads_k=2)
    q, k, v = case.inputs(where(runnable, case.dtype).device)
    assert contract._as_it_is(runnable, q, k, v, True, None, None, None, True) is not None
    cache = [in_wider_memory(t, 1) for t in (k, v)]
    assert contract._as_it_is(runnable, q.detach().requires_grad_(), *cache, False, 0.1, None, None, True) is not None


IN_PLACE = {"longer batch", "longer sequence", "more heads", "wider head", "sequence first"}  # of LAYOUTS
IN_PLACE_BY_ELEMENTS = IN_PLACE | {"misaligned", "one head expanded", "one batch expanded"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_kernel_reads_in_place(layout):
    t = LAYOUTS[layout](torch.randn(2, 30, 4, 64).half())
    assert contract._is_dense(t, aligned=True) == (layout in IN_PLACE)
    assert contract._is_dense(t, aligned=False) == (layout in IN_PLACE_BY_ELEMENTS)


def test_a_stride_that_is_no_multiple_of_16_bytes_is_not_aligned():
    for axis in range(3):
        strides = [stride + 4 * (i == axis) for i, stride in enumerate((8192, 256, 64))]
        t = torch.zeros(40000, dtype=torch.float16).as_strided((2, 30, 4, 64), (*strides, 1))
        assert not contract._is_dense(t, aligned=True) and contract._is_dense(t, aligned=False)


class Tensor(torch.Tensor):
    """A tensor of another kind."""


NOT_AS_IT_IS = {  # name: how to change the arguments
    "a NumPy array": lambda a: a | {"k": a["k"].cpu().numpy()},
    "another kind of tensor": lambda a: a | {"v": a["v"].as_subclass(Tensor)},
    "dtype of k": lambda a: a | {"k": a["k"].float()},
    "dtype of v": lambda a: a | {"v": a["v"].float()},
    "dtype of all": lambda a: a | {n: a[n].to(torch.int16) for n in "qkv"},
    "device of k": lambda a: a | {"k": a["k"].to("meta")},
    "device of v": lambda a: a | {"v": a["v"].to("meta")},
    "device of all": lambda a: {n: t.to("meta") for n, t in a.items()},
    "q of 3 dimensions": lambda a: a | {"q": a["q"][0]},
    "k and v of 3 dimensions": lambda a: a | {n: a[n][0] for n in "kv"},
    "q of 5 dimensions": lambda a: a | {"q": a["q"][None]},
    "v is shorter": lambda a: a | {"v": a["v"][:, 1:]},
    "batch": lambda a: a | {n: a[n][:1] for n in "kv"},
    "head dim": lambda a: a | {n: torch.zeros(2, 30, 2, 128).to(a[n]) for n in "kv"},
    "a head dim to be padded": lambda a: {n: t[..., :56].contiguous() if t.ndim == 4 else t for n, t in a.items()},
    "heads": lambda a: a | {"q": a["q"][:, :, :3], "out": None, "lse": None},
    "no queries": lambda a: a | {"q": a["q"][:, :0], "out": None, "lse": None},
    "no keys": lambda a: a | {n: a[n][:, :0] for n in "kv"},
    "no heads": lambda a: a | {"q": a["q"][:, :, :0], "out": None, "lse": None},
    "no heads of k": lambda a: a | {n: a[n][:, :, :0] for n in "kv"},
    "no batch": lambda a: {n: t[:0] for n, t in a.items()},
    "too many batches": lambda a: {n: torch.zeros(65536, 1, 1, 64).to(a[n]) for n in "qkv"},
    "too many heads": lambda a: {n: torch.zeros(1, 1, 65536, 64).to(a[n]) for n in "qkv"},
    "causal is a number": lambda a: a | {"causal": 1},
    "scale is 0": lambda a: a | {"softmax_scale": 0.0},
    "scale is below 0": lambda a: a | {"softmax_scale": -1.0},
    "scale is infinite": lambda a: a | {"softmax_scale": float("inf")},
    "scale is NaN": lambda a: a | {"softmax_scale": float("nan")},
    "scale is True": lambda a: a | {"softmax_scale": True},
    "q has to be copied": lambda a: a | {"q": misaligned(a["q"])},
    "k has to be copied": lambda a: a | {"k": misaligned(a["k"])},
    "v has to be copied": lambda a: a | {"v": misaligned(a["v"])},
    "shape of out": lambda a: a | {"out": a["out"][:, :19]},
    "dtype of out": lambda a: a | {"out": a["out"].float()},
    "device of out": lambda a: a | {"out": a["out"].to("meta")},
    "out is no tensor": lambda a: a | {"out": a["out"].cpu().numpy()},
    "out has to be copied": lambda a: a | {"out": misaligned(a["out"])},
    "out is expanded": lambda a: a | {"out": a["out"][:1].expand(2, -1, -1, -1)},
    "shape of lse": lambda a: a | {"lse": a["lse"][..., 1:]},
    "dtype of lse": lambda a: a | {"lse": a["lse"].double()},
    "device of lse": lambda a: a | {"lse": a["lse"].to("meta")},
    "lse is no tensor": lambda a: a | {"lse": a["lse"].cpu().numpy()},
    "lse has to be copied": lambda a: a | {"lse": a["lse"].transpose(1, 2).contiguous().transpose(1, 2)},
}


@pytest.mark.parametrize("change", NOT_AS_IT_IS)
def test_the_short_way_leaves_the_rest_to_the_long(runnable, change):
    """Whatever is to be refused, converted, copied or padded: the short way makes no call of it."""
    if not takes(runnable, 64):
        pytest.skip(f"{runnable.name} has no short way: NumPy stages convert what they are given")
    case = Case(dtype=dtypes_here(runnable)[0], headdim=64, seqlen_q=20, seqlen_k=30, batch=2, nheads=4, nheads_k=2)
    q, k, v = case.inputs(where(runnable, case.dtype).device)
    good = {"q": q, "k": k, "v": v, "out": torch.empty_like(q), "lse": torch.empty(2, 4, 20, device=q.device)}
    rest = {"causal": False, "softmax_scale": None, "out": None, "lse": None, "aligned": True}
    assert contract._as_it_is(runnable, **(rest | good)) is not None
    assert contract._as_it_is(runnable, **(rest | NOT_AS_IT_IS[change](good))) is None


# ---- what the driver is handed, without a driver -------------------------------------------------------------


@pytest.fixture(params=[stage for stage in STAGES if stage.capability.backend == "cuda"], ids=lambda stage: stage.short)
def cuda_stage(request):
    return request.param


def launches_of(stage, *calls) -> list[dict]:
    """What each of `calls`, (q, k, v, keywords), hands to the driver."""
    handed = []

    def launched(kernel, gx, gy, gz, bx, by, bz, shared, stream, address, extra):
        params = ctypes.c_void_p.from_address(address).value
        fields = struct.unpack("5Q 12q 4i f 4x", ctypes.string_at(params, cuda._PARAMS.size))
        handed.append({"grid": (gx, gy, gz), "block": (bx, by, bz), "shared": shared, "fields": fields, "at": params})

    with without_driver(launched):
        for q, k, v, options in calls:
            stage.attention(q, k, v, **options)
    return handed


def test_the_driver_gets_the_parameters(cuda_stage):
    q, k, v = (torch.randn(2, n, h, 64).half() for n, h in ((200, 6), (300, 3), (300, 3)))
    out, lse = torch.empty_like(q), torch.empty(2, 6, 200)
    k = in_wider_memory(k, 1)
    handed = launches_of(
        cuda_stage,
        (q, k, v, {"out": out, "lse": lse, "softmax_scale": 0.25}),
        (v, q[:, :, :3], q[:, :, 3:], {"causal": True}),
    )
    first, second = (launch["fields"] for launch in handed)
    assert first[:5] == tuple(t.data_ptr() for t in (q, k, v, out, lse))
    assert first[5:17] == tuple(stride for t in (q, k, v, out) for stride in t.stride()[:3])
    assert first[17:] == (6, 3, 200, 300, 0.25)
    assert second[:3] == (v.data_ptr(), q.data_ptr(), q.data_ptr() + 3 * 64 * 2) and second[17:21] == (3, 3, 300, 200)
    stage_module = importlib.import_module(cuda_stage.entry_module)
    for launch, blocks in zip(handed, (2 * 6, 2 * 3)):
        assert math.prod(launch["grid"]) % blocks == 0 and launch["grid"] != (1, 1, 1)
        assert launch["block"] == (32 * cuda_stage.tiles["num_warps"], 1, 1)
        assert launch["shared"] == stage_module.shared_bytes(64)


def test_threads_do_not_share_their_parameters():
    """A launch in another thread must not write over what the driver is about to copy."""
    stage = next(stage for stage in STAGES if stage.capability.backend == "cuda")
    q = torch.randn(1, 64, 1, 64).half()
    places = []
    with ThreadPoolExecutor(1) as pool:
        places += [launches_of(stage, (q, q, q, {}))[0]["at"]]
        places += [pool.submit(launches_of, stage, (q, q, q, {})).result()[0]["at"]]
    assert places[0] != places[1]
