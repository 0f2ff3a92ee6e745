"""Two kernels compared: rows, reasons, sizes, what it bought, the views, the command; and that no step of the ladder is
larger than a reader takes in."""

from __future__ import annotations

import html.parser
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from stages import STAGES, get
from tests import synthetic
from tools import nvrtc, results
from tools.diff import __main__ as command
from tools.diff import all_steps, bought, bought_to_html, compute, page, steps, to_html
from tools.diff.compare import steps_between
from tools.diff.gains import (
    BETTER,
    COUNTERS,
    DIFFERENT,
    HARDWARE,
    LOOP,
    MISSING,
    NONE,
    RESOURCES,
    TIME,
    WORSE,
    Recorded,
)
from tools.diff.show import show, wrapped
from tools.diff.source import SourceError, parse, source
from tools.diff.words import pieces

ROOT = Path(__file__).resolve().parent.parent

KERNEL = """\
// s77_first: a kernel.
//
// Whose, where.
#include "ptx.cuh"

constexpr int Br = 64;  // rows of a Q tile

DEVICE void scale_scores(float* S, float scale) {
#pragma unroll
  for (int i = 0; i < 8; i++) {
    S[i] *= scale;
  }
}

__global__ void attention_kernel(const Params p) {
  load_tile(Q_smem, p.Q, first_row, p.seqlen_q);
  load_tile(V_smem, p.V, first_key, p.seqlen_k);
  cp_async_wait<0>();
  // BEGIN SOLUTION product: multiply the two
  multiply(S, Q_smem, K_smem);
  // END SOLUTION
  store_tile(p.O, O_smem, first_row, p.seqlen_q);
}
"""


@pytest.fixture
def kernels(tmp_path):
    """kernels((old, new), ...): the paths of KERNEL and of a copy with texts replaced, each once there."""

    def make(*replace, suffix=".cu"):
        text = KERNEL
        for old, new in replace:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        paths = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        for path, content in zip(paths, (KERNEL, text), strict=True):
            path.write_text(content, encoding="utf-8")
        return paths

    return make


def kinds(diff) -> list[tuple[str, str, str]]:
    """(kind, old text, new text) of the rows that differ."""
    texts = [(row.kind, *(one.text.strip() if one else "" for one in (row.old, row.new))) for row in diff.rows]
    return [row for row in texts if row[0] != "same"]


# -------------------------------------------------------------------------------- what is a change


def test_equal_files_have_no_hunk(kernels):
    diff = compute(*kernels())
    assert diff.hunks == () and diff.size.written == 0 and kinds(diff) == []


def test_every_line_of_both_files_is_in_the_rows_once_and_in_order():
    for a, b in (("s20", "s31"), ("s11", "s12"), ("s31", "s20"), ("s02", "s20")):
        diff = compute(a, b)
        for side, one in (("old", diff.old), ("new", diff.new)):
            lines = [getattr(row, side) for row in diff.rows if getattr(row, side)]
            assert lines == list(one.lines)
        for row in diff.rows:
            if row.kind == "same" and row.old and row.new:
                assert "".join(row.old.text.split()) == "".join(row.new.text.split()) or "STAGE" in row.new.text


@pytest.mark.parametrize(
    "replace",
    [
        ("// s77_first: a kernel.\n", "// s78_second: another kernel.\n"),
        ("  // BEGIN SOLUTION product: multiply the two\n", ""),
        ("  // BEGIN SOLUTION product: multiply the two\n", "  // The product of the two.\n"),
        ("  // END SOLUTION\n", ""),
        ("    S[i] *= scale;\n", "        S[i]  *=  scale;\n"),
        ("  cp_async_wait<0>();\n", "  cp_async_wait<0>();\n\n\n"),
    ],
    ids=["name", "no marker", "hint as comment", "no end", "indentation", "blank lines"],
)
def test_what_is_no_change(kernels, replace):
    diff = compute(*kernels(replace))
    assert diff.hunks == () and diff.size.written == 0


def test_the_import_of_its_own_record_is_no_change_of_a_stage():
    assert not any("import STAGE" in old for _, old, _ in kinds(compute("s11", "s12")))


def test_a_changed_line_tells_the_words_that_differ(kernels):
    diff = compute(*kernels(("    S[i] *= scale;\n", "    S[i] *= scale * 2;\n")))
    assert kinds(diff) == [("changed", "S[i] *= scale;", "S[i] *= scale * 2;")]
    (row,) = (row for row in diff.rows if row.kind == "changed")
    assert "".join(piece.text for piece in pieces(row, "new") if piece.differs) == "* 2"
    assert not any(piece.differs for piece in pieces(row, "old"))
    assert "".join(piece.text for piece in pieces(row, "new")) == row.new.text


