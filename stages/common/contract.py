"""The contract between a caller and every stage: what comes in is checked and made ready, what goes out is handed back.

    attention(q, k, v, *, causal=False, softmax_scale=None, out=None, lse=None) -> (out, lse)

    q     [batch, seqlen_q, nheads, headdim]
    k, v  [batch, seqlen_k, nheads_k, headdim]       nheads a multiple of nheads_k
    out   [batch, seqlen_q, nheads, headdim]         dtype of q
    lse   [batch, nheads, seqlen_q]                  float32, natural logarithm of the row sums of exp(S)

    S = softmax_scale · Q Kᵀ;  softmax_scale defaults to headdim**-0.5.
    causal is aligned bottom-right: key j is visible to query i iff j <= i + seqlen_k - seqlen_q.
    A row that sees no key gives out 0 and lse -inf.
    Query head h reads key/value head h // (nheads // nheads_k).
    torch tensors in give torch tensors out, NumPy arrays give NumPy arrays. The result carries no gradient.

A stage begins with `call = prepare(STAGE, q, k, v, ...)`, computes into `call.out` and `call.lse`, and ends with
`return call.finish()`. All bad input is refused in `prepare`, before any launch.
"""

from __future__ import annotations

import contextlib
import functools
import math
import numbers
from dataclasses import InitVar, dataclass, field

import numpy as np
import torch

from stages.common.record import Stage, StageUnavailable, Unsupported
from stages.common.where import Where, where

MAX_GRID = 65535

_HERE = contextlib.nullcontext()

# Without a public name, and much faster than what has one; the second is what compiled PyTorch code allocates with: on
# the current GPU, from (shape, strides, dtype).
_current_gpu = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)
_empty_on_current_gpu = getattr(getattr(torch._C._dynamo, "guards", None), "_empty_strided_cuda", None)


@dataclass
class Call:
    """One checked call, as a kernel wants it.

    q, k, v, out: torch tensors (NumPy arrays for a NumPy stage), head dim padded to one that the stage has;
    lse: float32. `headdim` is the padded one, `softmax_scale` that of the unpadded. The sizes are read off q and k
    once: a tensor's answer for its shape takes longer than an attribute. strides: of q, k, v and out, in elements, for
    each (batch, row, head); empty for a NumPy stage. is_here: the tensors are known to be on the current GPU.
    """

    q: torch.Tensor | np.ndarray
    k: torch.Tensor | np.ndarray
    v: torch.Tensor | np.ndarray
    out: torch.Tensor | np.ndarray
    lse: torch.Tensor | np.ndarray
    causal: bool
    softmax_scale: float
    where: Where
    _result: tuple  # (out, lse) as the caller gets them
    _copy_back: list | tuple  # (to, from) pairs of torch tensors, for what the kernel could not write in place
    strides: tuple[int, ...] = ()
    is_here: bool = False
    sizes: InitVar[tuple[int, ...] | None] = None
    batch: int = field(init=False)
    seqlen_q: int = field(init=False)
    seqlen_k: int = field(init=False)
    nheads: int = field(init=False)
    nheads_k: int = field(init=False)
    headdim: int = field(init=False)

    def __post_init__(self, sizes: tuple[int, ...] | None) -> None:
        if sizes is None:
            batch, seqlen_q, nheads, headdim = self.q.shape
            sizes = batch, seqlen_q, self.k.shape[1], nheads, self.k.shape[2], headdim
            if isinstance(self.q, torch.Tensor):
                self.strides = tuple(n for t in (self.q, self.k, self.v, self.out) for n in t.stride()[:3])
        self.batch, self.seqlen_q, self.seqlen_k, self.nheads, self.nheads_k, self.headdim = sizes

    def on_device(self):
        """A context in which kernels are launched on the inputs' GPU, which need not be the current one."""
        if self.is_here or self.where.kind != "gpu" or self.q.device.index == torch.cuda.current_device():
            return _HERE
        return torch.cuda.device(self.q.device)

    def finish(self) -> tuple:
        """(out, lse) as the caller wants them: in its own buffers if given, unpadded, NumPy if NumPy came in."""
        for to, source in self._copy_back:
            to.copy_(source)
        return self._result


