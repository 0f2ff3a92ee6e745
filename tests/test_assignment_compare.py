"""Which submissions are alike: a renamed copy is found, and honest work of two people is far from it."""

from __future__ import annotations

import re
import textwrap

import pytest

from tools.assignment import __main__ as command
from tools.assignment.compare import alike, of_solution, of_submission, pairs, runs, tokens
from tools.assignment.definition import load
from tools.assignment.grading import grade
from tools.assignment.strip import solution_lines
from tools.assignment.tree import stripped

# The three tasks of ps1's second file by somebody who solved them in another way than the course does.
OTHER = {
    "online_softmax_step": """\
tile_max = np.amax(S, 1)
grew = tile_max > m
new = m.copy()
new[grew] = tile_max[grew]
dead = np.isneginf(new)
base = new.copy()
base[dead] = 0.0
keep = np.zeros_like(m)
seen = ~np.isneginf(m)
keep[seen] = np.exp(m[seen] - base[seen])
weights = np.exp(S - base.reshape(-1, 1))
return np.einsum("i,ij->ij", keep, O) + np.dot(weights, V_j), new, l * keep + weights @ np.ones(len(V_j))
""",
    "key_loop": """\
offset = seqlen_k - seqlen_q
start = 0
while start < seqlen_k:
    stop = min(start + Bc, seqlen_k)
    scores = np.einsum("id,jd->ij", Q_i, K[start:stop]) * softmax_scale
    if causal:
        for row, query in enumerate(rows):
            scores[row, max(0, query + offset + 1 - start) :] = -np.inf
    O_i, m_i, l_i = online_softmax_step(O_i, m_i, l_i, scores, V[start:stop])
    start = stop
""",
    "merge": """\
top = np.maximum(L_a, L_b)
none = np.isneginf(top)
base = np.where(none, 0, top)
e_a = np.exp(L_a - base)
e_b = np.exp(L_b - base)
total = e_a + e_b
total[none] = 1
out = (O_a * e_a[:, None] + O_b * e_b[:, None]) / total[:, None]
return out, np.where(none, -np.inf, base + np.log(total))
""",
}


def written(assignment, texts: dict[str, str]) -> dict[str, str]:
    """The handout's files with `texts` (task -> lines) between their comments."""
    made = {}
    for stage, name in zip(assignment.stages, assignment.submitted):
        lines, inside = [], False
        for line in stripped(assignment, stage).splitlines():
            inside = inside and "END SOLUTION" not in line
            if not inside:
                lines.append(line)
            found = re.search(r"BEGIN SOLUTION (\w+)", line)
            if found and found[1] in texts:
                inside = True
                indent = re.match(" *", line)[0]
                lines += textwrap.indent(textwrap.dedent(texts[found[1]]), indent).splitlines()
        made[name] = "\n".join(lines) + "\n"
    return made


def hand_in(folder, files: dict[str, str]):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def courses_own(assignment) -> dict[str, str]:
    return {
        task.name: "\n".join(solution_lines(task.stage.kernel_file.read_text(encoding="utf-8"), task))
        for task in assignment.tasks
    }


def renamed(text: str) -> str:
    """A copy whose names, layout and comments are others."""
    for old, new in (("m_new", "biggest"), ("m_safe", "q7"), ("alpha", "shrink"), ("part", "x"), ("keys", "cols")):
        text = re.sub(rf"\b{old}\b", new, text)
    text = re.sub(r"#[^\n]*", "# mine", text).replace(" * ", "*").replace(", ", ",  ")
    return text.replace("\n", "\n\n")


@pytest.fixture
def three(tmp_path):
    """ann has the course's solution, ben a renamed copy of it, eve her own."""
    assignment = load("ps1")
    texts = {task: text for task, text in courses_own(assignment).items() if task != "naive"}
    hand_in(tmp_path / "ann", written(assignment, texts))
    hand_in(tmp_path / "ben", written(assignment, {task: renamed(text) for task, text in texts.items()}))
    hand_in(tmp_path / "eve", written(assignment, OTHER))
    return tmp_path


