"""The notebook's side of an assignment: a cell that begins with %%task STAGE NAME is written into the stage's file.

import workbench            once, at the top of the notebook
%%task s02 merge            first line of a cell; the rest goes between the file's two SOLUTION comments
workbench.written("s02")    complains while something of the stage is not written yet
"""

import json
import os
import re
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
NOT_WRITTEN = "YOUR CODE HERE"


def kernel_file(stage: str) -> Path:
    """The file that the stage's tasks are in."""
    about = json.loads((HERE / "assignment.json").read_text(encoding="utf-8"))
    for path in about["submit"]:
        if path.split("/")[1].startswith(f"{stage}_"):
            return HERE / path
    raise ValueError(f"stage is {stage!r}; accepted: {', '.join(about['stages'])}")


def put(stage: str, name: str, body: str) -> None:
    """Put `body` between the comments of task `name`; a body that is not written yet puts the stub back."""
    path = kernel_file(stage)
    text = path.read_text(encoding="utf-8")
    comment = "//" if path.suffix == ".cu" else "#"
    begin = rf"^([ \t]*){comment} BEGIN SOLUTION {re.escape(name)}:[^\n]*\n"
    found = re.search(rf"{begin}(.*?)^[ \t]*{comment} END SOLUTION *$", text, re.S | re.M)
    if found is None:
        raise ValueError(f"task is {name!r}; {path.name} of {stage} has no such SOLUTION comments")
    lines = [line for line in body.splitlines() if not re.match(r"\s*###\s*(BEGIN|END) SOLUTION", line)]
    body = textwrap.dedent("\n".join(lines)).strip("\n")
    if not body or NOT_WRITTEN in body or "NotImplementedError" in body:
        stubs = json.loads((HERE / "stubs.json").read_text(encoding="utf-8"))
        new = stubs[f"{stage} {name}"]
    else:
        indented = (
            found[1] + line if line.strip() and not line.startswith("#pragma") else line for line in body.split("\n")
        )
        new = "\n".join(indented) + "\n"
    changed = text[: found.start(2)] + new + text[found.end(2) :]
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(changed, encoding="utf-8")
    os.replace(temporary, path)


def written(stage: str) -> None:
    """Raises AssertionError while a task of the stage is a stub."""
    text = kernel_file(stage).read_text(encoding="utf-8")
    missing = re.findall(rf'"{NOT_WRITTEN}: (\w+):', text)
    assert not missing, f"not written yet: {', '.join(missing)}"


def load_ipython_extension(shell) -> None:
    def task(line: str, cell: str) -> None:
        words = line.split()
        if len(words) != 2:
            raise ValueError(f"%%task {line}; accepted: %%task STAGE NAME")
        put(*words, cell)
        print(f"written into {kernel_file(words[0]).relative_to(HERE)}")

    shell.register_magic_function(task, "cell", "task")


try:
    from IPython import get_ipython
except ModuleNotFoundError:
    pass
else:
    if get_ipython() is not None:
        load_ipython_extension(get_ipython())