def prepare(stage: Stage, q, k, v, *, causal=False, softmax_scale=None, out=None, lse=None, aligned=False) -> Call:
    """Check a call of `stage` against the contract and make its tensors ready for the kernel.

    aligned: the kernel moves 16 bytes at a time, so every row has to start on a 16-byte boundary; rows that
             do not are copied first. Without it only the last dimension has to be dense.

    Raises TypeError or ValueError (Unsupported for what lies outside the stage's capability) naming the argument,
    what it was and what is accepted, and StageUnavailable when the stage cannot run on this machine.
    """
    call = _as_it_is(stage, q, k, v, causal, softmax_scale, out, lse, aligned)
    if call is not None:
        return call
    given = {"q": q, "k": k, "v": v} | {n: t for n, t in (("out", out), ("lse", lse)) if t is not None}
    as_numpy = _one_kind(given)
    tensors = {name: _as_torch(name, array) if as_numpy else array for name, array in given.items()}
    q, k, v, out, lse = (tensors.get(name) for name in ("q", "k", "v", "out", "lse"))
    dtype = _check_dtypes(stage, q, k, v)
    _check_shapes(stage, q, k, v)
    if not isinstance(causal, (bool, np.bool_)):
        raise TypeError(f"causal is {causal!r}; accepted: True or False")
    scale = _check_scale(softmax_scale, q.shape[3])
    _check_output("out", out, tuple(q.shape), q.dtype, q.device)
    _check_output("lse", lse, (q.shape[0], q.shape[2], q.shape[1]), torch.float32, q.device)
    place = where(stage, dtype)
    if not place:
        raise StageUnavailable(f"{stage.name} cannot run here: {place.reason}")
    _check_devices(stage, place, tensors, as_numpy)

    q, k, v = (t.detach() for t in (q, k, v))
    user_device = q.device
    if out is None:
        out = torch.empty(q.shape, dtype=q.dtype, device=user_device)
    if lse is None:
        lse = torch.empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32, device=user_device)
    result = (given.get("out", out.numpy()), given.get("lse", lse.numpy())) if as_numpy else (out, lse)

    if stage.capability.backend == "numpy":
        return _prepare_numpy(q, k, v, out, lse, bool(causal), scale, place, result)

    headdim = q.shape[3]
    padded = stage.capability.padded_headdim(headdim)
    q, k, v = (_operand(t, padded, place.device, aligned) for t in (q, k, v))
    copy_back = []
    kernel_out, kernel_lse = out, lse
    if padded != headdim or out.device.type != place.device or not _is_dense(out, aligned):
        kernel_out = torch.empty((*out.shape[:3], padded), dtype=out.dtype, device=place.device)
        copy_back.append((out, kernel_out[..., :headdim]))
    if lse.device.type != place.device or not lse.is_contiguous():
        kernel_lse = torch.empty(lse.shape, dtype=lse.dtype, device=place.device)
        copy_back.append((lse, kernel_lse))
    return Call(q, k, v, kernel_out, kernel_lse, bool(causal), scale, place, result, copy_back)


