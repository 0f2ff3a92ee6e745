"""Machine code that the lessons read, line by line: the main loop of some stages as the compiler made it, recorded.

Another compiler orders instructions otherwise and names other registers; a lesson has to say the same everywhere. So it
reads docs/results/listings/NAME.sass, which says on its first line what made it, and `python -m
tools.lesson.record_listings` makes them. `python -m tools.sass s24 --dump FILE` has the whole of a kernel as the
compiler at hand makes it.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from stages import Stage, get
from stages.common.tiles import Tiles
from tools import nvrtc, results
from tools.bench.shapes import WIDTH
from tools.lesson.live import planted
from tools.lesson.pieces import LessonError
from tools.lesson.shown import Shown
from tools.sass import mix

FOLDER = results.RESULTS_DIR / "listings"
ARCH = "90a"


@dataclass(frozen=True)
class Wanted:
    """A stage's kernel, or one with these (old, new) pieces of text; bfloat16.

    tiles: in place of the default ones; then with the strides of the benchmark's tensors, as it is timed.
    """

    stage: str
    changes: tuple[tuple[str, str], ...] = ()
    headdim: int = 128
    causal: bool = False
    tiles: Tiles | None = None

    @property
    def instantiation(self) -> str:
        tiles = f", {WIDTH}, {WIDTH}, {self.tiles.argument}" if self.tiles else ""
        return f"attention_kernel<bf16, {self.headdim}, {str(self.causal).lower()}{tiles}>"

    @property
    def loads(self) -> dict[str, int]:
        """The fragments that the loop loads: of K and V, and of Q."""
        tiles = self.tiles or Tiles(64, 64, 4, 2, q_in_registers=True, blocks=2)
        mine = tiles.Br // (tiles.num_warps * 16) * self.headdim // 16  # Q's, of a warp
        return {"KV": 2 * tiles.Bc // 16 * self.headdim // 16, "Q": 0 if tiles.q_in_registers else mine}

    @property
    def kernel(self) -> Stage:
        return planted(self.stage, *self.changes) if self.changes else get(self.stage)

    @property
    def source(self) -> str:
        """A hash of what is compiled."""
        given = (nvrtc.source_hash(get(self.stage)), self.changes, self.instantiation)
        return hashlib.sha256(repr(given).encode()).hexdigest()[:16]


# The walk goes the other way, and nothing else changes.
BACKWARDS = (
    ("if (block < blocks) {", "if (block >= 0) {"),
    ("load_kv(0);", "load_kv(blocks - 1);"),
    ("for (int block = 0; block < blocks; block++) {", "for (int block = blocks - 1; block >= 0; block--) {"),
    ("load_kv(block + 1);", "load_kv(block - 1);"),
)
# Every tile is masked, whatever its class: no branch.
UNCONDITIONAL = (("if (block >= full_blocks) {", "{"),)

# 32 rows a warp, as the tuner chose at head dim 128 for s33 on an H200.
WIDE = Tiles(128, 64, 4, 2, q_in_registers=False, blocks=1)
WANTED = {
    **{short: Wanted(short) for short in ("s23", "s24", "s25", "s26", "s27", "s28", "s29")},
    "s23_d64": Wanted("s23", headdim=64),
    "s24_d64": Wanted("s24", headdim=64),
    "s24_backwards": Wanted("s24", BACKWARDS),
    "s25_no_branch": Wanted("s25", UNCONDITIONAL),
    "s29_no_branch": Wanted("s29", UNCONDITIONAL),
    **{f"{short}_128x64": Wanted(short, tiles=WIDE) for short in ("s33", "s34")},
    **{f"{short}_128x64_causal": Wanted(short, causal=True, tiles=WIDE) for short in ("s33", "s34")},
}


def path_of(name: str) -> Path:
    if name not in WANTED:
        raise LessonError(f"listing is {name!r}; there are {', '.join(WANTED)}")
    return FOLDER / f"{name}.sass"


@functools.cache
def loop(name: str) -> tuple[mix.Instruction, ...]:
    """The loop over K/V tiles, bfloat16, for sm_90a; head dim 128, not causal, default tiles, unless the name says
    another.

    Raises LessonError where nothing is recorded.
    """
    path = path_of(name)
    try:
        return tuple(mix.parse(path.read_text(encoding="utf-8")))
    except OSError as problem:
        raise LessonError(f"{path}: cannot be read: {problem.strerror}") from None


def simplified(name: str) -> list[tuple[str, list[int]]]:
    """A listing in its order: [("LDSM", [to, address]), ("HMMA", [D, A, B, C]), ("other", [to, ...]), ...]; of the
    others those that name a register."""
    from tools.pictures.machine_code import registers as named

    code = [(one.name.partition(".")[0], named(one)) for one in loop(name)]
    return [(opcode if opcode in ("LDSM", "HMMA") else "other", names) for opcode, names in code if names]


def stale(name: str) -> str:
    """Why the file does not show what its source compiles to; "" when it does."""
    path = path_of(name)
    if not path.exists():
        return f"{name}: nothing is recorded"
    if f"source {WANTED[name].source}" not in path.read_text(encoding="utf-8").partition("\n")[0]:
        return f"{name}: the kernel, or a header that it includes, has changed since {path.name} was recorded"
    return ""


def registers(name: str) -> int:
    """A thread's, of the whole kernel."""
    return int(re.search(r"registers (\d+)", path_of(name).read_text(encoding="utf-8"))[1])


def listing(name: str, *opcodes: str, first: int = 0, lines: int = 12) -> Shown:
    """A piece of the loop, each line with its place in it: from place `first` on, so many lines; opcodes: of these
    only, HMMA, LDSM, MOV … (with a dot, IMAD.MOV)."""
    code = loop(name)
    unknown = [one for one in opcodes if not any(_is(code_, one) for code_ in code)]
    if unknown:
        raise LessonError(f"{name}'s loop has no {', '.join(unknown)}")
    wanted = [(i, one) for i, one in enumerate(code) if not opcodes or any(_is(one, op) for op in opcodes)]
    chosen = [pair for pair in wanted if pair[0] >= first][:lines]
    if not chosen:
        raise LessonError(f"{name}'s loop has {len(code)} instructions; first is {first}")
    body = "\n".join(f"{i:4}  {one.predicate:>5} {one.name} {one.operands}".rstrip() for i, one in chosen)
    only = f", its {', '.join(opcodes)} only" if opcodes else ""
    says = f"{name}: the loop over K/V tiles, {len(code)} instructions{only}, from place {first}"
    return Shown(f"{says}\n\n```\n{body}\n```", f"{says}\n\n{body}")


def _is(code: mix.Instruction, what: str) -> bool:
    return what in (code.name.split(".")[0], mix.opcode(code))


def jumped_over(name: str) -> list[mix.Instruction]:
    """Of the loop, what the branch between the two products jumps over where a tile needs no mask; [] without one."""
    code = loop(name)
    place = {label: i for i, one in enumerate(code) for label in one.label.split()}
    products = [i for i, one in enumerate(code) if mix.opcode(one) == "HMMA"]
    for i, one in enumerate(code):
        ahead = one.name == "BRA" and place.get(one.target, -1) > i
        if ahead and products[0] < i < products[-1]:
            return list(code[i + 1 : place[one.target]])
    return []