def test_a_renamed_copy_is_found_and_honest_work_is_not(three):
    assignment = load("ps1")
    found = {who: of_submission(assignment, three / who)[0] for who in ("ann", "ben", "eve")}
    assert all(set(tasks) == {"s02 online_softmax_step", "s02 key_loop", "s02 merge"} for tasks in found.values())
    first, *others = pairs(found)
    assert (first.a, first.b) == ("ann", "ben") and first.alike == 1 and first.most == 1
    assert all(0 <= pair.alike < 0.3 and pair.most < 0.4 for pair in others), others
    own = of_solution(assignment)
    assert all(alike(found["ben"][task], own[task]) == 1 for task in found["ben"])
    assert all(alike(found["eve"][task], own[task]) < 0.4 for task in found["eve"])


def test_the_honest_work_is_right(three):
    """Else it would be no wonder that it is another."""
    grades = grade(load("ps1"), three / "eve", "x", select=lambda test: test.stage.short == "s02")
    assert grades.graded and all(one.outcome.ok for one in grades.graded), grades.graded


def test_what_is_printed(three, capsys):
    assert command.main(["compare", "ps1", str(three), "--top", "1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "ann ben 100%" in printed and "eve" not in printed.partition("not compared")[0]
    assert "not compared: ann: s01 naive: not written" in printed
    assert "Alike is not copied" in printed and "helpers outside the comments" in printed


def test_what_everybody_was_given_does_not_count(tmp_path):
    """ps5's starters have the loop that is to be changed: who leaves it as it is has written nothing."""
    assignment = load("ps5")
    for who in ("ann", "ben"):
        files = written(assignment, {})
        text = next(iter(files.values()))
        hand_in(tmp_path / who, {assignment.submitted[0]: re.sub(r".*YOUR CODE HERE.*\n", "", text)})
    found, _ = of_submission(assignment, tmp_path / "ann")
    assert {task: sum(mine.values()) for task, mine in found.items()} == {"s24 k_pipeline": 0, "s24 v_pipeline": 0}
    assert all(pair.alike == 0 for pair in pairs({"ann": found, "ben": found}))


def test_files_without_their_comments(tmp_path):
    assignment = load("ps3")
    (path,) = assignment.submitted
    hand_in(tmp_path / "ann", {path: "int main() { return 0; }\n"})
    hand_in(tmp_path / "ben", {path: "// BEGIN SOLUTION swizzle: x\n"})
    assert of_submission(assignment, tmp_path / "ann") == ({}, ["s21 swizzle: no such comments"])
    assert "not closed" in of_submission(assignment, tmp_path / "ben")[1][0]
    assert of_submission(assignment, tmp_path / "nobody")[1]


def test_the_courses_own_file_is_named(tmp_path):
    """It lacks the comments of tasks that only the handout marks."""
    assignment = load("ps1")
    own = {path: stage.kernel_file.read_text("utf-8") for stage, path in zip(assignment.stages, assignment.submitted)}
    hand_in(tmp_path, own)
    found, problems = of_submission(assignment, tmp_path)
    assert list(found) == ["s01 naive", "s02 online_softmax_step"]
    assert problems == [f"s02 {task}: it is the course's own file" for task in ("key_loop", "merge")]


def test_tokens():
    assert tokens('x = np.exp(y)  # "why"\n', ".py") == ["name", "=", "name", ".", "exp", "(", "name", ")"]
    assert tokens('for k in "a # b":', ".py") == ["for", "name", "in", '"a # b"', ":"]
    assert tokens("/* a\n b */ float x = 1.5f; // c", ".cu") == ["float", "name", "=", "1.5f", ";"]


def test_the_same_runs_in_another_order_are_the_same():
    a, b = "x = a + b * c\n", "while not (p and q): pass\n"
    assert alike(runs(a + b, ".py"), runs(b + a, ".py")) > 0.5
    assert alike(runs(a, ".py"), runs(b, ".py")) == 0 == alike(runs("", ".py"), runs("", ".py"))


@pytest.mark.parametrize(
    "arguments, says", (((".", "--top", "0"), "--top is 0"), (("/nowhere",), "FOLDER is '/nowhere'"))
)
def test_wrong_arguments(capsys, arguments, says):
    with pytest.raises(SystemExit) as stopped:
        command.main(["compare", "ps1", *arguments])
    assert stopped.value.code == 2 and says in capsys.readouterr().err