def test_added_and_removed(kernels):
    diff = compute(*kernels(("constexpr int Br", "constexpr int WARPS = 4;\nconstexpr int Br"),
                            ("  cp_async_wait<0>();\n", "")))  # fmt: skip
    assert kinds(diff) == [("added", "", "constexpr int WARPS = 4;"), ("removed", "cp_async_wait<0>();", "")]
    assert (diff.size.added, diff.size.removed, diff.size.changed) == (1, 1, 0)
    assert diff.size.new_lines == diff.size.old_lines == 15


def test_moved_code_is_marked_as_moved(kernels):
    line = "  load_tile(V_smem, p.V, first_key, p.seqlen_k);\n"
    diff = compute(*kernels((line, ""), ("  store_tile", "  __syncthreads();\n" + line + "  store_tile")))
    moved = [row for row in diff.rows if row.kind == "moved"]
    assert [(row.old is None, row.partner) for row in moved] == [(False, 22), (True, 17)]
    assert diff.size.moved == 1 and diff.size.added == 1 and diff.size.removed == 0


def test_comments_are_no_code(kernels):
    diff = compute(*kernels(("rows of a Q tile", "how many rows a Q tile has"), ("// Whose, where.", "// Who, when.")))
    assert diff.size.written == diff.size.removed == 0 and diff.size.comments == 2


def test_preprocessor_lines_are_code_and_docstrings_are_not():
    lines, _ = parse('#pragma unroll\n#include "x.cuh"\n// why\n\nint a;  // [Br]\n', ".cu")
    assert [bool(line.code) for line in lines] == [True, True, False, False, True]
    lines, _ = parse('def f():\n    """What.\n\n    More.\n    """\n    return 1  # why\n', ".py")
    assert [bool(line.code) for line in lines] == [True, False, False, False, False, True]


def test_an_insertion_keeps_functions_whole(kernels):
    function = "DEVICE void mask_scores(float* S) {\n  S[0] = 0;\n}\n\n"
    diff = compute(*kernels(("__global__", function + "__global__")))
    added = [row.new.text for row in diff.rows if row.kind == "added"]
    assert added == ["DEVICE void mask_scores(float* S) {", "  S[0] = 0;", "}"]


# -------------------------------------------------------------------------------- hunks and reasons


def test_context_and_line_numbers(kernels):
    replace = ("    S[i] *= scale;\n", "    S[i] *= scale * 2;\n")
    for context in (0, 1, 3):
        (hunk,) = compute(*kernels(replace), context=context).hunks
        assert hunk.old_lines == hunk.new_lines == (11 - context, 11 + context)
        (change,) = hunk.changes
        assert (change.start, change.stop) == (context, context + 1)
        assert hunk.skipped == 9 - context  # the header's first line is none
    with pytest.raises(ValueError, match="context is -1"):
        compute("s20", "s21", context=-1)


def whys(diff) -> list:
    return [why for hunk in diff.hunks for change in hunk.changes for why in change.why]


def test_the_reason_is_the_region_of_the_later_file(kernels):
    diff = compute(*kernels(("  multiply(S,", "  multiply_add(S,")))
    assert [(why.kind, why.name, why.text) for why in whys(diff)] == [("region", "product", "multiply the two")]


def test_the_reason_of_lines_that_went_from_a_region(kernels):
    inside = "  multiply(S, Q_smem, K_smem);\n"
    marker, end = "  // BEGIN SOLUTION product: multiply the two\n", "  // END SOLUTION\n"
    emptied = compute(*kernels((inside, "")))
    assert [(why.kind, why.name) for why in whys(emptied)] == [("region", "product")]
    gone = compute(*kernels((marker + inside + end, "")))
    assert [(why.kind, why.name) for why in whys(gone)] == [("old region", "product")]


def test_the_reason_outside_of_regions_is_the_new_comment(kernels):
    own = compute(*kernels(("constexpr int Br", "// Four share a tile.\nconstexpr int WARPS = 4;\nconstexpr int Br")))
    assert [(why.kind, why.text) for why in whys(own)] == [("comment", "Four share a tile.")]
    behind = compute(*kernels(("constexpr int Br", "constexpr int WARPS = 4;  // four share\nconstexpr int Br")))
    assert [why.text for why in whys(behind)] == ["four share"]
    shape = compute(*kernels(("constexpr int Br", "constexpr int X = 4;  // [Br][d]\nconstexpr int Br")))
    assert whys(shape) == []
    known = compute(*kernels(("constexpr int Br = 64;", "constexpr int Br = 128;")))
    assert len(kinds(known)) == 1 and whys(known) == []


