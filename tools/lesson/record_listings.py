"""Record the machine code that the lessons read: docs/results/listings/NAME.sass. No GPU is needed.

    python -m tools.lesson.record_listings              compile all of them again and write what the compiler made
    python -m tools.lesson.record_listings s24          one of them
    python -m tools.lesson.record_listings --check      only say which are older than their kernels

After that the lessons that read them have to be executed again.

Exit codes: 0 all is well; 1 --check found a stale file, or a kernel does not compile; 2 wrong arguments, or no
compiler or disassembler.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools import nvrtc, results
from tools.lesson.listings import ARCH, FOLDER, WANTED, path_of, stale
from tools.sass import mix


def document(name: str, disassembler: Path) -> str:
    """The text of a file. Raises CompileError and DisassemblerError."""
    wanted = WANTED[name]
    made = nvrtc.compile_for(wanted.kernel, wanted.instantiation, ARCH)
    code = mix.main_loop(mix.parse(mix.disassemble(made.cubin, disassembler)))
    head = (
        f"// {name}: the loop over K/V tiles of {wanted.instantiation}, sm_{ARCH}; source {wanted.source}; registers "
        f"{made.registers}; NVRTC {nvrtc.compiler_version()}, nvdisasm {mix.disassembler_version(disassembler)}"
    )
    lines = [head]
    for number, one in enumerate(code):
        lines += [f"{label}:" for label in one.label.split()]
        lines.append(f"/*{number:04x}*/ {one.predicate:>5} {one.name} {one.operands}".rstrip() + " ;")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.lesson.record_listings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(WANTED)} (default: all)")
    p.add_argument("--check", action="store_true", help="compile nothing, write nothing")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    for name in args.names:
        if name not in WANTED:
            p.error(f"argument NAME: is {name!r}; accepted: {', '.join(WANTED)}")
    names = args.names or list(WANTED)
    if args.check:
        problems = [problem for name in names if (problem := stale(name))]
        print("\n".join(problems) or f"{len(names)} listings are of the kernels as they are", file=sys.stderr)
        return 1 if problems else 0
    disassembler = mix.find_disassembler()
    if disassembler is None:
        print(f"needs nvdisasm: pip install {mix.PACKAGE}", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            text = document(name, disassembler)
        except ImportError as problem:
            print(f"needs CuPy and NVRTC: {problem}", file=sys.stderr)
            return 2
        except (nvrtc.CompileError, mix.DisassemblerError) as problem:
            print(f"{name}: {problem}", file=sys.stderr)
            return 1
        results.write_text(path_of(name), text)
        print(path_of(name).relative_to(results.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
