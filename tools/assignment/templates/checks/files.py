"""What is wrong with a file before anything in it runs. The grader asks the same of what is handed in."""

import ast
import functools
import json
import re
import subprocess
import tempfile
from pathlib import Path

from stages import get
from tools.assignment.allowed import refusals

HERE = Path(__file__).resolve().parent.parent
MOST_BYTES = 1 << 20


@functools.cache
def about() -> dict:
    """What assignment.json says."""
    return json.loads((HERE / "assignment.json").read_text(encoding="utf-8"))


def file_of(stage: str) -> str:
    """The file of a stage that is handed in, as a path from here."""
    return about()["submit"][list(about()["stages"]).index(stage)]


def problems(stage: str) -> list[str]:
    """Why the grader would give nothing for the stage's file, or for part of it; empty when it would run it."""
    wrong = unreadable(stage)
    return [wrong] if wrong else refused(stage) + undefined(stage)


def unreadable(stage: str) -> str:
    """Why the file cannot be run at all, or ""."""
    name = file_of(stage)
    path = HERE / name
    if not path.is_file():
        return f"{name} is missing."
    data = path.read_bytes()
    if not data.strip():
        return f"{name} is empty."
    if len(data) > MOST_BYTES:
        return f"{name} is larger than {MOST_BYTES >> 20} MiB."
    try:
        text = _decode(data)
    except UnicodeDecodeError as error:
        return f"{name} is no text in UTF-8: byte {error.start} is not."
    if "\0" in text:
        return f"{name} is no text: it holds zero bytes."
    wrong = _syntax_cuda(text) if path.suffix == ".cu" else _syntax_python(text)
    return wrong and f"{name}, {wrong}"


def refused(stage: str) -> list[str]:
    """What the file says that no submission may say. One of these, and all tests of the file give nothing."""
    found = refusals(get(stage), _decode((HERE / file_of(stage)).read_bytes()), about()["accept"])
    return [f"{file_of(stage)}, {refusal}" for refusal in found]


def undefined(stage: str) -> list[str]:
    """What the tests call and the file does not define."""
    text = _decode((HERE / file_of(stage)).read_bytes())
    if file_of(stage).endswith(".cu"):
        names = set(re.findall(r"\w+", text))
        wanted = ["attention_kernel"]
    else:
        names = {name for node in ast.parse(text.encode()).body for name in _defined(node)}
        wanted = ["attention", *(e["function"] for e in about()["examples"] if e["stage"] == stage)]
        wanted += [t["function"] for t in about()["tiles"] if t["stage"] == stage]
    return [f"{file_of(stage)}: {name} is not defined." for name in dict.fromkeys(wanted) if name not in names]


def not_written(stage: str) -> list[str]:
    """The tasks of which the file still has the stub."""
    text = (HERE / file_of(stage)).read_text(encoding="utf-8")
    return [name for name in about()["tasks"][stage] if f"YOUR CODE HERE: {name}:" in text]


def _decode(data: bytes) -> str:
    return data.decode("utf-8-sig").replace("\r\n", "\n")


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [name.asname or name.name for name in node.names]
    return [name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]


def _syntax_python(text: str) -> str:
    try:
        compile(text.encode(), "kernel.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        shown = f": {error.text.strip()}" if error.text and error.text.strip() else ""
        return f"line {error.lineno} is no Python: {error.msg}{shown}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"line 1: Python cannot read it: {error}"
    return ""


def _syntax_cuda(text: str) -> str:
    """The compiler's first error, without instantiating anything: what is not written yet is none. "" without one."""
    from tools.assignment.symbols import COMMON, CPP, STANDARD, compiler, missing

    if missing():
        return ""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernel.cu").write_text(text, encoding="utf-8")
        options = (*STANDARD, "-w", f"-I{COMMON}", f"-I{CPP}", "-x", "c++", "-fsyntax-only", "kernel.cu")
        done = subprocess.run([*compiler(), *options], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    found = re.search(r"^kernel\.cu:(\d+):(?:\d+:)? (?:fatal )?error: (.*)", done.stderr, re.M)
    if found is None:
        return f"as the compiler says: {done.stderr.strip()[:300]}"
    return f"line {found[1]} does not compile: {found[2]}"