def test_a_region_parts_what_it_touches_from_what_is_above(kernels):
    diff = compute(*kernels(
        ("  cp_async_wait<0>();\n", "  cp_async_wait<1>();\n"), ("  multiply(S,", "  multiply_add(S,"),
    ))  # fmt: skip
    (hunk,) = diff.hunks
    assert [tuple(why.name for why in change.why) for change in hunk.changes] == [(), ("product",)]


def test_between_distant_stages_the_reason_is_the_step_that_made_it():
    assert [stage.short for stage in steps_between(get("s20"), get("s23"))] == ["s21", "s22", "s23"]
    assert steps_between(get("s23"), get("s20")) == [] == steps_between(None, get("s20"))
    found = {(why.stage, why.name) for why in whys(compute("s20", "s23"))}
    assert {("s21_swizzle", "swizzle"), ("s23_smem_double_buffer", "double_buffer")} <= found
    assert not any(stage == "" for stage, _ in found)


def test_markers_that_do_not_close_are_told_and_not_fatal(kernels):
    diff = compute(*kernels(("  // END SOLUTION\n", "")))
    assert any("is not closed" in note for note in diff.notes)
    assert compute(*kernels()).notes == ()


def test_other_backends_are_told():
    assert compute("s20", "s21").notes == ()
    (note,) = compute("s02", "s11").notes
    assert note == "The languages differ: Python with NumPy and Python with Triton."
    diff = compute("s02", "s20")
    assert diff.notes[0] == "The languages differ: Python with NumPy and CUDA C++." and not diff.is_comparable
    assert {row.kind for row in diff.rows if (row.old or row.new).key} == {"removed", "added"}


def test_what_two_languages_have_in_common_is_chance(tmp_path):
    paths = tmp_path / "a.py", tmp_path / "b.cu"
    for path in paths:
        path.write_text("x = 1\ny = 2\n", encoding="utf-8")
    assert [kind for kind, _, _ in kinds(compute(*paths))] == ["removed"] * 2 + ["added"] * 2


@pytest.mark.parametrize("name", ["s20", "s20_mma", "20", 20, get("s20")])
def test_a_stage_by_every_name(name):
    assert source(name).label == "s20_mma" and source(name).title == get("s20").title


@pytest.mark.parametrize(
    "name, message",
    [("s99", "s20_mma"), ("nothing.cu", "is no file"), ("Makefile", "accepted"), ("./README.md", "ends in '.md'")],
)
def test_what_is_no_kernel_is_told(name, message):
    with pytest.raises(SourceError, match=re.escape(message)):
        source(name)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "x.cu"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="UTF-8"):
        source(path)


# -------------------------------------------------------------------------------- the ladder


def test_no_step_is_larger_than_a_reader_takes_in():
    too_large = {step.stage.name: step.size.written for step in all_steps() if step.is_too_large}
    unexplained = {name: lines for name, lines in too_large.items() if name not in steps.LARGER}
    assert not unexplained, f"more than {steps.LIMIT} lines of code added or changed; tools/diff/steps.py takes reasons"
    assert set(steps.LARGER) <= set(too_large), "an exception that is none any more"


def test_a_step_too_large_is_found(monkeypatch):
    monkeypatch.setattr(steps, "LIMIT", 3)
    found = {step.stage.short for step in all_steps() if step.is_too_large}
    assert {"s12", "s23"} <= found and not {"s01", "s11", "s20", "s21"} & found


def test_every_step_changes_its_kernel():
    for step in all_steps():
        assert (step.parent is None) == (step.stage.parent is None)
        if step.size:
            assert step.size.written or step.size.moved or step.size.removed, step.stage.name


# -------------------------------------------------------------------------------- what it bought


def recorded(records=(), profiles=(), sass=()) -> Recorded:
    file = results.Results(Path("made-up.json"), synthetic.environment(), {}, list(records))
    return Recorded([file], profiles, sass)


def of_group(gains, group) -> list:
    return [gain for gain in gains if gain.group == group]


