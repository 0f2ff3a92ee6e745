"""Compiling and launching the CUDA stages: CuPy's RawModule (NVRTC) on torch's tensors and torch's current stream.

Nothing is copied: the kernel gets the tensors' addresses.
"""

from __future__ import annotations

import functools
import hashlib
import struct

import numpy as np
import torch

from stages.common.contract import Call
from stages.common.record import STAGES_DIR, Stage

INCLUDE_DIR = STAGES_DIR / "common"
ELEMENT = {torch.float16: "f16", torch.bfloat16: "bf16"}
COMPILE_OPTIONS = ("--std=c++17", "-lineinfo", f"-I{INCLUDE_DIR}")

_PARAMS = struct.Struct("5Q 12q 4i f 4x")  # struct Params of params.cuh


def source(stage: Stage) -> str:
    """The stage's kernel.cu with a last line that changes with the headers: CuPy's cache keys on the source alone."""
    headers = b"".join(path.read_bytes() for path in sorted(INCLUDE_DIR.glob("*.cuh")))
    return f"{stage.kernel_file.read_text()}\n// headers {hashlib.sha256(headers).hexdigest()[:16]}\n"


def instantiation(dtype: torch.dtype, headdim: int, causal: bool) -> str:
    """The kernel template with its arguments: attention_kernel<T, d, CAUSAL>."""
    return f"attention_kernel<{ELEMENT[dtype]}, {headdim}, {str(causal).lower()}>"


@functools.cache
def _kernel(stage: Stage, name: str, shared_bytes: int, device: int):
    """Compiled on first use (seconds), then cached: here for the process, by CuPy on disk."""
    import cupy

    module = cupy.RawModule(code=source(stage), options=COMPILE_OPTIONS, name_expressions=[name])
    kernel = module.get_function(name)
    kernel.max_dynamic_shared_size_bytes = shared_bytes
    return kernel


def launch(stage: Stage, call: Call, *, grid: tuple, threads: int, shared_bytes: int) -> None:
    """Launch the stage's kernel for `call`: instantiate it for dtype, head dim and mask, and pass a Params by value.

    In the emulator what is wrong with the kernel raises tools.emulator.KernelError.
    """
    q, k, v, out = call.q, call.k, call.v, call.out
    packed = _PARAMS.pack(
        *(t.data_ptr() for t in (q, k, v, out, call.lse)),
        *(stride for t in (q, k, v, out) for stride in t.stride()[:3]),
        *(call.nheads, call.nheads_k, call.seqlen_q, call.seqlen_k),
        call.softmax_scale,
    )
    if call.where.kind == "emulator":
        _launch_in_emulator(stage, call, packed, grid, threads, shared_bytes)
        return
    import cupy

    params = np.frombuffer(packed, dtype=f"V{_PARAMS.size}")  # one element: CuPy passes it by value
    with call.on_device():
        stream = torch.cuda.current_stream()
        name = instantiation(q.dtype, call.headdim, call.causal)
        kernel = _kernel(stage, name, shared_bytes, stream.device_index)
        with cupy.cuda.ExternalStream(stream.cuda_stream, stream.device_index):
            kernel(grid, (threads,), (params,), shared_mem=shared_bytes)


def _launch_in_emulator(stage: Stage, call: Call, packed: bytes, grid: tuple, threads: int, shared_bytes: int) -> None:
    from tools.emulator import Array, Struct, launch

    operands = (("q", call.q), ("k", call.k), ("v", call.v), ("out", call.out), ("lse", call.lse))
    arrays = [Array(name, tensor, writable=name in ("out", "lse")) for name, tensor in operands]
    params = Struct(packed, {8 * i: array for i, array in enumerate(arrays)})  # the struct begins with the pointers
    kernel = stage.kernel_file.read_text(encoding="utf-8")
    name = instantiation(call.q.dtype, call.headdim, call.causal)
    launch(kernel, name, [params], grid=grid, block=threads, shared_bytes=shared_bytes)
