"""Compiling and launching the CUDA stages: CuPy's RawModule (NVRTC) on torch's tensors and torch's current stream.

Nothing is copied: the kernel gets the tensors' addresses.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import contextvars
import ctypes
import functools
import hashlib
import struct

import torch

from stages.common.contract import MAX_GRID, Call
from stages.common.record import STAGES_DIR, Stage, Unsupported

INCLUDE_DIR = STAGES_DIR / "common"
ELEMENT = {torch.float16: "f16", torch.bfloat16: "bf16"}
COMPILE_OPTIONS = ("--std=c++17", "-lineinfo", f"-I{INCLUDE_DIR}")

_PARAMS = struct.Struct("5Q 12q 4i f 4x")  # struct Params of params.cuh


def source(stage: Stage) -> str:
    """The stage's kernel.cu with a last line that changes with the headers: CuPy's cache keys on the source alone."""
    headers = b"".join(path.read_bytes() for path in sorted(INCLUDE_DIR.glob("*.cuh")))
    return f"{stage.kernel_file.read_text()}\n// headers {hashlib.sha256(headers).hexdigest()[:16]}\n"


def instantiation(dtype: torch.dtype, headdim: int, causal: bool, arguments: tuple[str, ...] = ()) -> str:
    """The kernel template with its arguments: attention_kernel<T, d, CAUSAL, ...>."""
    return f"attention_kernel<{', '.join((ELEMENT[dtype], str(headdim), str(causal).lower(), *arguments))}>"


@functools.cache
def _kernel(stage: Stage, name: str, shared_bytes: int, device: int) -> int:
    """The kernel's address; compiled on first use (seconds), then cached: here for the process, by CuPy on disk."""
    import cupy

    with cupy.cuda.Device(device):
        module = cupy.RawModule(code=source(stage), options=COMPILE_OPTIONS, name_expressions=[name])
        function = module.get_function(name)
        function.max_dynamic_shared_size_bytes = shared_bytes
    _loaded.append(function)  # the address lives as long as this does
    return function.kernel.ptr


_loaded: list = []


# ---- specialisations ------------------------------------------------------------------------------------------------

AFTER_CALLS = 8  # of the same strides, a specialisation for them begins to compile
_specialise: contextvars.ContextVar[str | None] = contextvars.ContextVar("specialise", default=None)
_seen: collections.Counter = collections.Counter()
_compiling: dict[tuple, concurrent.futures.Future] = {}
_compiler = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="specialise")


@contextlib.contextmanager
def specialise(when: str):
    """When kernels that are compiled for one call's strides take the place of the general ones, within.

    "now": in the first call, which waits for the compiler. "background": once they are compiled, which begins after
    AFTER_CALLS calls of a kind and makes nobody wait; so it is on a GPU unless said otherwise. "never": so it is in
    the emulator.
    """
    if when not in ("now", "background", "never"):
        raise ValueError(f"when is {when!r}; accepted: now, background, never")
    token = _specialise.set(when)
    try:
        yield
    finally:
        _specialise.reset(token)


def static_strides(call: Call) -> tuple[str, str] | None:
    """The row strides of Q and of K and V as template arguments; None: K's and V's differ, or one is too large."""
    q_row, k_row, v_row = (t.stride(1) for t in (call.q, call.k, call.v))
    return (str(q_row), str(k_row)) if k_row == v_row and max(q_row, k_row) < 2**31 else None


def _specialised(key: tuple) -> int | None:
    """The specialised kernel, if it is wanted and there. key: what _kernel takes."""
    when = _specialise.get() or "background"
    if when == "now":
        return _kernel(*key)
    if when == "never":
        return None
    if key not in _compiling:
        _seen[key] += 1
        if _seen[key] < AFTER_CALLS:
            return None
        _compiling[key] = _compiler.submit(_kernel, *key)
    return _compiling[key].result() if _compiling[key].done() else None


# ---- launching ------------------------------------------------------------------------------------------------------


def launch(
    stage: Stage,
    call: Call,
    *,
    grid: tuple[int, int, int],
    threads: int,
    shared_bytes: int,
    arguments: tuple[str, ...] = (),
    special: tuple[str, ...] | None = None,
) -> None:
    """Launch the stage's kernel for `call`: instantiate it for dtype, head dim and mask, and pass a Params by value.

    arguments: further template arguments. special: other ones, which give the same result faster but are good for this
               call's strides only: see `specialise`.

    In the emulator what is wrong with the kernel raises tools.emulator.KernelError.
    """
    q, k, v, out = call.q, call.k, call.v, call.out
    if max(grid[1:]) > MAX_GRID:  # batch and heads are checked: it is the Q tiles
        rows = call.seqlen_q * MAX_GRID // max(grid[1:])
        raise Unsupported(
            f"{stage.name}: seqlen_q is {call.seqlen_q:,}; accepted: about {rows:,}, by the limit of a grid"
        )
    packed = _PARAMS.pack(
        *(t.data_ptr() for t in (q, k, v, out, call.lse)),
        *(stride for t in (q, k, v, out) for stride in t.stride()[:3]),
        *(call.nheads, call.nheads_k, call.seqlen_q, call.seqlen_k),
        call.softmax_scale,
    )
    if call.where.kind == "emulator":
        if special and _specialise.get() == "now":
            arguments = special
        name = instantiation(q.dtype, call.headdim, call.causal, arguments)
        _launch_in_emulator(stage, call, name, packed, grid, threads, shared_bytes)
        return
    from cupy_backends.cuda.api import driver

    with call.on_device():
        index = q.device.index
        kernel = None
        if special:
            name = instantiation(q.dtype, call.headdim, call.causal, special)
            kernel = _specialised((stage, name, shared_bytes, index))
        if kernel is None:
            name = instantiation(q.dtype, call.headdim, call.causal, arguments)
            kernel = _kernel(stage, name, shared_bytes, index)
        params = ctypes.create_string_buffer(packed, len(packed))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(params))  # the driver copies what they point to
        stream = torch.cuda.current_stream().cuda_stream
        driver.launchKernel(kernel, *grid, threads, 1, 1, shared_bytes, stream, ctypes.addressof(pointers), 0)


def _launch_in_emulator(
    stage: Stage, call: Call, name: str, packed: bytes, grid: tuple, threads: int, shared_bytes: int
) -> None:
    from tools.emulator import Array, Struct, launch

    operands = (("q", call.q), ("k", call.k), ("v", call.v), ("out", call.out), ("lse", call.lse))
    arrays = [Array(name, tensor, writable=name in ("out", "lse")) for name, tensor in operands]
    params = Struct(packed, {8 * i: array for i, array in enumerate(arrays)})  # the struct begins with the pointers
    kernel = stage.kernel_file.read_text(encoding="utf-8")
    launch(kernel, name, [params], grid=grid, block=threads, shared_bytes=shared_bytes)
