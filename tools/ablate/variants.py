"""The final kernel with toggles applied: a changed copy of its two files, launched as the stage is."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from stages.common.cuda import specialise
from stages.common.record import Stage
from tools.ablate.toggles import STAGE, TOGGLES, Toggle
from tools.bench.shapes import Shape
from tools.edited import edited

UNCHANGED = "unchanged"
COPY = "unchanged_again"  # what the measurement says of no difference at all


class OutOfDate(Exception):
    """A toggle's text is not in the stage's files as it says."""


def replaced(text: str, pairs: Sequence[tuple[str, str]], name: str, file: str) -> str:
    """`text` with every replacement made. Raises OutOfDate unless each old occurs once."""
    for old, new in pairs:
        if text.count(old) != 1:
            raise OutOfDate(
                f"{name} is out of date: {old!r} occurs {text.count(old)} times in {file}, not once; "
                "tools/ablate/toggles.py has to follow the stage"
            )
        text = text.replace(old, new)
    return text


def sources(toggles: Sequence[Toggle]) -> tuple[str, str]:
    """The texts of kernel.cu and stage.py with these toggles, one applied after the other. Raises OutOfDate."""
    kernel = STAGE.kernel_file.read_text(encoding="utf-8")
    host = (STAGE.folder / "stage.py").read_text(encoding="utf-8")
    for toggle in toggles:
        kernel = replaced(kernel, toggle.kernel, toggle.name, f"{STAGE.name}/kernel.cu")
        host = replaced(host, toggle.host, toggle.name, f"{STAGE.name}/stage.py")
    return kernel, host


@dataclass(frozen=True)
class Variant:
    """name: in the records; toggles: none of them makes a plain copy; folder: where its two files go, which is made."""

    name: str
    toggles: tuple[Toggle, ...]
    folder: Path

    @cached_property
    def stage(self) -> Stage:
        """The stage with the changed kernel, for tools.nvrtc. Raises OutOfDate."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for file, text in zip(("kernel.cu", "stage.py"), sources(self.toggles), strict=True):
            path = self.folder / file
            if not path.exists() or path.read_text(encoding="utf-8") != text:  # other processes read it
                path.write_text(text, encoding="utf-8")
        return edited(STAGE, self.folder / "kernel.cu")

    @cached_property
    def attention(self) -> Callable:
        """As the stage's: attention(q, k, v, *, causal, softmax_scale, out, lse) -> (out, lse). Raises OutOfDate."""
        stage = self.stage
        name = f"ablate_{self.name}_{abs(hash(self.folder))}"
        spec = importlib.util.spec_from_file_location(name, self.folder / "stage.py")
        host = importlib.util.module_from_spec(spec)
        sys.modules[name] = host
        spec.loader.exec_module(host)
        host.STAGE = stage
        return host.attention


def compile_on_gpu(given: tuple[Variant, Shape, torch.dtype]) -> None:
    """In a process of its own: a small call with the shape's strides, which leaves its kernel in CuPy's cache."""
    variant, shape, dtype = given
    q = torch.zeros(1, 16, shape.nheads, shape.headdim, dtype=dtype, device="cuda")
    k = torch.zeros(1, 16, shape.nheads_k, shape.headdim, dtype=dtype, device="cuda")
    with specialise("now"):
        variant.attention(q, k, k, causal=shape.causal)
    torch.cuda.synchronize()


def find(name: str) -> Toggle:
    """Raises KeyError that lists what there is."""
    for toggle in TOGGLES:
        if toggle.name == name:
            return toggle
    raise KeyError(f"toggle is {name!r}; accepted: {', '.join(toggle.name for toggle in TOGGLES)}")


def variants(toggles: Sequence[Toggle], folder: Path, together: Sequence[Toggle] = ()) -> list[Variant]:
    """The kernel as it is, a second copy of it, one variant a toggle, and one with all of `together`, if any."""
    made = [Variant(UNCHANGED, (), folder / UNCHANGED), Variant(COPY, (), folder / COPY)]
    made += [Variant(toggle.name, (toggle,), folder / toggle.name) for toggle in toggles]
    if together:
        name = "+".join(toggle.name for toggle in together)
        made.append(Variant(name, tuple(together), folder / name))
    return made