def test_times_are_those_of_the_results():
    rows = of_group(bought("s12", "s13", recorded(synthetic.records())), TIME)
    assert [row.name for row in rows] == ["d64", "d64, causal", "d128", "d128, causal"]
    last = rows[-1]
    assert (last.old, last.new, last.change, last.verdict) == ("181", "452", "2.50×, faster", BETTER)
    assert (
        last.note == "2.50× over lengths 1k to 16k" and "length 4096" in last.title and synthetic.DEVICE in last.title
    )
    slower = of_group(bought("s13", "s12", recorded(synthetic.records())), TIME)[0]
    assert (slower.change, slower.verdict) == ("0.400×, slower", WORSE)


def with_factor(factor: float) -> list[dict]:
    """s12 and s13 timed at 4k, the second `factor` times as fast; the samples of each are spread by 2 %."""
    shape = synthetic.grid_shape(4096, 128, False)
    return [
        synthetic.record(name, shape, tflops)
        for name, tflops in (("s12_triton_v2", 200), ("s13_triton_tuned", 200 * factor))
    ]


@pytest.mark.parametrize("factor, verdict", [(1.019, NONE), (0.981, NONE), (1.03, BETTER), (0.97, WORSE), (1.0, NONE)])
def test_a_difference_within_the_spread_is_none(factor, verdict):
    (row,) = of_group(bought("s12", "s13", recorded(with_factor(factor))), TIME)
    assert row.verdict == verdict
    assert row.change == ("none: within the spread, 2.0 %" if verdict == NONE else row.change) and row.note == ""


def test_only_times_of_one_run_are_compared():
    old, new = with_factor(2)
    (row,) = of_group(bought("s12", "s13", recorded([old, new | {"run": "2031-01-01"}])), TIME)
    assert row.verdict == MISSING and row.note == "no run has timed both s12 and s13"
    newer = [r | {"run": "2032", "ms_median": r["ms_median"] / 2} for r in with_factor(3)]
    (row,) = of_group(bought("s12", "s13", recorded([old, new, *newer])), TIME)
    assert row.change.startswith("3.00×")


def test_what_nobody_recorded_is_missing_and_not_invented():
    gains = bought("s20", "s21", recorded())
    assert [(gain.group, gain.verdict) for gain in gains] == [
        (TIME, MISSING),
        (HARDWARE, MISSING),
        (RESOURCES, MISSING),
    ]
    assert all(gain.note and not gain.old and not gain.new and not gain.change for gain in gains)


def profile(name: str, **counters) -> dict:
    shape = {"dtype": "bfloat16", "batch": 4, "nheads": 16, "seqlen": 4096, "headdim": 128, "causal": False}
    return {
        "name": name,
        "device": "GPU",
        "date": "2031-01-01",
        "counters": dict.fromkeys(COUNTERS, 0.0) | counters,
        **shape,
    }


def test_counters_of_the_profiler():
    made = [
        profile("s20_mma", shared_load_conflicts=1.9e9, instructions=1e9, tensor_busy=8.0, ldmatrix=7.0),
        profile("s21_swizzle", shared_load_conflicts=0.0, instructions=9e8, tensor_busy=31.5, ldmatrix=7.0),
    ]
    rows = {row.name: row for row in of_group(bought("s20", "s21", recorded(profiles=made)), HARDWARE)}
    assert len(rows) == 4, "counters that are zero on both sides are not shown"
    conflicts = rows["shared load conflicts (wavefronts)"]
    assert (conflicts.old, conflicts.new, conflicts.change) == ("1.90 billion", "0", "to none")
    assert rows["instructions (warp instructions)"].change == "−10.0 %"
    assert rows["tensor busy"].change == "+23.5 points"
    assert rows["ldmatrix (warp instructions)"].verdict == NONE
    other = [made[0], made[1] | {"seqlen": 1024}]
    (row,) = of_group(bought("s20", "s21", recorded(profiles=other)), HARDWARE)
    assert row.note == "no shape at which both were profiled"


def test_registers_of_two_compilers_are_told_apart():
    """The profiler's are of the kernel that ran, the machine code's of the one that was compiled without a GPU."""

    def note(ran, read):
        profiles = [profile(name, registers=231.0) | {"nvrtc": ran} for name in ("s20_mma", "s21_swizzle")]
        sass = [machine_code(name) | {"compiler": {"nvrtc": read}} for name in ("s20_mma", "s21_swizzle")]
        rows = {
            row.name: row for row in of_group(bought("s20", "s21", recorded(profiles=profiles, sass=sass)), HARDWARE)
        }
        return rows["registers"].note

    assert note("13.0.88", "13.5.37").startswith("compiled by NVRTC 13.0.88; the machine code below by 13.5.37")
    assert note("13.5.37", "13.5.37") == note(None, "13.5.37") == note("13.0.88", None) == ""


