"""The instructions of a kernel, read from the disassembler's listing and counted.

Counts are static: an instruction counts once, however often it runs. Those of the main loop say what one K/V tile
costs, as far as its inner loops are unrolled.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Family -> the opcodes in it. IMAD is one opcode for products, moves, shifts and additions: see `opcode`.
FAMILIES = {
    "HMMA": ("HMMA",),
    "HGMMA": ("HGMMA",),
    "LDSM": ("LDSM",),
    "STSM": ("STSM",),
    "LDGSTS": ("LDGSTS",),
    "UTMA": ("UTMALDG", "UTMASTG", "UTMAPF", "UBLKCP"),
    "LDS": ("LDS",),
    "STS": ("STS",),
    "LDG": ("LDG", "LD"),
    "STG": ("STG", "ST"),
    "LDL": ("LDL",),
    "STL": ("STL",),
    "MUFU": ("MUFU",),
    "FFMA": ("FFMA",),
    "FMUL": ("FMUL",),
    "FADD": ("FADD",),
    "FMNMX": ("FMNMX", "FMNMX3"),
    "F2FP": ("F2FP",),
    "FSEL": ("FSEL", "SEL"),
    "ISETP": ("ISETP",),
    "IADD3": ("IADD3", "VIADD", "IMAD.IADD"),
    "IMAD": ("IMAD", "IMAD.WIDE", "IMAD.HI"),
    "LOP3": ("LOP3",),
    "SHF": ("SHF", "IMAD.SHL"),
    "LEA": ("LEA",),
    "MOV": ("MOV", "IMAD.MOV", "CS2R"),
    "BAR": ("BAR",),
    "SHFL": ("SHFL",),
}
OTHER = "other"
SAYS = {
    "HMMA": "mma.sync",
    "HGMMA": "wgmma",
    "LDSM": "ldmatrix",
    "STSM": "stmatrix",
    "LDGSTS": "cp.async",
    "UTMA": "bulk copies",
    "LDS": "shared loads",
    "STS": "shared stores",
    "LDG": "global loads",
    "STG": "global stores",
    "LDL": "local loads: spills",
    "STL": "local stores: spills",
    "MUFU": "exp2, log2, 1/x",
    "FMNMX": "max, min",
    "F2FP": "packing to 16 bits",
    "FSEL": "selects: masks",
    "ISETP": "comparisons",
    "IADD3": "integer sums",
    "IMAD": "integer products",
    "LOP3": "bitwise logic",
    "SHF": "shifts",
    "LEA": "addresses",
    "MOV": "moves, zeroing",
    "BAR": "block barriers",
    "SHFL": "shuffles",
}
_FAMILY_OF = {opcode: family for family, opcodes in FAMILIES.items() for opcode in opcodes}

PACKAGE = "nvidia-cuda-nvdisasm"  # brings nvdisasm


class DisassemblerError(Exception):
    """The disassembler is there and fails. The message is its own."""


@dataclass(frozen=True)
class Instruction:
    """One line of a listing. name: "IMAD.MOV.U32"; predicate: "@!P0" or ""; target: the label of a branch."""

    label: str
    predicate: str
    name: str
    operands: str

    @property
    def target(self) -> str | None:
        found = re.search(r"`\((.+?)\)", self.operands)
        return found[1] if found else None


def find_disassembler() -> Path | None:
    """nvdisasm or, failing that, cuobjdump (which runs nvdisasm): on the PATH, in a CUDA toolkit, in NVIDIA's packages,
    in Triton's."""
    folders = [*os.get_exec_path(), "/usr/local/cuda/bin"]
    folders += [f"{root}/{cu}/bin" for root in _package_folders("nvidia") for cu in ("cu13", "cuda_nvdisasm")]
    folders += [f"{root}/cuda_cuobjdump/bin" for root in _package_folders("nvidia")]
    folders += [f"{root}/backends/nvidia/bin" for root in _package_folders("triton")]
    for name in ("nvdisasm", "cuobjdump"):
        path = shutil.which(name, path=os.pathsep.join(folders))
        if path:
            return Path(path)
    return None


def _package_folders(package: str) -> list[str]:
    spec = importlib.util.find_spec(package)
    return list(spec.submodule_search_locations or ()) if spec else []


def disassembler_version(path: Path) -> str:
    said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"V(\d+(?:\.\d+)+)", said)
    return found[1] if found else "unknown"


def disassemble(cubin: bytes, path: Path, *, lines: bool = False) -> str:
    """The listing (SASS) of a cubin. lines: with the source lines between (nvdisasm only). Raises DisassemblerError."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        is_nvdisasm = path.name == "nvdisasm"
        options = ["-c", *(["-gi"] if lines else [])] if is_nvdisasm else ["-sass"]
        done = subprocess.run([path, *options, file], capture_output=True, text=True, env=_with_tools_of(path))
    if done.returncode:
        raise DisassemblerError(f"{path}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _with_tools_of(path: Path) -> dict[str, str]:
    """cuobjdump looks for nvdisasm on the PATH."""
    return os.environ | {"PATH": f"{path.parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def parse(listing: str) -> list[Instruction]:
    """The instructions in order, without those that do nothing: padding behind the code, NOPs, and the loads predicated
    on false that the compiler puts before some cp.async. Both tools' listings."""
    found: list[Instruction] = []
    label = ""
    addresses: list[str] = []
    for line in listing.splitlines():
        if name := re.match(r"\s*(\.L_x_\d+|\$[\w$.]+|_Z\w+):\s*$", line):
            label = f"{label} {name[1]}".strip()
        elif code := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w)\s+)?([A-Z][\w.]*)\s*([^;]*);", line):
            found.append(Instruction(label, code[2] or "", code[3], code[4].strip()))
            addresses.append(code[1])
            label = ""
    found = _label_addresses(found, addresses)
    return [code for code in found if not (code.name == "NOP" or code.predicate == "@!PT" or _is_trap(code))]


