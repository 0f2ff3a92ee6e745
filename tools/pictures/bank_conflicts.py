"""Lanes against the banks of shared memory: of a stage as the emulator ran it, or of addresses or a swizzle of yours.

    draw([of_stage("s20"), of_stage("s21")])
    draw([of_swizzle(lambda row, chunk: chunk ^ row // 2 % 4)])
    draw_table(lambda row, chunk: (chunk + row) % 8, headdim=64)

Shared memory has 32 banks of 4 bytes; word w is in bank w % 32. An access is served in passes of up to 128 bytes, an
ldmatrix one 8 × 8 matrix at a time: eight lanes, 16 bytes each. Where lanes want different words of one bank, the pass
takes a wavefront for each. A chunk is eight elements, 16 bytes; a swizzle f(row, chunk) says in which chunk's place of
its row a chunk lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tools.emulator.banks import BANKS, KNOWN, WORD
from tools.emulator.report import Pass
from tools.pictures import canvas
from tools.plot import style

Swizzle = Callable[[int, int], int]
LANES, CHUNK, LINE = 32, 16, 128  # bytes of a chunk; of all banks once
GROUPS = LINE // CHUNK  # of four banks: what a chunk fills


@dataclass(frozen=True)
class Access:
    """One instruction of a warp over shared memory.

    label: of what; op: which; addresses: of the 32 lanes in bytes, None: takes no part; passes: lanes and wavefronts.
    """

    label: str
    op: str
    bytes_per_lane: int
    addresses: tuple[int | None, ...]
    passes: tuple[Pass, ...]

    @property
    def wavefronts(self) -> int:
        return sum(one.wavefronts for one in self.passes)

    @property
    def ways(self) -> int:
        """The wavefronts of the worst pass: "8-way conflict"; 1 is none."""
        return max(one.wavefronts for one in self.passes)

    def banks(self, lane: int) -> list[int]:
        """Of the lane's words."""
        return [word % BANKS for word in _words(self.addresses[lane], self.bytes_per_lane)]


def identity(row: int, chunk: int) -> int:
    """s20: chunk c of every row lies in the same four banks."""
    return chunk


def xor(row: int, chunk: int) -> int:
    """s21: eight rows in succession permute the eight chunks of 128 bytes in eight different ways."""
    return chunk ^ row % 8


def passes(addresses: Sequence[int | None], bytes_per_lane: int) -> tuple[Pass, ...]:
    """How shared memory serves an access: which lanes at a time, and in how many wavefronts.

    Raises ValueError for other than 32 lanes, other than 1, 2, 4, 8 or 16 bytes, and for addresses that are no
    multiple of them.
    """
    if len(addresses) != LANES:
        raise ValueError(f"addresses are {len(addresses)}; accepted: {LANES}, None for a lane that takes no part")
    if bytes_per_lane not in (1, 2, 4, 8, 16):
        raise ValueError(f"bytes_per_lane is {bytes_per_lane!r}; accepted: 1, 2, 4, 8, 16")
    for lane, address in enumerate(addresses):
        if address is not None and (address < 0 or address % bytes_per_lane):
            raise ValueError(f"addresses[{lane}] is {address}; accepted: multiples of {bytes_per_lane} from 0 up")
    at_a_time = LANES if bytes_per_lane <= WORD else LINE // bytes_per_lane
    served = []
    for first in range(0, LANES, at_a_time):
        lanes = tuple(lane for lane in range(first, first + at_a_time) if addresses[lane] is not None)
        if lanes:
            words = {word for lane in lanes for word in _words(addresses[lane], bytes_per_lane)}
            most = max(np.bincount([word % BANKS for word in words]))
            served.append(Pass(lanes, int(most)))
    return tuple(served)