def machine_code(stage: str, **changes) -> dict:
    """A document of tools.sass with one pair of instantiations a head dim."""
    loop = {"total": 100, "zeroing": 0, "opcodes": {"HMMA": 64, "LDSM": 36}}
    made = {
        "arch": "90a", "dtype": "bfloat16", "registers": 220, "static_shared": 0, "dynamic_shared": 49152, "spill": 0,
        "stack": 0, "blocks": 2, "warps": 8, "limited_by": ["registers"], "loop": loop, "static": loop, "threads": 128,
    }  # fmt: skip
    each = [made | {"headdim": d, "causal": c} | changes for d in (64, 128) for c in (False, True)]
    return {"stage": stage, "source": nvrtc.source_hash(get(stage)), "instantiations": each}


def test_what_the_compiler_made_of_them():
    loop = {"total": 90, "zeroing": 0, "opcodes": {"HMMA": 64, "LDSM": 20, "MUFU": 6}}
    made = [
        machine_code("s20_mma"),
        machine_code("s21_swizzle", registers=188, dynamic_shared=81920, spill=8, loop=loop),
    ]
    gains = bought("s20", "s21", recorded(sass=made))
    rows = {row.name: row for row in of_group(gains, RESOURCES)}
    assert (rows["registers, d128, causal"].new, rows["registers, d64"].change) == ("188", "−32")
    assert (rows["shared memory, d64"].old, rows["shared memory, d64"].change) == ("48 KiB", "+32 KiB")
    assert rows["spilled, d64"].change == "+8" and rows["blocks a multiprocessor, d64"].verdict == NONE
    assert not any(name.startswith("stack") for name in rows)
    loops = {row.name: (row.old, row.new, row.change) for row in of_group(gains, LOOP)}
    assert loops == {
        "all": ("100", "90", "−10"),
        "HMMA (mma.sync)": ("64", "64", "none"),
        "LDSM (ldmatrix)": ("36", "20", "−16"),
        "MUFU (exp2, log2, 1/x)": ("0", "6", "+6"),
    }


def test_machine_code_of_another_kernel_is_not_shown():
    made = [machine_code("s20_mma"), machine_code("s21_swizzle") | {"source": "older"}]
    (row,) = of_group(bought("s20", "s21", recorded(sass=made)), RESOURCES)
    assert row.verdict == MISSING and "has changed since" in row.note


def test_of_a_file_nothing_is_recorded(kernels):
    path = kernels()[1]
    (row,) = bought("s21", path)
    assert row.verdict == MISSING and f"python -m tools.sass s21 {path}" in row.note


def test_the_committed_records_can_be_read():
    there = Recorded.committed()
    assert not there.problems and there.files and there.profiles and there.sass
    assert any(gain.verdict in (BETTER, DIFFERENT) for gain in bought("s11", "s12", there))


# -------------------------------------------------------------------------------- the views


def printed(diff, gains, width, **options) -> str:
    console = Console(width=width, color_system=None, highlight=False, record=True, file=io.StringIO())
    show(console, diff, gains, **options)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120, 159, 160, 200])
