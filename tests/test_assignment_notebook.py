"""Notebooks: what a cell says is what the file says, and a release gives nothing away."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.assignment_nbgrader import solved
from tools.assignment.build import TEMPLATES, readme, student
from tools.assignment.definition import load, names
from tools.assignment.leaks import distinctive, fold
from tools.assignment.notebook import gradable, notebook
from tools.assignment.tree import stripped
from tools.check import NOT_WRITTEN


def cells(text):
    return json.loads(text)["cells"]


@pytest.mark.parametrize("name", names())
def test_a_notebook(name):
    """It is valid; its points are the definition's; the student's has neither solutions nor hidden tests."""
    assignment = load(name)
    source = notebook(assignment, readme(assignment), source=True)
    released = notebook(assignment, readme(assignment), source=False)
    if importlib.util.find_spec("nbformat"):
        import nbformat

        for text in (source, released):
            nbformat.validate(nbformat.reads(text, as_version=4))
    points = sum(c["metadata"].get("nbgrader", {}).get("points", 0) for c in cells(source))
    assert points == sum(t.points for t in assignment.tests if gradable(t)) == assignment.points
    folded = fold(released.replace('\\"', '"'))
    assert not [line for line in distinctive(assignment) if line in folded]
    assert "HIDDEN" not in released and '"outputs": []' in released
    assert sum(
        f"%%task {t.stage.short} {t.name}" in c["source"] for t in assignment.tasks for c in cells(released)
    ) == len(assignment.tasks)


def workbench_in(folder):
    spec = importlib.util.spec_from_file_location(f"workbench_{folder.name}", folder / "workbench.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", names())
def test_cells_make_the_file(name, tmp_path):
    """The solution's cells, put into the handout, are the solution; unwritten ones put the stubs back."""
    assignment = load(name)
    student(assignment, tmp_path)
    bench = workbench_in(tmp_path)
    for stage, path in zip(assignment.stages, assignment.submitted):
        with pytest.raises(AssertionError, match="not written yet"):
            bench.written(stage.short)
        for cell in cells(notebook(assignment, "text", source=True)):
            head, _, body = cell["source"].partition("\n")
            if head.startswith(f"%%task {stage.short} "):
                bench.put(stage.short, head.split()[-1], body)
        bench.written(stage.short)
        wanted, got = stage.kernel_file.read_text(encoding="utf-8"), (tmp_path / path).read_text(encoding="utf-8")
        assert _code(got) == _code(wanted)
        for task in assignment.tasks_of(stage):
            bench.put(stage.short, task.name, "# YOUR CODE HERE\nraise NotImplementedError()")
        assert (tmp_path / path).read_text(encoding="utf-8") == stripped(assignment, stage)


def _code(text):
    """Without the markers, which a handout has around lines that the stage does not mark."""
    return [line for line in text.splitlines() if " SOLUTION" not in line]


def test_a_wrong_cell_says_so(tmp_path):
    student(load("ps1"), tmp_path)
    bench = workbench_in(tmp_path)
    with pytest.raises(ValueError, match="stage is 's99'; accepted: s01, s02"):
        bench.put("s99", "naive", "x")
    with pytest.raises(ValueError, match="task is 'nave'"):
        bench.put("s01", "nave", "x")


def test_a_solved_release_has_the_source_s_answers(tmp_path):
    assignment = load("ps1")
    for kind in (True, False):
        (tmp_path / f"{kind}.ipynb").write_text(notebook(assignment, "text", source=kind), encoding="utf-8")
    release = json.loads((tmp_path / "True.ipynb").read_text(encoding="utf-8"))
    for cell in release["cells"]:
        if cell["metadata"].get("nbgrader", {}).get("solution"):
            cell["source"] = NOT_WRITTEN
    (tmp_path / "release.ipynb").write_text(json.dumps(release), encoding="utf-8")
    text = solved(tmp_path / "True.ipynb", tmp_path / "release.ipynb")
    assert NOT_WRITTEN not in text and "np.maximum(m, S.max(axis=1))" in text


def test_the_handout_s_check(tmp_path):
    """As a student runs it: not written, then the functions' examples right and wrong."""
    assignment = load("ps1")
    student(assignment, tmp_path)

    def check(*arguments):
        return subprocess.run(
            [sys.executable, "-B", "check.py", *arguments], cwd=tmp_path, capture_output=True, text=True
        )

    assert check("s99").returncode == 2 and check("--help").returncode == 0
    path = tmp_path / assignment.submitted[1]
    text = assignment.stages[1].kernel_file.read_text(encoding="utf-8")
    path.write_text(text.replace("return w_a * O_a + w_b * O_b, L", "return w_a * O_a, L"), encoding="utf-8")
    done = check("s02", "--case", "d16-64x64")
    assert done.returncode == 1
    assert "merge, Merging two sets of keys: O wrong" in done.stdout
    assert "online_softmax_step, The step: the maximum grows: right" in done.stdout
    assert (TEMPLATES / "check.py").read_text(encoding="utf-8") == (tmp_path / "check.py").read_text(encoding="utf-8")