@dataclass(frozen=True)
class _Layout:
    """What shapes, strides, dtype and device of q, k and v say of a call, once for all the calls that share them.

    sizes: batch, seqlen_q, seqlen_k, nheads, nheads_k, headdim. strides: of q, k and v, as Call has them. out, lse: the
    shapes of those, and their strides if they are allocated. device: its type; gpu: its index.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    out: tuple[int, int, int, int]
    out_strides: tuple[int, int, int, int]
    lse: tuple[int, int, int]
    lse_strides: tuple[int, int, int]
    scale: float
    dtype: str
    device: str
    gpu: int | None


@functools.lru_cache(maxsize=1024)
def _layout(
    stage: Stage, aligned: bool, shape, shape_k, shape_v, strides, strides_k, strides_v, *kind
) -> _Layout | None:
    """None: `prepare` has to look closer. kind: the dtypes of q, k and v, then their devices."""
    dtype, device = kind[0], kind[3]
    if kind != (dtype,) * 3 + (device,) * 3 or len(shape) != 4 or len(shape_k) != 4 or shape_v != shape_k:
        return None
    batch, seqlen_q, nheads, headdim = shape
    batch_k, seqlen_k, nheads_k, headdim_k = shape_k
    if not (
        batch == batch_k
        and headdim == headdim_k
        and headdim in stage.capability.headdims
        and 0 < batch <= MAX_GRID
        and 0 < nheads <= MAX_GRID
        and seqlen_q > 0
        and seqlen_k > 0
        and nheads_k > 0
        and nheads % nheads_k == 0
        and stage.capability.backend != "numpy"
        and all(_strides_serve(st, headdim, dtype.itemsize, aligned) for st in (strides, strides_k, strides_v))
    ):
        return None
    return _Layout(
        sizes=(batch, seqlen_q, seqlen_k, nheads, nheads_k, headdim),
        strides=(*strides[:3], *strides_k[:3], *strides_v[:3]),
        out=(batch, seqlen_q, nheads, headdim),
        out_strides=(seqlen_q * nheads * headdim, nheads * headdim, headdim, 1),
        lse=(batch, nheads, seqlen_q),
        lse_strides=(nheads * seqlen_q, seqlen_q, 1),
        scale=headdim**-0.5,
        dtype=_dtype_name(dtype),
        device=device.type,
        gpu=device.index if device.type == "cuda" else None,
    )


def _as_it_is(stage: Stage, q, k, v, causal, softmax_scale, out, lse, aligned: bool) -> Call | None:
    """The call, if there is nothing to convert, to copy, to pad or to refuse; None: `prepare` has to look closer.

    Most calls are like that, and the host's time for one is what a short attention takes. So what depends on the
    layout alone is remembered, nothing is put into words, and whatever is out of the ordinary is left to `prepare`:
    what passes here passes there.
    """
    if not (type(q) is type(k) is type(v) is torch.Tensor and type(causal) is bool):
        return None
    dtype, device, shape = q.dtype, q.device, q.shape
    tensors = (shape, k.shape, v.shape, q.stride(), k.stride(), v.stride(), dtype, k.dtype, v.dtype, device, k.device)
    layout = _layout(stage, aligned, *tensors, v.device)
    if layout is None:
        return None
    place = where(stage, layout.dtype)
    if not place or layout.device != place.device:
        return None
    if softmax_scale is None:
        softmax_scale = layout.scale
    elif type(softmax_scale) is not float or not 0 < softmax_scale < math.inf:
        return None
    if aligned and (q.data_ptr() | k.data_ptr() | v.data_ptr()) % 16:
        return None
    if q.requires_grad or k.requires_grad or v.requires_grad:
        q, k, v = q.detach(), k.detach(), v.detach()
    is_here = layout.gpu is not None and layout.gpu == _current_gpu()
    if out is None:
        out = _empty(layout.out, layout.out_strides, dtype, device, is_here)
        strides = layout.out_strides[:3]
    elif (
        type(out) is torch.Tensor
        and out.shape == shape
        and out.dtype == dtype
        and out.device == device
        and _is_dense(out, aligned=True)  # and so not expanded
    ):
        strides = out.stride()[:3]
    else:
        return None
    if lse is None:
        lse = _empty(layout.lse, layout.lse_strides, torch.float32, device, is_here)
    elif not (
        type(lse) is torch.Tensor
        and lse.shape == layout.lse
        and lse.dtype == torch.float32
        and lse.device == device
        and lse.is_contiguous()
    ):
        return None
    strides = layout.strides + strides
    return Call(q, k, v, out, lse, causal, softmax_scale, place, (out, lse), (), strides, is_here, layout.sizes)


def _empty(shape, strides, dtype: torch.dtype, device: torch.device, is_here: bool) -> torch.Tensor:
    """shape, strides: plain tuples. is_here: `device` is the current GPU."""
    if is_here and _empty_on_current_gpu is not None:
        return _empty_on_current_gpu(shape, strides, dtype)
    return torch.empty_strided(shape, strides, dtype=dtype, device=device)


def _prepare_numpy(q, k, v, out, lse, causal, scale, place, result) -> Call:
    """16-bit inputs are computed in float32, as the GPU's accumulators are; the result is rounded once, at the end."""
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    q, k, v = (t.to(compute).numpy() for t in (q, k, v))
    copy_back = []
    kernel_out = out
    if out.dtype != compute:
        kernel_out = torch.empty(out.shape, dtype=compute)
        copy_back.append((out, kernel_out))
    return Call(q, k, v, kernel_out.numpy(), lse.numpy(), causal, scale, place, result, copy_back)