def test_the_terminal_view_fits_and_says_everything(width):
    diff, gains = compute("s22", "s23"), bought("s22", "s23", recorded())
    text = printed(diff, gains, width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    assert get("s22").title in flat and get("s23").title in flat and get("s23").idea in flat
    assert "double_buffer: after one wait and one barrier" in flat
    assert "missing: no run has timed both s22 and s23" in flat
    assert (" │ " in text) == (width >= 160)
    assert (" │ " in printed(diff, gains, width, side_by_side=True)) and " │ " not in printed(
        diff, gains, width, side_by_side=False
    )


@pytest.mark.parametrize("side_by_side", [False, True])
def test_no_line_is_lost_in_the_terminal(side_by_side):
    diff = compute("s25", "s26", context=1000)
    text = printed(diff, [], 400, side_by_side=side_by_side)
    for row in diff.rows:
        if row.kind != "same":
            for line in filter(None, (row.old, row.new)):
                assert line.text.strip() in text, line


def test_long_lines_are_wrapped_whole():
    from rich.text import Text

    text = Text("    const float x = " + " + ".join(f"value_{i}" for i in range(20)) + ";")
    lines = wrapped(text, 40)
    assert len(lines) > 3 and all(len(line.plain) <= 40 for line in lines)
    assert all(line.plain.startswith(" " * 8) for line in lines[1:])
    assert "".join("".join(line.plain.split()) for line in lines) == "".join(text.plain.split())
    assert "".join(line.plain.strip() for line in wrapped(Text("x" * 100), 30)) == "x" * 100


class Page(html.parser.HTMLParser):
    """Text and attributes; fails on tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.text, self.links = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "col", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("pair", [("s20", "s21"), ("s11", "s12"), ("s02", "s20"), ("s20", "s31"), ("s21", "s21")])
def test_the_page_is_whole_and_needs_nothing_else(pair):
    diff = compute(*pair)
    text = page(diff, bought(*pair, recorded()))
    read = Page(text)
    assert not read.links and not re.search(r"https?:|url\(|@import|<script", text)
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    flat = "".join(read.text)
    for row in diff.rows:
        if row.kind != "same":
            for line in filter(None, (row.old, row.new)):
                assert line.text.strip() in flat, line
    assert get(pair[1]).idea in flat and "missing: " in flat


def test_fragments_escape_what_they_quote(kernels):
    diff = compute(*kernels(("    S[i] *= scale;\n", "    S[i] *= scale;\n    // x <b> &amp; y\n")))
    read = Page(to_html(diff) + bought_to_html(diff, bought(diff.old.path, diff.new.path)))
    assert "// x <b> &amp; y" in "".join(read.text)


# -------------------------------------------------------------------------------- the command


def run(*arguments, columns="120") -> subprocess.CompletedProcess:
    environment = os.environ | {"COLUMNS": columns, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tools.diff", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_without_arguments_it_lists_the_steps(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert command.main([]) == 0
    said = capsys.readouterr().out
    for stage in STAGES:
        assert stage.name in said and stage.idea in " ".join(said.split())


def test_one_stage_is_compared_with_its_parent(capsys):
    assert command.main(["s21"]) == 0
    assert "s20 → s21" in capsys.readouterr().out


def test_stat_and_context(capsys):
    assert command.main(["s20", "s21_swizzle", "--stat"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"s20_mma +\d+", said) and re.search(r"s21_swizzle +\d+ +0 +1 +0 +0 +3", said)
    assert command.main(["s20", "s21", "--context", "0"]) == 0
    assert "template <int d>" not in capsys.readouterr().out


def test_the_page_is_written(tmp_path, capsys):
    target = tmp_path / "d.html"
    assert command.main(["s20", "s21", "--html", str(target)]) == 0
    assert capsys.readouterr().out == "" and target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["s20", "s99"], "stage is 's99'"),
        (["s20", "s21", "s22"], "3 given"),
        (["s01"], "has no parent"),
        (["s20", "nowhere.cu"], "is no file"),
        (["s20", "s21", "--context", "-1"], "context"),
        (["s20", "s21", "--html", "/nowhere/x.html"], "--html"),
        (["--html", "x.html"], "--html"),
        (["s20", "s21", "--stat", "--unified"], "not allowed"),
        (["stages/s20_mma/kernel.cu"], "is a file"),
    ],
)
def test_wrong_arguments(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_from_a_shell_with_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.cu"
    path.write_text(get("s21").kernel_file.read_text(encoding="utf-8").replace("row % 8", "row % 4"), encoding="utf-8")
    done = run("s21", path)
    assert done.returncode == 0, done.stderr
    assert "row % 4" in done.stdout and "row % 8" in done.stdout and "nothing is recorded of the file" in done.stdout
    assert "swizzle: eight rows" in done.stdout
    wrong = run("s21", "nothing")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr


@pytest.mark.skipif(shutil.which("head") is None, reason="head is not installed")
def test_a_reader_who_has_seen_enough_is_no_failure():
    one = f"set -o pipefail; {shlex.quote(sys.executable)} -m tools.diff s11 s13 | head -2"
    done = subprocess.run(["bash", "-c", one], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and "s11 → s13" in done.stdout


def test_damaged_records_are_told_and_the_rest_is_shown(tmp_path, monkeypatch):
    (tmp_path / "sass").mkdir()
    (tmp_path / "sass" / "s20.json").write_text("{", encoding="utf-8")
    (tmp_path / "x.json").write_text(json.dumps({"records": 3}), encoding="utf-8")
    monkeypatch.setattr(results, "RESULTS_DIR", tmp_path)
    gains = bought("s20", "s21")
    assert sum("s20.json" in gain.note or "x.json" in gain.note for gain in gains) == 2
