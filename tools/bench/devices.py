"""Where a benchmark runs: a place for tensors, a clock and a memory meter; the GPU's and the host's.

A sample is started with `time` and read later with `read`, so that a GPU is waited for once a round, not
once a sample.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence

import torch

from tools.bench.shapes import Shape

FLUSH_BYTES = (
    256 << 20
)  # larger than any L2 there is (50 MB on an H100, 126 MB on a B200); a larger one makes it 4 × L2
MATMUL_SIZE = 8192
WARM_UP_MS = 200.0
WARM_UP_CALLS = 5


class DeviceLost(RuntimeError):
    """The GPU no longer answers in this process: a kernel wrote where it must not, or the like."""


def random_inputs(shape: Shape, dtype: torch.dtype, device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Standard normal q, k, v: a GPU draws less power on zeros, and runs faster on them than on data."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(seqlen, nheads):
        size = (shape.batch, seqlen, nheads, shape.headdim)
        return torch.randn(size, generator=generator, dtype=torch.float32, device=device).to(dtype)

    return (
        normal(shape.seqlen_q, shape.nheads),
        normal(shape.seqlen_k, shape.nheads_k),
        normal(shape.seqlen_k, shape.nheads_k),
    )


class Gpu:
    """The current CUDA device, timed by its own events.

    Before each sample the GPU writes a buffer larger than its L2, so that a call finds none of its inputs
    there; it is written often enough that the host has launched the call before the GPU gets to it. What is
    timed is then the GPU's work, and no wait for Python.
    """

    where = "gpu"
    torch_device = torch.device("cuda")

    def __init__(self) -> None:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        self.name = properties.name
        self.sms = properties.multi_processor_count
        size = max(FLUSH_BYTES, 4 * getattr(properties, "L2_cache_size", 0))
        self._flush = torch.empty(size, dtype=torch.int8, device=self.torch_device)
        self._flush_ms = self._time_flush()
        self._writes = 1

    def _time_flush(self) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._flush.zero_()
        start.record()
        for _ in range(10):
            self._flush.zero_()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 10

    def inputs(self, shape: Shape, dtype: torch.dtype):
        return random_inputs(shape, dtype, self.torch_device)

    def new_shape(self) -> None:
        """Forget the last shape: its memory, and how long the host took to launch."""
        self.free()
        self._writes = 1

    def time(self, call: Callable) -> tuple:
        for _ in range(self._writes):
            self._flush.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        return start, end

    def read(self, samples: Sequence[tuple]) -> list[float]:
        """Milliseconds of each sample that `time` started. Raises DeviceLost."""
        self.assert_alive()
        return [start.elapsed_time(end) for start, end in samples]

    def warm_up(self, call: Callable) -> float:
        """Call until clocks and caches are warm -> milliseconds of one call, roughly."""
        call()  # compiles, tunes, allocates
        torch.cuda.synchronize()
        launch_ms, spent = math.inf, 0.0
        for _ in range(WARM_UP_CALLS):
            began = time.perf_counter()
            call()
            launch_ms = min(launch_ms, 1e3 * (time.perf_counter() - began))
            torch.cuda.synchronize()
            spent += 1e3 * (time.perf_counter() - began)
            if spent > WARM_UP_MS:
                break
        self._writes = max(self._writes, min(64, math.ceil(2 * launch_ms / self._flush_ms)))
        return self.read([self.time(call)])[0]

    def peak_bytes(self, call: Callable) -> int:
        """What one call holds at most beside its inputs, its outputs included."""
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = call()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        del result
        return peak - before

    def free(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()

    def assert_alive(self) -> None:
        """Raises DeviceLost when an error has left the GPU unusable for this process."""
        try:
            torch.cuda.synchronize()
        except RuntimeError as problem:
            raise DeviceLost(str(problem).strip().partition("\n")[0]) from None

    def ceilings(self, dtype: torch.dtype) -> dict:
        """What this GPU reaches where nothing else limits it: a copy in its memory, and a matrix product.

        copy_tb_per_s counts the bytes read and the bytes written; matmul_tflops is that of an 8192³ product
        in `dtype`.
        """
        self.new_shape()
        found = {
            "copy_tb_per_s": self._copy_rate() / 1e12,
            "matmul_tflops": self._matmul_rate(MATMUL_SIZE, dtype) / 1e12,
            "matmul_dtype": str(dtype).removeprefix("torch."),
        }
        self.free()
        return found

    def _copy_rate(self) -> float:
        free, _ = torch.cuda.mem_get_info()
        size = min(2 << 30, free // 4)
        source, target = (torch.zeros(size, dtype=torch.int8, device=self.torch_device) for _ in range(2))
        return 2 * size / self._median_seconds(target.copy_, source)

    def _matmul_rate(self, n: int, dtype: torch.dtype) -> float:
        A, B = (torch.randn(n, n, device=self.torch_device).to(dtype) for _ in range(2))
        return 2 * n**3 / self._median_seconds(torch.mm, A, B)

    def _median_seconds(self, function: Callable, *arguments) -> float:
        def call():
            function(*arguments)

        self.warm_up(call)
        return statistics.median(self.read([self.time(call) for _ in range(20)])) / 1e3


class Host:
    """The CPU, for the NumPy stages: wall-clock time, and NumPy's memory as tracemalloc sees it."""

    where = "host"
    torch_device = torch.device("cpu")

    def __init__(self, name: str) -> None:
        self.name = name

    def inputs(self, shape: Shape, dtype: torch.dtype):
        return random_inputs(shape, dtype, "cpu")

    def new_shape(self) -> None:
        pass

    def time(self, call: Callable) -> float:
        began = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - began)

    def read(self, samples: Sequence[float]) -> list[float]:
        return list(samples)

    def warm_up(self, call: Callable) -> float:
        call()
        return self.time(call)

    def peak_bytes(self, call: Callable) -> int:
        """What one call holds at most beside its inputs. tracemalloc sees NumPy's memory, not PyTorch's:
        let `call` allocate its outputs by NumPy."""
        tracemalloc.start()
        try:
            result = call()
            _, peak = tracemalloc.get_traced_memory()
            del result
            return peak
        finally:
            tracemalloc.stop()

    def free(self) -> None:
        gc.collect()

    def assert_alive(self) -> None:
        pass