def _one_kind(given: dict) -> bool:
    """Whether everything is NumPy; mixed or foreign types are refused."""
    for kind, answer in ((torch.Tensor, False), (np.ndarray, True)):
        if all(isinstance(a, kind) for a in given.values()):
            return answer
    kinds = ", ".join(f"{name} is {type(a).__module__}.{type(a).__qualname__}" for name, a in given.items())
    raise TypeError(f"{kinds}; accepted: all torch tensors, or all NumPy arrays")


def _as_torch(name: str, array: np.ndarray) -> torch.Tensor:
    torch_takes_it = array.dtype.isnative and array.flags.writeable and all(stride >= 0 for stride in array.strides)
    if not torch_takes_it:
        if name in ("out", "lse"):
            raise ValueError(
                f"{name} is read-only, byte-swapped or has a negative stride (strides {array.strides}); "
                "accepted: a writeable array in native byte order with positive strides"
            )
        array = array.astype(array.dtype.newbyteorder("="), copy=True, order="C")
    try:
        return torch.from_numpy(array)
    except TypeError:
        raise Unsupported(f"{name} has dtype {array.dtype}; accepted: float16, float32, float64") from None


@functools.cache
def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_dtypes(stage: Stage, q, k, v) -> str:
    names = {n: _dtype_name(t.dtype) for n, t in (("q", q), ("k", k), ("v", v))}
    accepted = ", ".join(stage.capability.dtypes)
    if len(set(names.values())) > 1:
        mixed = ", ".join(f"{n} is {d}" for n, d in names.items())
        raise ValueError(f"q, k and v have different dtypes ({mixed}); accepted: one dtype for all, of {accepted}")
    if names["q"] not in stage.capability.dtypes:
        raise Unsupported(f"q has dtype {names['q']}; accepted by {stage.name}: {accepted}")
    return names["q"]


