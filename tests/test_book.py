"""The book: it builds without a warning and without the network, its links lead somewhere, and what it says runs."""

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import matplotlib.figure
import numpy as np
import pytest

from docs import __main__ as command
from docs._ext import assemble, links, pictures, stage_page
from docs.samples import state, traffic
from stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CHAPTERS = sorted(path for path in DOCS.rglob("*.md") if path.relative_to(DOCS).parts[0] not in ("results", "plots"))
CHECKS = sorted((DOCS / "checks").glob("part*.md"))
FENCE = re.compile(r"^(?P<ticks>`{3,})(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=ticks)\s*$", re.DOTALL | re.MULTILINE)
lacking = [name for name in command.PACKAGES if not command.is_there(name)]
needs_sphinx = pytest.mark.skipif(bool(lacking), reason=f"not installed: {', '.join(lacking)} (the extra `docs`)")


# ---- the built book -------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page loads, what it links to, what can be linked to in it, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads, self.targets, self.anchors, self.comments, self.text = [], [], set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors.update(filter(None, (given.get("id"), given.get("name"))))
        if tag == "a" and given.get("href"):
            self.targets.append(given["href"])
        if tag == "link" and given.get("rel") not in ("canonical", "search", "index", "next", "prev", "author"):
            self.loads.append(given.get("href"))
        for name in ("src", "srcset", "poster", "data"):
            if tag != "a" and given.get(name):
                self.loads.append(given[name])

    def handle_comment(self, data):
        self.comments.append(data)

    def handle_data(self, data):
        self.text.append(data)


