"""Which lane and register holds which element of the matrices that mma.m16n8k16 multiplies and ldmatrix loads.

    python -m tools.emulator fragments             C = A·B as it lies in a warp's registers, and ldmatrix
    python -m tools.emulator fragments --lane 5    what lane 5 holds, highlighted

No table is behind it: probes/fragments.cu runs the instructions on operands that name their own place, and what turns
up in which register is shown. The suite compares that with the formulas of the PTX ISA.

Exit codes: 0 shown; 1 the probe does not compile, or its answers do not fit together; 2 wrong arguments; 3 no C++
compiler; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tools.emulator.build import CompileError
from tools.emulator.process import Array, launch
from tools.emulator.report import KernelError

PROBE = Path(__file__).resolve().parent / "probes" / "fragments.cu"
SHARED_BYTES = 1024
M, N, K = 16, 8, 16
LANES = 32
COLOURS = ("blue", "red", "green", "magenta")  # of the registers


class Inconsistent(Exception):
    """The probes' answers do not fit together: an instruction does not do what it should."""


@dataclass(frozen=True)
class Fragment:
    """A matrix spread over a warp. letter: what its registers are called by.

    lane, register, half: [rows, columns]; half is 1 for the upper 16 bits of a register, else 0.
    """

    name: str
    letter: str
    lane: np.ndarray
    register: np.ndarray
    half: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.lane.shape

    def element(self, lane: int, register: int, half: int = 0) -> tuple[int, int]:
        """(row, column) of what a lane holds there."""
        ((row, column),) = np.argwhere((self.lane == lane) & (self.register == register) & (self.half == half))
        return int(row), int(column)


def _fragment(name: str, letter: str, shape: tuple[int, int], index: np.ndarray) -> Fragment:
    """index: [32, registers, halves], the element, row by row, that is found there; each has to be found once."""
    if not np.array_equal(np.sort(index, axis=None), np.arange(shape[0] * shape[1])):
        raise Inconsistent(f"the registers do not hold every element of {name} once")
    places = np.argsort(index, axis=None)
    lane, register, half = (part.reshape(shape) for part in np.unravel_index(places, index.shape))
    return Fragment(name, letter, lane, register, half)


def _halves(registers: np.ndarray) -> np.ndarray:
    """[32, registers] of 32 bits -> [32, registers, 2] of 16."""
    return np.stack((registers & 0xFFFF, registers >> 16), axis=-1).astype(np.int64)


def _load(transposed: bool) -> np.ndarray:
    """Run `load` on elements that are their own index."""
    X, r = np.arange(LANES * 8, dtype=np.uint16), np.zeros((LANES, 4), np.uint32)
    _launch(f"load<{str(transposed).lower()}>", Array("X", X), Array("r", r, writable=True))
    return _halves(r)