def _words(address: int, bytes_per_lane: int) -> range:
    return range(address // WORD, address // WORD + max(1, bytes_per_lane // WORD))


def of_addresses(addresses: Sequence[int | None], bytes_per_lane: int = CHUNK, label: str = "by hand") -> Access:
    """The access of 32 lanes that want `bytes_per_lane` bytes at their addresses. Raises as `passes`."""
    addresses = tuple(None if address is None else int(address) for address in addresses)
    op = "ldmatrix" if bytes_per_lane == CHUNK else "ld.shared"
    return Access(label, op, bytes_per_lane, addresses, passes(addresses, bytes_per_lane))


def of_swizzle(
    f: Swizzle, *, headdim: int = 128, first_row: int = 0, chunk: int = 0, row_chunks: int | None = None,
    label: str = "",
) -> Access:  # fmt: skip
    """The ldmatrix.x4 of a 16 × 16 block of a tile [rows][headdim] of 16-bit elements whose chunks lie as `f` says.

    first_row, chunk: where the block begins; lane i gives the address of row i % 16, chunk `chunk` + i // 16.
    row_chunks: by how many chunks one row lies behind the other (default: headdim / 8; more is padding).
    Raises ValueError for an f that is no swizzle: see `swizzle_table`.
    """
    stride = headdim // 8 if row_chunks is None else row_chunks
    places = swizzle_table(f, headdim, rows=first_row + 16, row_chunks=row_chunks)
    if not 0 <= chunk < places.shape[1] - 1:
        raise ValueError(f"chunk is {chunk}; accepted: 0 to {places.shape[1] - 2}, for the block has two")
    rows = [first_row + lane % 16 for lane in range(LANES)]
    addresses = [(row * stride + int(places[row, chunk + lane // 16])) * CHUNK for lane, row in enumerate(rows)]
    return of_addresses(addresses, label=label or getattr(f, "__name__", "swizzle").replace("<lambda>", "your swizzle"))


def of_stage(stage: str, of: str = "K", *, headdim: int = 128, dtype: str = "bfloat16") -> Access:
    """What a CUDA stage does, as the emulator ran it. of: the loads of "Q", "K" or "V", or "O", the stores of O.

    Needs a C++ compiler (RuntimeError). Raises NoAccess where the stage makes no such access.
    """
    from stages import get
    from tools.emulator import banks, missing

    if of not in KNOWN:
        raise ValueError(f"of is {of!r}; accepted: {', '.join(KNOWN)}")
    if missing():
        raise RuntimeError(f"{stage} cannot be emulated: {missing()}")
    record = get(stage)
    trace = banks.picture(record.short, record, headdim, dtype, of).trace
    # Lanes that took no part have no address: the trace leaves there whatever it was.
    there = {lane for one in trace.passes for lane in one.lanes}
    addresses = tuple(address if lane in there else None for lane, address in enumerate(trace.addresses))
    label = f"{record.short}: {trace.op} of {of}" if of != "O" else f"{record.short}: stores of O"
    return Access(label, trace.op, trace.bytes_per_lane, addresses, trace.passes)


def swizzle_table(f: Swizzle, headdim: int = 128, rows: int = 8, row_chunks: int | None = None) -> np.ndarray:
    """[rows, headdim / 8]: in which chunk's place of its row chunk c of row r lies, f(r, c).

    row_chunks: see `of_swizzle`. Raises ValueError, naming the row, where f loses a chunk: two in one place, or one
    outside of its row.
    """
    chunks = headdim // 8
    if headdim < 16 or headdim % 8:
        raise ValueError(f"headdim is {headdim}; accepted: multiples of 8 from 16 up")
    stride = chunks if row_chunks is None else row_chunks
    if stride < chunks:
        raise ValueError(f"row_chunks is {row_chunks}; accepted: {chunks} or more, for a row has so many")
    name = getattr(f, "__name__", "f").replace("<lambda>", "f")
    table = np.array([[f(row, chunk) for chunk in range(chunks)] for row in range(rows)], dtype=np.int64)
    for row, places in enumerate(table):
        if places.min() < 0 or places.max() >= stride:
            raise ValueError(f"{name} puts a chunk of row {row} in place {places.min()} to {places.max()} of {stride}")
        taken = np.flatnonzero(np.bincount(places) > 1)
        if len(taken):
            both = np.flatnonzero(places == taken[0])[:2]
            raise ValueError(f"{name} puts chunks {both[0]} and {both[1]} of row {row} in the same place, {taken[0]}")
    return table


def bank_groups(f: Swizzle, headdim: int = 128, rows: int = 8, row_chunks: int | None = None) -> np.ndarray:
    """[rows, headdim / 8]: which four of the 32 banks chunk c of row r fills: group g is banks 4g to 4g + 3."""
    stride = headdim // 8 if row_chunks is None else row_chunks
    return (np.arange(rows)[:, None] * stride + swizzle_table(f, headdim, rows, row_chunks)) % GROUPS


def ways_of_columns(groups: np.ndarray) -> np.ndarray:
    """[headdim / 8]: wavefronts of the ldmatrix pass that reads chunk c of eight rows, the first eight of `groups`."""
    return np.array([np.bincount(column, minlength=GROUPS).max() for column in groups[:8].T])


GAP = 1.6  # rows of lanes between two passes, for the line of text
ROW = 0.105  # inches


@canvas.in_style
def draw(accesses: Sequence[Access] | None = None) -> canvas.Picture:
    """One or two accesses side by side: lanes down, banks across, pass by pass. Default: the loads of K in s20 and s21.

    Raises ValueError for none or more than two.
    """
    if accesses is None:
        accesses = [of_stage("s20"), of_stage("s21")]
    if not 1 <= len(accesses) <= 2:
        raise ValueError(f"accesses are {len(accesses)}; accepted: one or two")
    rows = max(sum(len(one.lanes) + GAP for one in access.passes) for access in accesses)
    fig = canvas.picture(
        1.75 + ROW * rows,
        "Bank conflicts of one instruction of a warp",
        "Lanes down, the 32 banks across. Marked: the banks of the words that a lane wants.",
        alt(accesses),
        "A bank hands out one 4-byte word at a time: a pass takes as many wavefronts as words are wanted of one bank.",
    )
    for ax, access in zip(fig.subplots(1, len(accesses), squeeze=False)[0], accesses, strict=True):
        _lanes(ax, access, rows)
    return fig


def _lanes(ax, access: Access, rows: float) -> None:
    canvas.bare(ax)
    ax.set_xlim(0, BANKS)
    ax.set_ylim(rows, 0)
    y, ticks = 0.0, {}
    for k, one in enumerate(access.passes):
        colour = style.COLOURS[k % 4]
        said = f"lanes {one.lanes[0]}–{one.lanes[-1]}: {one.wavefronts} wavefront" + "s" * (one.wavefronts > 1)
        bold = "bold" if one.wavefronts > 1 else "normal"
        ax.text(0, y + GAP * 0.8, said, va="baseline", fontsize=8.5, fontweight=bold)
        y += GAP
        canvas.cell(ax, 0, y, colour=canvas.PALE, size=(BANKS, len(one.lanes)))
        for row, lane in enumerate(one.lanes):
            for bank in access.banks(lane):
                canvas.cell(ax, bank, y + row, colour=colour)
            ticks[y + row + 0.5] = lane
        y += len(one.lanes)
    ax.set_title(f"{access.label}\n{access.wavefronts} wavefronts, {_ways(access.ways)}", loc="left", fontsize=10)
    ax.set_xticks([bank + 0.5 for bank in range(0, BANKS, 4)], [str(bank) for bank in range(0, BANKS, 4)])
    step = 2 if len(ticks) <= 16 else 4
    ax.set_yticks(list(ticks)[::step], [str(lane) for lane in ticks.values()][::step], fontsize=8)
    ax.set_xlabel("bank")
    ax.set_ylabel("lane")


def _ways(ways: int) -> str:
    return "no conflict" if ways == 1 else f"{ways}-way conflict"


def alt(accesses: Sequence[Access]) -> str:
    said = "; ".join(
        f"{a.label}: {a.wavefronts} wavefronts in {len(a.passes)} passes, {_ways(a.ways)}" for a in accesses
    )
    return f"The banks of shared memory that the lanes of one instruction want, pass by pass. {said}."


@canvas.in_style
def draw_table(f: Swizzle = xor, *, headdim: int = 64, rows: int = 8, row_chunks: int | None = None) -> canvas.Picture:
    """Where the chunks of a tile's first rows lie: a cell a chunk, its number the place, coloured by the four banks.

    Below each column are the wavefronts of the ldmatrix pass that reads it. Raises as `swizzle_table`.
    """
    places = swizzle_table(f, headdim, rows, row_chunks)
    groups = bank_groups(f, headdim, rows, row_chunks)
    ways = ways_of_columns(groups)
    chunks = places.shape[1]
    name = getattr(f, "__name__", "f").replace("<lambda>", "f")
    fig = canvas.picture(
        1.95 + 0.3 * (rows + 1),
        f"Where chunk c of row r lies: {name}(r, c)",
        f"Head dim {headdim}: a row is {chunks} chunks of 16 bytes. Number: the chunk's place in its row. Colour: "
        "the four "
        "banks there. An ldmatrix pass reads one column of eight rows: it wants eight colours.",
        f"A grid of {rows} rows and {chunks} chunks with the place of each, coloured by bank group. Conflicts a "
        "column: "
        f"{', '.join(map(str, ways))} ways.",
    )
    ax = fig.subplots()
    canvas.cells(ax, rows + 1.25, chunks)
    for (r, c), place in np.ndenumerate(places):
        group = int(groups[r, c])
        canvas.cell(ax, c, r, str(place), colour=canvas.tint(style.COLOURS[group], 0.75), fontsize=9)
    for c, n in enumerate(ways):
        bad = n > 1
        canvas.cell(
            ax, c, rows + 0.25, f"{n}", colour=canvas.DARK if bad else canvas.PALE, fontsize=9,
            fontweight="bold" if bad else "normal",
        )  # fmt: skip
    ax.set_xticks([c + 0.5 for c in range(chunks)], [str(c) for c in range(chunks)])
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("chunk c")
    ax.set_yticks([r + 0.5 for r in (*range(rows), rows + 0.25)], [*(f"row {r}" for r in range(rows)), "wavefronts"])
    handles = [canvas.Rectangle((0, 0), 1, 1, facecolor=canvas.tint(colour, 0.75)) for colour in style.COLOURS[:GROUPS]]
    ax.legend(
        handles, [f"{4 * g}–{4 * g + 3}" for g in range(GROUPS)], title="banks", loc="upper left",
        bbox_to_anchor=(1.01, 1.0), frameon=False, handlelength=1.2,
    )  # fmt: skip
    return fig
