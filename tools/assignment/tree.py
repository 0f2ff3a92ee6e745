"""Which files go where: what a handout ships, what the grader ships, what a student's process gets to see."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from stages import STAGES, Stage
from tools.assignment.definition import ROOT, Assignment, DefinitionError
from tools.assignment.strip import strip

SKIP = ("__pycache__", ".ipynb_checkpoints")
# What the frame of any stage needs, by backend; folders whole.
FRAME = ("stages/__init__.py", "stages/common")
# Of those, what only CUDA needs; and its tools.
CUDA_FRAME = ("cuda.py", "tiles.py", "params.cuh", "ptx.cuh")
CUDA_TOOLS = (
    "tools/emulator", "tools/edited.py", "tools/results.py", "tools/bench/__init__.py", "tools/bench/shapes.py",
    "tools/assignment/symbols.py",
)  # fmt: skip
# What may be said is checked before handing in as it is afterwards, so the list goes with the handout.
CHECK_TOOLS = (
    "tools/__init__.py", "tools/check.py", "tools/regions.py", "tools/assignment/__init__.py",
    "tools/assignment/allowed.py", "tools/assignment/through.py",
)  # fmt: skip
REFERENCE = ("reference",)
GRADER_TOOLS = (
    "tools/assignment", "tools/results.py", "tools/machine.py", "tools/nvrtc.py", "tools/bench/__init__.py",
    "tools/bench/shapes.py", "tools/sass/__init__.py", "tools/sass/mix.py", "tools/sass/occupancy.py",
    "tools/sass/records.py", "tools/edited.py",
)  # fmt: skip
# A handout has no Makefile: what its files say of `make`, and what they say there.
WITHOUT_MAKE = {
    "stages/common/record.py": ("`make doctor` says how to get it", "README.md says how, under Set-up"),
    "reference/activations/README.md": (", and `make demo` runs every stage on them", ""),
    "tools/emulator/README.md": (
        r"the environment that `make` sets up|"
        r"Or `make emulate STAGE=s20`.*?further options are `EMULATE_ARGS=\"--summary\"`\.\n\n",
        lambda found: "" if found[0].startswith("Or") else "see README.md, Set-up",
    ),
    "stages/s21_swizzle/README.md": (r'make emulate STAGE="([\w ]+)"', r"python -m tools.emulator \1"),
}
WORKER_TOOLS = ("tools/__init__.py", "tools/emulator")
WORKER_FILES = ("__init__.py", "overlap.py", "places.py", "worker.py", "tensors.py", "through.py", "yardstick.py")


def files(root: Path, paths: Iterable[str]) -> Iterator[Path]:
    """The files of `paths`, relative to root; of a folder all, but caches."""
    for path in paths:
        full = root / path
        if full.is_file():
            yield Path(path)
            continue
        for found in sorted(full.rglob("*")):
            relative = found.relative_to(root)
            if found.is_file() and not any(part in SKIP for part in relative.parts) and found.suffix != ".pyc":
                yield relative


def copy(root: Path, paths: Iterable[str], to: Path) -> None:
    for relative in files(root, paths):
        target = to / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / relative, target)


def earlier(assignment: Assignment) -> list[Stage]:
    """The stages before the assignment's own, which ship whole."""
    return [stage for stage in STAGES if stage.number < assignment.stages[0].number]


def has_cuda(assignment: Assignment) -> bool:
    """Whether a kernel in the handout needs the emulator."""
    return any(stage.capability.backend == "cuda" for stage in (*earlier(assignment), *assignment.stages))


def shipped(assignment: Assignment) -> list[str]:
    """What a handout has of the repository as it is."""
    frame = [path.as_posix() for path in files(ROOT, FRAME)]
    if not has_cuda(assignment):
        frame = [path for path in frame if Path(path).name not in CUDA_FRAME]
    paths = [*frame, *CHECK_TOOLS, *REFERENCE, *(CUDA_TOOLS if has_cuda(assignment) else ())]
    paths += [f"stages/{stage.name}" for stage in earlier(assignment)]
    for stage in assignment.stages:
        paths.append(f"stages/{stage.name}/__init__.py")
        if stage.capability.backend == "cuda":
            paths.append(f"stages/{stage.name}/stage.py")
    return paths


def stripped(assignment: Assignment, stage: Stage) -> str:
    """The stage's kernel file as it is handed out."""
    return strip(stage.kernel_file.read_text(encoding="utf-8"), assignment.tasks_of(stage))


def handout(assignment: Assignment, to: Path) -> None:
    """The repository's part of a handout: earlier stages whole, the assignment's own with holes."""
    copy(ROOT, shipped(assignment), to)
    for stage, path in zip(assignment.stages, assignment.submitted):
        (to / path).write_text(stripped(assignment, stage), encoding="utf-8")
        idea = assignment.ideas.get(stage.short, stage.idea)
        card = f"# {stage.short}: {stage.title}\n\n{idea}\n\nYours to write: see README.md of the handout.\n"
        (to / path).with_name("README.md").write_text(card, encoding="utf-8")
        record = (to / path).with_name("__init__.py")
        record.write_text(_with_idea(record.read_text(encoding="utf-8"), idea), encoding="utf-8")
    _leave_out(assignment, to)
    for name, (old, new) in WITHOUT_MAKE.items():
        if (to / name).is_file():
            text = (to / name).read_text(encoding="utf-8")
            (to / name).write_text(re.sub(old, new, text, flags=re.S), encoding="utf-8")


def _with_idea(record: str, idea: str) -> str:
    """The text of a stage's record with another idea."""
    (value,) = (
        node.value for node in ast.walk(ast.parse(record)) if isinstance(node, ast.keyword) and node.arg == "idea"
    )
    return record.replace(ast.get_source_segment(record, value), json.dumps(idea, ensure_ascii=False), 1)


def _leave_out(assignment: Assignment, to: Path) -> None:
    """Take `omit`'s sentences out of the earlier stages' cards, however they are broken into lines."""
    for sentence in assignment.omit:
        pattern, found = r"[ \t]*" + r"\s+".join(map(re.escape, sentence.split())), 0
        for stage in earlier(assignment):
            card = to / "stages" / stage.name / "README.md"
            text, count = re.subn(pattern, "", card.read_text(encoding="utf-8"))
            card.write_text(text, encoding="utf-8")
            found += count
        if not found:
            path = assignment.folder / "assignment.toml"
            raise DefinitionError(f"{path}: omit has {sentence!r}, which no card of an earlier stage says")


def for_worker(assignment: Assignment, to: Path, root: Path = ROOT) -> None:
    """A tree with the frame, the records of all stages up to the last, and no kernel: the submission's come into it."""
    copy(root, (*FRAME, *WORKER_TOOLS), to)
    copy(root, (f"tools/assignment/{name}" for name in WORKER_FILES), to)
    last = assignment.stages[-1]
    for stage in STAGES:
        if stage.number > last.number:
            continue
        paths = [f"stages/{stage.name}/__init__.py"]
        if stage in assignment.stages and stage.capability.backend == "cuda":
            paths.append(f"stages/{stage.name}/stage.py")
        copy(root, paths, to)


def archive(folder: Path, to: Path) -> None:
    """A zip of the folder's contents, the same for the same contents; executables stay so."""
    import zipfile

    temporary = to.with_name(f".{to.name}.part")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
        for relative in files(folder, ["."]):
            info = zipfile.ZipInfo(relative.as_posix(), (2020, 1, 1, 0, 0, 0))
            info.external_attr = (0o755 if os.access(folder / relative, os.X_OK) else 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, (folder / relative).read_bytes())
    os.replace(temporary, to)