def _check_shapes(stage: Stage, q, k, v) -> None:
    for name, t, layout in (
        ("q", q, "[batch, seqlen_q, nheads, headdim]"),
        ("k", k, "[batch, seqlen_k, nheads_k, headdim]"),
        ("v", v, "[batch, seqlen_k, nheads_k, headdim]"),
    ):
        if t.ndim != 4:
            raise ValueError(f"{name} has {t.ndim} dimensions, shape {tuple(t.shape)}; accepted: 4, {layout}")
        if 0 in t.shape:
            raise ValueError(f"{name} is empty, shape {tuple(t.shape)}; accepted: every dimension at least 1, {layout}")
    if k.shape != v.shape:
        raise ValueError(f"v has shape {tuple(v.shape)}; accepted: that of k, {tuple(k.shape)}")
    if k.shape[0] != q.shape[0]:
        raise ValueError(f"k has batch {k.shape[0]}; accepted: that of q, {q.shape[0]}")
    if k.shape[3] != q.shape[3]:
        raise ValueError(f"k has headdim {k.shape[3]}; accepted: that of q, {q.shape[3]}")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"q has nheads {q.shape[2]}; accepted: a multiple of nheads_k, {k.shape[2]}")
    if stage.capability.backend != "numpy":
        for name, n in (("batch", q.shape[0]), ("nheads", q.shape[2])):
            if n > MAX_GRID:
                raise ValueError(
                    f"q has {name} {n}; accepted: at most {MAX_GRID}, the limit of a grid's second and third side"
                )
    largest = stage.capability.max_headdim
    if largest is not None and q.shape[3] > largest:
        raise Unsupported(f"q has headdim {q.shape[3]}; accepted by {stage.name}: 1 to {largest}")


def _check_scale(softmax_scale, headdim: int) -> float:
    if softmax_scale is None:
        return headdim**-0.5
    is_number = isinstance(softmax_scale, numbers.Real) and not isinstance(softmax_scale, (bool, np.bool_))
    if not is_number or not math.isfinite(softmax_scale) or softmax_scale <= 0:
        raise ValueError(f"softmax_scale is {softmax_scale!r}; accepted: a finite number above 0, or None")
    return float(softmax_scale)


def _check_output(name: str, t, shape: tuple, dtype: torch.dtype, device: torch.device) -> None:
    if t is None:
        return
    if tuple(t.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(t.shape)}; accepted: {shape}")
    if t.dtype != dtype:
        raise ValueError(f"{name} has dtype {_dtype_name(t.dtype)}; accepted: {_dtype_name(dtype)}")
    if t.device != device:
        raise ValueError(f"{name} is on {t.device}; accepted: q's device, {device}")
    if any(stride == 0 and size > 1 for stride, size in zip(t.stride(), t.shape)):
        raise ValueError(
            f"{name} is an expanded view, strides {t.stride()}; accepted: memory of its own for every element"
        )


def _check_devices(stage: Stage, place: Where, tensors: dict, as_numpy: bool) -> None:
    devices = {name: t.device for name, t in tensors.items()}
    if len(set(devices.values())) > 1:
        found = ", ".join(f"{name} is on {device}" for name, device in devices.items())
        raise ValueError(f"{found}; accepted: one device for all")
    device = devices["q"]
    if not as_numpy and device.type != place.device:
        raise ValueError(f"q is on {device}; accepted: {place.device}, where {stage.name} runs here ({place.reason})")


def _is_dense(t: torch.Tensor, aligned: bool) -> bool:
    """Whether a kernel can address `t` by its strides, the last of which it takes to be 1."""
    at = not aligned or t.data_ptr() % 16 == 0
    return at and _strides_serve(t.stride(), t.shape[3], t.element_size(), aligned)


def _strides_serve(strides: tuple[int, ...], headdim: int, itemsize: int, aligned: bool) -> bool:
    """`_is_dense`, wherever the tensor begins. strides: in elements; itemsize: bytes of an element."""
    batch, row, head, last = strides
    if last != 1 and headdim > 1:
        return False
    if not aligned:
        return True
    # Multiples of 16 are what has no bit below the fifth; element sizes are powers of two, so that holds for the union.
    return batch != 0 and row != 0 and head != 0 and (batch | row | head) * itemsize % 16 == 0


def _operand(t: torch.Tensor, headdim: int, device: str, aligned: bool) -> torch.Tensor:
    if t.device.type != device:  # NumPy arrays travel to where the stage runs
        t = t.to(device)
    if t.shape[3] != headdim:
        return torch.nn.functional.pad(t, (0, headdim - t.shape[3]))
    return t if _is_dense(t, aligned) else t.clone(memory_format=torch.contiguous_format)
