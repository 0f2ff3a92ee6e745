"""Execute a notebook from top to bottom, as a reader does who opens it and runs all."""

from __future__ import annotations

import os
import re

from tools.lesson.shown import STATIC
from tools.notebooks.pair import Pair, from_text

LIMIT_S = 600


class Failed(Exception):
    """A cell raised. The message is the cell and the exception."""


def execute(pair: Pair, limit_s: float = LIMIT_S):
    """The text's notebook with its outputs. Raises Failed."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = from_text(pair)
    environment = os.environ | {STATIC: "1", "MPLBACKEND": "agg", "PYTHONWARNINGS": "error::DeprecationWarning:lesson"}
    client = NotebookClient(
        notebook, timeout=limit_s, resources={"metadata": {"path": str(pair.text.parent)}}, record_timing=False
    )
    client.extra_arguments = ["--log-level=ERROR"]  # it warns of its port at every start
    try:
        with client.setup_kernel(env=environment):
            for number, cell in enumerate(notebook.cells):
                client.execute_cell(cell, number)
    except CellExecutionError as failure:
        raise Failed(f"{pair.name}: {_plain(str(failure))}") from None
    except (CellTimeoutError, DeadKernelError) as failure:
        raise Failed(f"{pair.name}: {type(failure).__name__}: {str(failure).strip().splitlines()[0]}") from None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    notebook.metadata["language_info"] = {"name": "python"}  # the kernel adds its version: not the lesson's business
    notebook.metadata.pop("widgets", None)
    return notebook


def _plain(text: str) -> str:
    """Without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text).strip()


def _joined(outputs: list) -> list:
    """Streams of one kind, which come in pieces by chance of timing, in one."""
    joined: list = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined
