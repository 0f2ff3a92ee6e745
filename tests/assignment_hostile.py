"""Broken and hostile submissions to ps1: ways in which what comes in can be no good.

    python -m tests.assignment_hostile FOLDER [N]

fills FOLDER with N submissions (200 by default), these among them, the others right or plausibly wrong, for
`python -m tools.assignment batch ps1 FOLDER`. To see that a batch survives it, interrupt it and call it again.
"""

from __future__ import annotations

import os
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.assignment_mistakes import PS1
from tests.test_mutants import mutate
from tools.assignment.definition import load

ASSIGNMENT = load("ps1")
S01, S02 = ASSIGNMENT.submitted


def source(path: str) -> str:
    stage = ASSIGNMENT.stages[ASSIGNMENT.submitted.index(path)]
    return stage.kernel_file.read_text(encoding="utf-8")


def put(folder: Path, path: str, text: str | bytes) -> None:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))


def solution(folder: Path) -> None:
    for path in ASSIGNMENT.submitted:
        put(folder, path, source(path))


def with_body(body: str, head: str = "") -> Callable[[Path], None]:
    """s01 with `body` at the start of naive_attention, and `head` at the top; s02 as it should be."""

    def make(folder: Path) -> None:
        solution(folder)
        text = source(S01).replace("    S = softmax_scale *", f"{body}    S = softmax_scale *", 1)
        put(folder, S01, text.replace("import numpy as np\n", f"import numpy as np\n{head}", 1))

    return make


def raw(data: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        solution(folder)
        put(folder, S01, data)

    return make


def linked(folder: Path) -> None:
    solution(folder)
    (folder / S01).unlink()
    (folder / S01).symlink_to("/etc/passwd")


def piped(folder: Path) -> None:
    solution(folder)
    (folder / S01).unlink()
    os.mkfifo(folder / S01)


def a_folder(folder: Path) -> None:
    (folder / S01).mkdir(parents=True)


def a_bomb(folder: Path) -> None:
    """A zip of 200 kB whose file has 200 MB, with a link, and a path that leads out."""
    folder.rmdir()
    link = zipfile.ZipInfo(S02)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(S01, b"#" * (200 << 20))
        packed.writestr(link, "/etc/passwd")
        packed.writestr("../../../../escaped.py", "x")


def half_a_zip(folder: Path) -> None:
    folder.rmdir()
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(S01, source(S01))
        packed.writestr(S02, source(S02))
    path.write_bytes(path.read_bytes()[:3000])


def a_damaged_zip(folder: Path) -> None:
    """Its directory is whole, what it packs is not."""
    folder.rmdir()
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(S01, source(S01))
        packed.writestr(S02, source(S02))
    data = bytearray(path.read_bytes())
    data[80:200] = bytes(byte ^ 0x5A for byte in data[80:200])
    path.write_bytes(data)


def an_unusual_zip(folder: Path) -> None:
    folder.rmdir()
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr(S01, source(S01))


def a_text_called_zip(folder: Path) -> None:
    folder.rmdir()
    folder.with_suffix(".zip").write_text("my work", encoding="utf-8")


def zips_without_end(folder: Path) -> None:
    """A zip in a zip, ten times over."""
    folder.rmdir()
    path = folder.with_suffix(".zip")
    path.write_bytes(b"")
    for _ in range(10):
        inner = path.read_bytes()
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("submission.zip", inner)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "empty": lambda folder: None,
    "no_text": raw(bytes(range(256)) * 8),
    "zero_bytes": raw(b"import numpy\0"),
    "syntax_error": raw(b"def naive_attention(:\n"),
    "deep_brackets": raw(b"x = " + b"(" * 5000 + b")" * 5000),
    "deep_expression": raw(b"x = " + b"1+" * 3000 + b"1\n"),
    "deep_signs": raw(b"x = " + b"-" * 20_000 + b"1\n"),
    "too_large": raw(b"#" * (3 << 20)),
    "link": linked,
    "pipe": piped,
    "folder_for_a_file": a_folder,
    "zip_bomb": a_bomb,
    "half_a_zip": half_a_zip,
    "damaged_zip": a_damaged_zip,
    "unusual_zip": an_unusual_zip,
    "text_called_zip": a_text_called_zip,
    "zips_without_end": zips_without_end,
    "broken_notebook": lambda folder: put(folder, "ps1.ipynb", '{"cells": [{"cell_type": "code", "source": [1]}]}'),
    "notebook_of_another": lambda folder: put(
        folder, "ps1.ipynb", '{"cells": [{"cell_type": "code", "source": "%%task s21 swizzle\\nx"}]}'
    ),
    "endless": with_body("    while True:\n        pass\n"),
    "memory": with_body("    np.ones(1 << 33)\n    x = [np.ones(1 << 24) for _ in range(200)]\n"),
    "recursion": with_body("    return naive_attention(Q, K, V, softmax_scale, causal)\n"),
    "prints": with_body('    while True:\n        print("x" * 100_000)\n'),
    "crash": with_body("    np.lib.stride_tricks.as_strided(np.ones(3), (1 << 40,), (8,)).sum()\n"),
    "exits": with_body("    raise SystemExit(0)\n"),
    "kills": with_body("    os.kill(os.getppid(), 9)\n    os.kill(-1, 0)\n", "import os\n"),
    "forks": with_body("    while True:\n        os.fork()\n", "import os\n"),
    "wrong_results": with_body("    return [1, 2], {}\n"),
}


def fill(folder: Path, count: int) -> None:
    """Make `count` submissions, the hostile ones spread among the others."""
    folder.mkdir(parents=True, exist_ok=True)
    hostile = list(HOSTILE.items())
    every = max(1, count // len(hostile))
    for i in range(count):
        if i % every == every - 1 and i // every < len(hostile):
            name, make = hostile[i // every]
            (folder / f"student{i:03d}_{name}").mkdir()
            make(folder / f"student{i:03d}_{name}")
            continue
        mistake = PS1[i % len(PS1)]
        name = "solution" if i % 3 == 0 else mistake.mutant.name
        work = folder / f"student{i:03d}_{name}"
        solution(work)
        if i % 3:
            path = next(p for p, s in zip(ASSIGNMENT.submitted, ASSIGNMENT.stages) if s.short == mistake.mutant.stage)
            put(work, path, mutate(source(path), mistake.mutant))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        print(__doc__)
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    fill(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 200)