def built(folder: Path) -> dict[Path, Page]:
    """Every page by its path in the book; "." is the book's folder."""
    html = folder / "html"
    options = ["--out", str(html), "--source", str(folder / "source")]
    done = subprocess.run(
        [sys.executable, "-m", "docs", *options], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    paths = [path.relative_to(html) for path in html.rglob("*.html")]
    return {path: Page(html / path) for path in paths if path.parts[0] != "_static"} | {Path("."): html}


@needs_sphinx
def test_the_book(tmp_path):
    """One test, for it is built once: on several workers, each test of its own would build it again."""
    book = built(tmp_path)
    problems = []
    for holds in (
        every_stage_has_its_page,
        nothing_is_loaded_from_elsewhere,
        what_pages_load_is_there,
        links_lead_somewhere,
        markers_do_not_show,
        math_is_set_and_terms_are_linked,
    ):
        try:
            holds(book)
        except AssertionError as problem:
            problems.append(f"{holds.__name__}: {problem}")
    assert not problems, "\n\n".join(problems)


def every_stage_has_its_page(book):
    for stage in STAGES:
        page = book[Path(f"stages/{stage.name}.html")]
        text = " ".join(" ".join(page.text).split())
        assert stage.number < 10 or "What the step bought" in text
        assert f"{stage.short}-kernel" in page.anchors and f"{stage.short}-results" in page.anchors
        assert text.count("attention_kernel") or stage.capability.backend == "numpy"
        if stage.parent:
            assert f"../diffs/{stage.name}.html" in page.targets
            assert f"../stages/{stage.name}.html" in book[Path(f"diffs/{stage.name}.html")].targets


def nothing_is_loaded_from_elsewhere(book):
    outside = re.compile(r"^\s*(?:[a-z]+:)?//", re.IGNORECASE)
    found = {(str(path), load) for path, page in pages(book) for load in page.loads if load and outside.match(load)}
    assert not found
    for style in book[Path(".")].rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", style.read_text(encoding="utf-8"))
        assert not [url for url in urls if outside.match(url)], style


def what_pages_load_is_there(book):
    html = book[Path(".")]
    for path, page in pages(book):
        for load in filter(None, page.loads):
            if not load.startswith("data:"):
                assert (html / path.parent / unquote(load.partition("?")[0])).exists(), (path, load)
    assert list((html / "_static" / "mathjax" / "output" / "chtml" / "fonts" / "woff-v2").glob("*.woff"))


def links_lead_somewhere(book):
    html = book[Path(".")]
    broken = []
    for path, page in pages(book):
        for target in page.targets:
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = unquote(target).partition("#")
            to = Path(os.path.normpath(path.parent / file)) if file else path
            if not (html / to).is_file():
                broken.append((str(path), target))
            elif anchor and to in book and anchor not in book[to].anchors:
                broken.append((str(path), target))
    assert not broken


def markers_do_not_show(book):
    for path, page in pages(book):
        assert not any("inject" in comment for comment in page.comments), path
    assert "<!-- inject" not in "".join(book[Path("performance.html")].text)
    assert "NVIDIA" in "".join(book[Path("performance.html")].text)


def math_is_set_and_terms_are_linked(book):
    forward = book[Path("algorithm/forward.html")]
    assert any("mathjax/tex-chtml.js" in load for load in forward.loads)
    assert any("glossary.html#term-head-dim" in target for target in forward.targets)
    assert "$" not in "".join(forward.text).replace("\\$", "")


def pages(book):
    return [(path, page) for path, page in book.items() if isinstance(page, Page)]


# ---- what the chapters say ------------------------------------------------------------------------------------------


def blocks(path: Path, *languages: str):
    text = path.read_text(encoding="utf-8")
    return [match["code"] for match in FENCE.finditer(text) if match["language"].strip() in languages]


@pytest.mark.parametrize("path", [p for p in CHAPTERS if blocks(p, "pycon")], ids=lambda p: p.stem)
def test_what_chapters_show_runs(path):
    names: dict = {}
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    for number, code in enumerate(blocks(path, "pycon")):
        test = parser.get_doctest(code, names, f"{path.name}[{number}]", str(path), 0)
        assert test.examples, "a block without an example"
        said = io.StringIO()
        runner.run(test, out=said.write, clear_globs=False)
        names = test.globs
        assert not runner.failures, said.getvalue()


def test_chapters_paste_no_code():
    """Code is run (pycon), or comes from the sources; what is left are commands."""
    pasted = ("python", "py", "cuda", "c++", "cpp", "c")
    assert not [path.name for path in CHAPTERS if path not in CHECKS for _ in blocks(path, *pasted)]


QUESTION = re.compile(r"^## (?P<number>\d+)\. (?P<title>[^\n]*)\n(?P<body>.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)


def questions():
    for path in CHECKS:
        for match in QUESTION.finditer(path.read_text(encoding="utf-8")):
            yield pytest.param(match["body"], id=f"{path.stem}-{match['number']}")


def test_every_part_has_a_check():
    parts = stage_page.parts_of_the_book()
    assert {f"part{number}" for number in parts} == {path.stem for path in CHECKS}
    for path in CHECKS:
        assert len(QUESTION.findall(path.read_text(encoding="utf-8"))) >= 5


@pytest.mark.parametrize("body", list(questions()))
def test_answers_of_the_checks(body, tmp_path):
    question, details, answer = body.partition("<details><summary>Answer</summary>")
    found = {match["language"]: match["code"] for match in FENCE.finditer(question)}
    claims = [match["code"] for match in FENCE.finditer(answer) if match["language"] == "text"]
    assert details and len(found) == len(claims) == 1 and answer.rstrip().endswith("</details>")
    ((language, code),) = found.items()
    printed = run_cell(code) if language == "python" else run_shell(code, tmp_path)
    lines, claimed = printed.splitlines(), claims[0].splitlines()
    if language == "python":
        assert lines == claimed
    else:
        position = 0
        for claim in claimed:
            wanted = re.compile(".*?".join(re.escape(" ".join(part.split())) for part in claim.split("…")))
            hits = [i for i, line in enumerate(lines) if i >= position and wanted.search(" ".join(line.split()))]
            assert hits, f"nothing printed is like {claim!r}:\n{printed}"
            position = hits[0] + 1


def run_cell(code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "<cell>", "exec"), {"__name__": "cell"})
    return printed.getvalue()


def run_shell(code: str, folder: Path) -> str:
    """In the repository's root, with this Python; what it writes goes elsewhere."""
    code = code.replace("build/checks", str(folder)).replace("python -m", f"'{sys.executable}' -m")
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(code, shell=True, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)
    return done.stdout + done.stderr


# ---- the samples ----------------------------------------------------------------------------------------------------


def test_states_merge_in_any_order():
    rng = np.random.default_rng(1)
    for n in (0, 1, 7, 30):
        s, V = 50 * rng.standard_normal(n), rng.standard_normal((n, 4))
        cuts = sorted(rng.integers(0, n + 1, 3))
        parts = [state.State.of(s[a:b], V[a:b]) for a, b in zip([0, *cuts], [*cuts, n])]
        rng.shuffle(parts)
        merged = parts[0] + (parts[1] + parts[2]) + parts[3]
        out, L = merged.output
        expected = np.logaddexp.reduce(s) if n else -np.inf
        assert np.isclose(L, expected) or L == expected == -np.inf
        assert np.allclose(out, np.exp(s - L) @ V if n else 0)


@pytest.mark.parametrize("N, d, M", [(1024, 64, 16384), (1000, 32, 5000), (64, 64, 64)])
def test_traffic_is_that_of_the_closed_form(N, d, M):
    Br, Bc = traffic.tiles(d, M)
    rounds = -(-N // Bc)
    assert traffic.flash1(N, d, M) == 2 * N * d + rounds * (N * d + 2 * N * (d + 2))
    assert Br <= d and 4 * Bc * d < M + 4 * d


# ---- assembling -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_book():
    pages = {"stages/s21_swizzle": "stages/s21_swizzle.md", "docs/measuring.md": "measuring.md"}
    return links.Book(ROOT, pages)


@pytest.mark.parametrize(
    "document, place, given, made",
    [
        ("stages/s20_mma/README.md", "stages/s20_mma.md", "[x](../s21_swizzle/)", "[x](s21_swizzle.md)"),
        ("docs/paths.md", "paths.md", "[x](measuring.md#the-clock)", "[x](measuring.md#the-clock)"),
        ("README.md", "index.md", "[x](tools/check.py#L12-L23)", "[x](source/tools/check.py.md)"),
        ("docs/a.md", "a.md", "[x](../reference/activations/README.md)", "[x](source/reference/activations/index.md)"),
        ("README.md", "index.md", "[`x`](tools/check.py)", "[`x`](source/tools/check.py.md)"),
        ("docs/a.md", "a.md", "![x](plots/fragments.png)", "![x](_repo/docs/plots/fragments.png)"),
        ("docs/a.md", "a.md", "[x](https://example.org/a)", "[x](https://example.org/a)"),
        ("docs/a.md", "a.md", "1 <!-- inject: device -->H<!-- /inject -->.", "1 H."),
        ("docs/a.md", "a.md", "`[x](nowhere.md)`", "`[x](nowhere.md)`"),
        ("docs/a.md", "a.md", "```\n[x](nowhere.md)\n<!-- inject: a -->\n```\n", None),
        ("docs/a.md", "a.md", "```{image} ../LICENSE\n```\n", "```{image} /_repo/LICENSE\n```\n"),
    ],
)  # fmt: skip
def test_links_are_led_to_pages(small_book, document, place, given, made):
    assert small_book.text(document, place, given) == (made or given)  # None: as it was


@pytest.mark.parametrize("given", ["[x](nowhere.md)", "![x](plots/no.png)", "```{literalinclude} no.py\n```\n"])
def test_a_link_to_nothing_is_an_error(small_book, given):
    with pytest.raises(links.BrokenLink, match="docs/a.md: .*'(nowhere.md|plots/no.png|no.py)', which is not in"):
        small_book.text("docs/a.md", "a.md", given)


def test_a_stage_without_notebook_or_card_is_named(tmp_path, monkeypatch):
    stage = STAGES[0]
    notebooks = {s.name: Path("x") for s in STAGES if s is not stage}
    assert list(assemble._missing(notebooks)) == [f"{stage.name}: no notebook (notebooks/{stage.name}.ipynb)"]
    monkeypatch.setattr(type(stage), "folder", tmp_path)
    assert f"{stage.name}: no card (stages/{stage.name}/README.md)" in list(assemble._missing(notebooks))


def test_unchanged_pages_are_not_written_again(tmp_path):
    assemble._write(tmp_path, {"a.md": "1", "b/c.md": "2"})
    before = (tmp_path / "a.md").stat().st_mtime_ns
    assemble._write(tmp_path, {"a.md": "1", "d.md": b"3"})
    assert (tmp_path / "a.md").stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.md", "d.md"]


def test_an_incomplete_book_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "PACKAGES", ())
    monkeypatch.setattr(assemble, "_missing", lambda notebooks: ["s99_x: no notebook (notebooks/s99_x.ipynb)"])
    assert command.main(["--out", str(tmp_path / "html"), "--source", str(tmp_path / "source")]) == 1
    assert "s99_x: no notebook" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_picture_that_there_is_not_is_named():
    with pytest.raises(pictures.UnknownPicture, match="docs/a.md: picture is 'moon'; accepted: .*filmstrip"):
        pictures.Pictures().text("docs/a.md", "a.md", "<!-- picture: moon -->")


def test_pictures_are_images_with_text(monkeypatch):
    figure = matplotlib.figure.Figure(figsize=(1, 1))
    figure.alt = "A row\n[0, 1] of x_1"
    monkeypatch.setitem(pictures.CATALOGUE, "dot", lambda: figure)
    made = pictures.Pictures()
    assert (
        made.text("docs/a/b.md", "a/b.md", "<!-- picture: dot -->")
        == r"![A row \[0, 1\] of x\_1](../_pictures/dot.png)"
    )
    assert made.files["_pictures/dot.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("argv, says", [(["--jobs", "0"], "accepted: 1 or more"), (["--out", __file__], "is a file")])
def test_wrong_arguments(argv, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(argv)
    assert stopped.value.code == 2 and says in capsys.readouterr().err
