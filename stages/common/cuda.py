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
import threading
from collections.abc import Callable

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


@functools.cache
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
_compiled: dict[tuple, int] = {}  # what came of it: to ask a future takes longer
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
    return _static_strides(*call.strides[1:8:3])


@functools.lru_cache(maxsize=1024)
def _static_strides(q_row: int, k_row: int, v_row: int) -> tuple[str, str] | None:
    return (str(q_row), str(k_row)) if v_row == k_row < 2**31 > q_row else None


def _specialised(key: tuple) -> int | None:
    """The specialised kernel, if it is wanted and there. key: what _kernel takes."""
    when = _specialise.get() or "background"
    if when == "now":
        return _kernel(*key)
    if when == "never":
        return None
    kernel = _compiled.get(key)
    if kernel is not None:
        return kernel
    compiling = _compiling.get(key)
    if compiling is None:
        _seen[key] += 1
        if _seen[key] < AFTER_CALLS:
            return None
        compiling = _compiling[key] = _compiler.submit(_kernel, *key)
    if not compiling.done():
        return None
    kernel = _compiled[key] = compiling.result()
    return kernel


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
    dtype, headdim, causal = call.q.dtype, call.headdim, call.causal
    if grid[1] > MAX_GRID or grid[2] > MAX_GRID:  # batch and heads are checked: it is the Q tiles
        rows = call.seqlen_q * MAX_GRID // max(grid[1:])
        raise Unsupported(
            f"{stage.name}: seqlen_q is {call.seqlen_q:,}; accepted: about {rows:,}, by the limit of a grid"
        )
    if call.where.kind == "emulator":
        if special and _specialise.get() == "now":
            arguments = special
        name = instantiation(dtype, headdim, causal, arguments)
        _launch_in_emulator(stage, call, name, grid, threads, shared_bytes)
        return
    with call.on_device():
        index = call.q.device.index
        kernel = None
        if special:
            kernel = _specialised((stage, instantiation(dtype, headdim, causal, special), shared_bytes, index))
        if kernel is None:
            kernel = _kernel(stage, instantiation(dtype, headdim, causal, arguments), shared_bytes, index)
        _PARAMS.pack_into(_argument.params, 0, *_params(call))
        _driver_launch()(kernel, *grid, threads, 1, 1, shared_bytes, _current_stream(index), _argument.address, 0)


def _params(call: Call) -> tuple:
    """The fields of struct Params of params.cuh."""
    q, k, v, out = call.q, call.k, call.v, call.out
    return (
        *(q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), call.lse.data_ptr()),
        *call.strides,
        *(call.nheads, call.nheads_k, call.seqlen_q, call.seqlen_k),
        call.softmax_scale,
    )


class _Argument(threading.local):
    """Where a thread's launches have their Params: the driver copies it, so that the next launch may write over it.

    address: of an array of one pointer, to the Params, which is how the driver wants a kernel's arguments.
    """

    def __init__(self) -> None:
        self.params = ctypes.create_string_buffer(_PARAMS.size)
        self._pointers = (ctypes.c_void_p * 1)(ctypes.addressof(self.params))
        self.address = ctypes.addressof(self._pointers)


_argument = _Argument()


@functools.cache
def _driver_launch() -> Callable:
    from cupy_backends.cuda.api import driver

    return driver.launchKernel


def _stream_by_torch(index: int) -> int:
    return torch.cuda.current_stream(index).cuda_stream


# The handle of torch's current stream on a device. The function without an object around it is what compiled PyTorch
# code and Triton ask; it has no public name.
_current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", _stream_by_torch)


def _launch_in_emulator(stage: Stage, call: Call, name: str, grid: tuple, threads: int, shared_bytes: int) -> None:
    from tools.emulator import Array, Struct, launch

    operands = (("q", call.q), ("k", call.k), ("v", call.v), ("out", call.out), ("lse", call.lse))
    arrays = [Array(name, tensor, writable=name in ("out", "lse")) for name, tensor in operands]
    params = Struct(
        _PARAMS.pack(*_params(call)), {8 * i: array for i, array in enumerate(arrays)}
    )  # the struct begins with the pointers
    kernel = stage.kernel_file.read_text(encoding="utf-8")
    launch(kernel, name, [params], grid=grid, block=threads, shared_bytes=shared_bytes)