def _multiply(A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run `multiply` on 16-bit elements: (a, b, c), the registers."""
    a, b = np.zeros((LANES, 4), np.uint32), np.zeros((LANES, 2), np.uint32)
    c = np.full((LANES, 4), np.nan, np.float32)
    bits = {"A": A, "Bt": B.T}
    inputs = [Array(name, np.ascontiguousarray(X).view(np.uint16)) for name, X in bits.items()]
    outputs = [Array(name, registers, writable=True) for name, registers in (("a", a), ("b", b), ("c", c))]
    _launch("multiply<f16>", *inputs, *outputs)
    return a, b, c


def _launch(kernel: str, *parameters: Array) -> None:
    launch(PROBE.read_text(encoding="utf-8"), kernel, parameters, grid=(1,), block=LANES, shared_bytes=SHARED_BYTES)


def loaded(transposed: bool = False) -> Fragment:
    """Of ldmatrix.x4: 32 rows of 8 elements, lane i giving the address of row i; each 8 rows are a matrix."""
    return _fragment("ldmatrix.trans" if transposed else "ldmatrix", "r", (LANES, 8), _load(transposed))


def multiplied() -> dict[str, Fragment]:
    """A [16, 16], B [16, 8] and C [16, 8] of mma.m16n8k16.

    A and B lie as ldmatrix loads them; C's rows and columns are then those of the product. Raises Inconsistent if it is
    none.
    """
    index_A, index_B = (np.arange(m * n, dtype=np.uint16).reshape(m, n) for m, n in ((M, K), (K, N)))
    a, b, _ = _multiply(index_A, index_B)
    A = _fragment("A", "a", (M, K), _halves(a))
    B = _fragment("B", "b", (K, N), _halves(b))
    rows, columns, ones = np.arange(M)[:, None], np.arange(N)[None], np.ones((1, 1))
    first = np.arange(K) == 0  # the only k whose products are not 0
    *_, row = _multiply((rows * first).astype(np.float16), (ones * first[:, None] * np.ones(N)).astype(np.float16))
    *_, column = _multiply((np.ones((M, 1)) * first).astype(np.float16), (first[:, None] * columns).astype(np.float16))
    if not (np.isin(row, rows).all() and np.isin(column, columns).all()):
        raise Inconsistent("the accumulators hold no rows and columns of a product")
    C = _fragment("C", "c", (M, N), (row * N + column).astype(np.int64)[..., None])
    random = np.random.default_rng(0)
    X, Y = (random.integers(-8, 9, shape).astype(np.float16) for shape in ((M, K), (K, N)))
    *_, product = _multiply(X, Y)
    if not np.array_equal(product[C.lane, C.register], X.astype(np.float32) @ Y.astype(np.float32)):
        raise Inconsistent("the accumulators do not hold the product of A and B as these lie")
    return {"A": A, "B": B, "C": C}


def grid(fragment: Fragment, rows: str, columns: str, lane: int | None = None, height: int | None = None) -> Table:
    """A matrix with the holder of each element, such as "12 a1"; elements side by side in one register share a cell."""
    count, width = fragment.shape
    held = (fragment.lane * 4 + fragment.register).reshape(count, width // 2, 2)
    step = 2 if (held[..., 0] == held[..., 1]).all() else 1
    names = [str(c) if step == 1 else f"{c},{c + 1}" for c in range(0, width, step)]
    title = f"{fragment.name}: {rows} down, {columns} across"
    table = Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left")
    table.add_column("", justify="right", style="dim")
    for name in names:
        table.add_column(name, justify="right", header_style="dim", no_wrap=True)
    for row in range(height or count):
        cells = []
        for column in range(0, width, step):
            holder, register = fragment.lane[row, column], fragment.register[row, column]
            chosen = f"bold white on {COLOURS[register]}" if holder == lane else COLOURS[register]
            cells.append(Text(f"{holder:>2} {fragment.letter}{register}", style=chosen))
        table.add_row(str(row), *cells)
    return table


NOTE = """Each cell: the lane that holds the element,
and in which of its registers.

a0 to a3 and b0, b1 hold two 16-bit elements each,
neighbours in k, the even one in the lower half;
c0 to c3 are floats. Colours are registers.

Two accumulators C side by side, rounded and
packed, lie as an A does: that is why P goes into
the next product without leaving its registers."""
AXES = {"A": ("i", "k"), "B": ("k", "j"), "C": ("i", "j")}
WIDE = 104  # columns: room for B above C and A beside it


def show(console: Console, lane: int | None) -> None:
    A, B, C = (grid(made, *AXES[name], lane=lane) for name, made in multiplied().items())
    plain, transposed = (grid(loaded(t), "address", "element", lane=lane, height=8) for t in (False, True))
    if console.width >= WIDE:
        product = Table.grid(padding=(1, 4, 0, 0))
        product.add_row(Text(NOTE), B)
        product.add_row(A, C)
        loads = Table.grid(padding=(1, 4, 0, 0))
        loads.add_row(plain, transposed)
        console.print(product, loads)
    else:
        console.print(NOTE, A, B, C, plain, transposed, sep="\n\n")
    console.print(
        "\nldmatrix.x4 loads four such matrices: lane 8m + i gives the address of row i of matrix m, and register m of "
        "every lane receives its part of it. Shown: m = 0."
    )


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.emulator fragments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--lane", type=int, choices=range(LANES), metavar="0..31", help="highlight what this lane holds")
    p.add_argument("--plot", type=Path, metavar="DIR", help="draw it there: fragments.png and .svg")
    return p


def main(argv: Sequence[str]) -> int:
    from tools.emulator.__main__ import NO_COMPILER, console, lacks_compiler

    p = parser()
    args = p.parse_args(argv)
    if args.plot and not args.plot.is_dir():
        p.error(f"argument --plot: {args.plot} is no folder")
    if lacks_compiler():
        return NO_COMPILER
    try:
        show(console(), args.lane)
        if args.plot:
            from tools.plot.hardware import draw_fragments

            for path in draw_fragments(args.plot, args.lane):
                print(path)
    except (CompileError, Inconsistent, KernelError) as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