def _label_addresses(found: list[Instruction], addresses: list[str]) -> list[Instruction]:
    """cuobjdump writes `BRA 0x730` without labels: every address becomes one."""
    if any(code.label for code in found):
        return found
    numeric = [int(address, 16) for address in addresses]
    return [
        Instruction(f"{address:#x}", code.predicate, code.name, re.sub(r"(0x[0-9a-f]+)$", r"`(\1)", code.operands))
        if _is_jump(code)
        else Instruction(f"{address:#x}", code.predicate, code.name, code.operands)
        for code, address in zip(found, numeric, strict=True)
    ]


def _is_jump(code: Instruction) -> bool:
    return code.name.split(".")[0] in ("BRA", "CALL", "JMP")


def _is_trap(code: Instruction) -> bool:
    """The branch to itself behind a function's end."""
    return code.name == "BRA" and not code.predicate and code.target in code.label.split()


def opcode(code: Instruction) -> str:
    """Without its modifiers; IMAD with the first, which says what it is used for. "IMAD.MOV.U32" -> "IMAD.MOV"."""
    base, _, modifiers = code.name.partition(".")
    if base == "IMAD":
        kind = modifiers.split(".")[0]
        if kind == "U32":  # IMAD.U32 R1, RZ, RZ, UR4 moves a uniform register
            kind = "MOV" if code.operands.replace(" ", "").split(",")[1:3] == ["RZ", "RZ"] else ""
        return f"IMAD.{kind}" if kind in ("MOV", "IADD", "SHL", "WIDE", "HI") else "IMAD"
    return base


def is_zeroing(code: Instruction) -> bool:
    """Whether all it does is to set a register to zero."""
    _, *sources = re.split(r",\s*", code.operands)
    return opcode(code) in FAMILIES["MOV"] and bool(sources) and all(source in ("RZ", "SRZ") for source in sources)


def count(code: Sequence[Instruction]) -> dict:
    """{"total", "zeroing", "opcodes": {opcode: count}}."""
    opcodes = Counter(opcode(one) for one in code)
    return {"total": len(code), "zeroing": sum(map(is_zeroing, code)), "opcodes": dict(sorted(opcodes.items()))}


def families(counted: dict) -> dict[str, int]:
    """The counts of `count` by family, every family named; the rest is "other"."""
    sums = dict.fromkeys((*FAMILIES, OTHER), 0)
    for name, number in counted["opcodes"].items():
        sums[_FAMILY_OF.get(name, OTHER)] += number
    return sums


def main_loop(code: Sequence[Instruction]) -> list[Instruction]:
    """The loop over K/V tiles: of the innermost loops around matrix instructions the one with most of them and, of
    equals, the shortest (a full tile needs no mask). Empty where there is no such loop.

    A loop is a natural loop of the control flow graph, not a range of addresses: a rare path may lie far behind.
    """
    loops = [(body, sum("MMA" in code[i].name for i in body)) for body in _natural_loops(code)]
    loops = [(body, products) for body, products in loops if products]
    innermost = [(body, n) for body, n in loops if not any(other < body for other, _ in loops)]
    if not innermost:
        return []
    body, _ = max(innermost, key=lambda loop: (loop[1], -len(loop[0])))
    return [code[i] for i in sorted(body)]


def _natural_loops(code: Sequence[Instruction]) -> list[set[int]]:
    """Bodies, as indices into `code`: for each head, all that reaches a jump back to it without leaving."""
    import networkx

    at = {label: i for i, one in enumerate(code) for label in one.label.split()}
    graph = networkx.DiGraph()
    graph.add_node(0)
    for i, one in enumerate(code):
        base = one.name.split(".")[0]
        target = at.get(one.target)
        jumps = base in ("BRA", "CALL", "JMP") and target is not None
        # BRA.DIV leaves for lanes that have lost each other: they come back to where they were.
        if jumps and not one.name.startswith("BRA.DIV"):
            graph.add_edge(i, target)
        ends = base in ("EXIT", "RET") or (base in ("BRA", "JMP") and not one.name.startswith("BRA.DIV"))
        if i + 1 < len(code) and (not ends or one.predicate or "UP" in one.operands.split("`")[0]):
            graph.add_edge(i, i + 1)
    reachable = graph.subgraph(networkx.descendants(graph, 0) | {0})
    above = networkx.immediate_dominators(reachable, 0)
    bodies: dict[int, set[int]] = {}
    for tail, head in reachable.edges:
        if head <= tail and _dominates(head, tail, above):
            without_head = reachable.subgraph(set(reachable) - {head})
            body = {tail, head} | (networkx.ancestors(without_head, tail) if tail != head else set())
            bodies.setdefault(head, set()).update(body)
    return list(bodies.values())


def _dominates(head: int, tail: int, above: dict[int, int]) -> bool:
    while tail > head and above.get(tail) not in (None, tail):
        tail = above[tail]
    return tail == head
