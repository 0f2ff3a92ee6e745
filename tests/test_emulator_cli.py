"""What a person sees of the emulator: the annotated source, the page, the data, banks, fragments; and traces, of which
banks are drawn."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import os
import re

import numpy as np
import pytest
from matplotlib import rc_context
from rich.console import Console

from stages import get
from stages.common.where import installed
from tests.test_ptx import LANES, index_a, index_b, index_c
from tests.test_ptx import in_emulator as run
from tools.edited import edited
from tools.emulator import Finding, Settings, emulate, missing
from tools.emulator import __main__ as command
from tools.emulator import banks as bank_conflicts
from tools.emulator import fragments as maps
from tools.emulator.listing import annotate, folded, totals
from tools.emulator.page import page
from tools.emulator.run import Run, as_data, together
from tools.emulator.run import run as run_stage
from tools.emulator.show import show
from tools.plot import __main__ as plot
from tools.plot import banks as bank_chart
from tools.plot import fragments as fragment_chart
from tools.plot import hardware, style

needs_compiler = pytest.mark.skipif(missing() is not None, reason=str(missing()))
SMALL = ["--headdim", "64", "--seqlen", "70", "--heads", "1"]
BARRIER = "    __syncthreads();  // K is there for all; and all are done with the last tile's V\n"


def source_of(name: str) -> str:
    return get(name).kernel_file.read_text(encoding="utf-8")


def line_of(source: str, text: str) -> int:
    (line,) = (i for i, one in enumerate(source.splitlines(), 1) if text in one)
    return line


def small_run(name: str, **settings) -> Run:
    case = command.Case(dtype="bfloat16", headdim=64, seqlen_q=70, seqlen_k=70, nheads=1, nheads_k=1)
    return run_stage(name, get(name), case, Settings(**settings))


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """s20 and s21, without and with swizzle. Not to be changed."""
    return [small_run("s20"), small_run("s21")]


@pytest.fixture
def kernel(tmp_path):
    """kernel((old, new), ...): the path of s20's kernel with texts replaced, each once there."""

    def make(*replace):
        source = source_of("s20")
        for old, new in replace:
            assert source.count(old) == 1, old
            source = source.replace(old, new)
        path = tmp_path / "mine.cu"
        path.write_text(source, encoding="utf-8")
        return path

    return make


def printed(runs, width=200, **options) -> str:
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as capture:
        show(console, runs, **options)
    return capture.get()


# ---- the command -------------------------------------------------------------------------------------------


@needs_compiler
def test_a_right_stage(tmp_path, capsys):
    data, html = tmp_path / "run.json", tmp_path / "run.html"
    assert command.main(["s20", *SMALL, "--json", str(data), "--html", str(html)]) == 0
    text = capsys.readouterr().out
    assert "right, no findings" in text and "s20: totals" in text
    (run,) = json.loads(data.read_text())
    assert run["verdict"]["ok"] and run["stage"] == "s20_mma" and run["report"]["findings"] == []
    assert run["totals"]["mma"]["instructions"] == 2 * 2 * 4 * (4 * 8 + 4 * 8)  # tiles², warps, k·n of QKᵀ and of PV
    assert html.read_text().count("<section>") == 1
    assert "CUDA_EMULATE" not in os.environ


@needs_compiler
def test_an_edited_kernel_with_a_race(kernel, tmp_path, capsys):
    path, data = kernel((BARRIER, "")), tmp_path / "run.json"
    html = tmp_path / "run.html"
    arguments = [str(path), "--like", "s20", *SMALL, "--json", str(data), "--html", str(html)]
    assert command.main(arguments) == 1
    line = line_of(path.read_text(), "ldmatrix_x4(K_frag")
    assert re.search(rf"race: kernel\.cu:{line}: ", capsys.readouterr().out)
    (run,) = json.loads(data.read_text())
    assert any(f["kind"] == "race" and f["lines"][0] == line for f in run["report"]["findings"])
    assert "is not ordered after" in html.read_text()
    assert command.main([*arguments[:-4], "--no-races", "--summary"]) in (0, 1)
    assert "not ordered" not in capsys.readouterr().out


@needs_compiler
def test_a_right_result_with_findings(kernel, capsys):
    """Four lanes write the same number to the same place: harmless today, and a race all the same."""
    path = kernel(("in_quad == 0 && row[r] < p.seqlen_q", "row[r] < p.seqlen_q"))
    assert command.main([str(path), "--like", "s20", *SMALL, "--summary"]) == 1
    text = capsys.readouterr().out
    assert "right, 1 finding: error" in text and "race: kernel.cu:" in text and "wrong result" not in text


@needs_compiler
def test_a_wrong_result_without_findings(kernel, capsys):
    path = kernel(("l[r] *= alpha;", ""))
    assert command.main(["s20", str(path), *SMALL, "--seqlen", "150", "--summary"]) == 1
    text = capsys.readouterr().out
    assert "wrong result: " in text and "no findings" in text
    assert re.search(r"result +right +WRONG", text)


@needs_compiler
def test_a_kernel_that_does_not_compile(kernel, capsys):
    assert command.main([str(kernel(("l[r] *= alpha;", "l[r] *= beta;"))), "--like", "s20", *SMALL]) == 1
    assert "beta" in capsys.readouterr().err


@needs_compiler
def test_a_hang_is_stopped(kernel, capsys):
    path = kernel(("first_key += Bc", "first_key += 0"))
    assert command.main([str(path), "--like", "s20", *SMALL, "--limit", "1"]) == 1
    assert "is still running after 1 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, says",
    (
        ([], "KERNEL"),
        (["s12"], "no CUDA stage; accepted: s20"),
        (["s99"], "accepted: s01"),
        (["gone.cu"], "no file"),
        (["pyproject.cu"], "no file"),
        (["s20", "--like", "s12"], "argument --like"),
        (["s20", "--headdim", "300"], "takes 1 to 128"),
        (["s20", "--seqlen", "0"], "--seqlen: is '0'; accepted: 1 or more"),
        (["s20", "--heads", "3", "--kv-heads", "2"], "a divisor of --heads"),
        (["s20", "--schedule", "sideways"], "forward"),
        (["s20", "--async", "never"], "late"),
        (["s20", "--seed", "-1"], "--seed"),
        (["s20", "--seed", str(1 << 32)], "accepted: 0 to"),
        (["s20", "--limit", "nan"], "seconds above 0"),
        (["s20", "--html", "no/such/folder/x.html"], "a file in a folder"),
        (["banks", "s12"], "no CUDA stage"),
        (["banks", "--plot", "no/such/folder"], "no folder"),
        (["banks", "--of", "P"], "invalid choice"),
        (["fragments", "--lane", "32"], "--lane"),
    ),
)
def test_wrong_arguments(arguments, says, capsys):
    with pytest.raises(SystemExit) as refused:
        command.main(arguments)
    assert refused.value.code == 2 and says in capsys.readouterr().err


def test_a_file_needs_a_stage_to_launch_it(kernel, capsys):
    with pytest.raises(SystemExit) as refused:
        command.main([str(kernel())])
    assert refused.value.code == 2 and "--like" in capsys.readouterr().err


def test_a_stages_own_file_is_launched_as_that_stage():
    p = command.parser()
    args = p.parse_args([str(get("s21").kernel_file)])
    ((_, stage),) = command.kernels(p, args)
    assert stage.name == "s21_swizzle" and stage.kernel_file == get("s21").kernel_file


@pytest.mark.parametrize("arguments", (["s20"], ["banks"], ["fragments"]))
def test_without_a_compiler(arguments, monkeypatch, capsys):
    monkeypatch.setattr(command, "missing", lambda: "the emulator needs a C++ compiler")
    assert command.main(arguments) == 3
    assert "needs a C++ compiler" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", (["s20"], ["banks"], ["fragments"]))
def test_an_interruption(arguments, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "missing", lambda: None)
    monkeypatch.setattr(command, "runs", interrupt)
    monkeypatch.setattr(bank_conflicts, "pictures", interrupt)
    monkeypatch.setattr(maps, "multiplied", interrupt)
    assert command.main(arguments) == 130
    assert "interrupted" in capsys.readouterr().err


# ---- the annotated source ----------------------------------------------------------------------------------


@needs_compiler
def test_counters_stand_at_the_lines_that_call(runs):
    """The caller's line in kernel.cu, never one of ptx.cuh or of the emulator; helpers of the kernel have their own."""
    names = {"ldmatrix": "ldmatrix_x4(", "ldmatrix.trans": "ldmatrix_x4_trans(", "mma": "mma_m16n8k16<",
             "cp.async": "cp_async_chunk(", "st.shared": "st_shared(", "ld.shared": "ld_shared_chunk(",
             "shfl": "shfl_xor(", "st.global": "st_global"}  # fmt: skip
    for one in runs:
        rows = annotate(one.source, one.report)
        counted = [row for row in rows if row.site]
        assert len(counted) == len(one.report.sites)
        assert all(row.line == row.site.line and names.get(row.site.op, row.site.op) in row.text for row in counted)
        assert sum(row.share for row in counted) == pytest.approx(1)
        assert [row.text for row in rows if row.first] == one.source.splitlines()
        assert {"cp.async", "mma", "ldmatrix"} <= {row.site.op for row in counted if row.hot}
        assert not any(row.hot for row in counted if row.site.op == "__syncwarp")


@needs_compiler
def test_only_what_has_no_counters_is_folded(runs):
    one = dataclasses.replace(runs[0])
    quiet = line_of(one.source, "constexpr float LOG2_E")
    finding = Finding("race", "here", (quiet, 1), (0,), (0, 0, 0), 1)
    report = dataclasses.replace(one.report, findings=(finding,))
    rows = annotate(one.source, report)
    groups = list(folded(rows))
    assert [row for _, group in groups for row in group] == rows
    hidden = [row for is_hidden, group in groups if is_hidden for row in group]
    assert hidden and not any(row.site or row.findings for row in hidden)
    shown = {row.line for is_hidden, group in groups if not is_hidden for row in group}
    assert {quiet - 2, quiet + 2} <= shown
    (marked,) = (row for row in rows if row.findings)
    assert marked.line == quiet and marked.findings == ("race",)


@needs_compiler
def test_the_terminal_shows_each_counter_at_its_line(runs):
    text = printed(runs[:1])
    loads = [line for line in text.splitlines() if "ldmatrix_x4(K_frag" in line]
    (site,) = (s for s in runs[0].report.sites if s.line == line_of(runs[0].source, "ldmatrix_x4(K_frag"))
    assert site.ways == 8
    assert len(loads) == 1
    counters = rf"ldmatrix +{site.instructions} +\d+% +8 +{site.wavefronts:,} / {site.passes:,} +{site.line} "
    assert re.match(counters, loads[0])
    assert "lines without counters" in text and "constexpr float LOG2_E" not in text
    whole = printed(runs[:1], whole=True)
    assert "constexpr float LOG2_E" in whole and "without counters" not in whole
    assert "ldmatrix_x4(K_frag" not in printed(runs[:1], summary_only=True)


@needs_compiler
@pytest.mark.parametrize("width", (60, 80, 100, 149, 150, 250))
def test_no_counter_is_lost_in_a_narrow_terminal(runs, width):
    text = printed(runs[:1], width)
    assert all(len(line) <= width for line in text.splitlines())
    for site in runs[0].report.sites:
        for took, ideal in ((site.wavefronts, site.passes), (site.sectors, site.ideal_sectors)):
            assert not took or re.search(rf"(?<![\d,]){took:,}\s*/\s*{ideal:,}\s", text), site


@needs_compiler
def test_side_by_side(runs):
    text = printed(runs, summary_only=True)
    conflicts = [totals(run.report)["ldmatrix"]["conflicts"] for run in runs]
    assert conflicts[0] > 0 == conflicts[1]
    assert re.search(rf"ldmatrix, bank conflicts +{conflicts[0]:,} +0", text)
    assert re.search(r"mma +([\d,]+) +\1\s", text)
    assert re.search(r"shared memory, needed share +\d\d\.\d% +100\.0%", text)
    assert "side by side" not in printed(runs[:1])


@needs_compiler
def test_launches_of_one_call_are_added_up(runs):
    one = runs[0].report
    both = together([one, one])
    assert together([one]) is one
    for counter in ("instructions", "lanes", "passes", "wavefronts", "bytes", "sectors", "ideal_sectors"):
        assert both.total(counter) == 2 * one.total(counter) > 0
    assert len(both.sites) == len(one.sites) and max(s.ways for s in both.sites) == 8


@needs_compiler
def test_nan_and_infinity_are_valid_json(runs):
    verdict = dataclasses.replace(runs[0].verdict, ok=False, error=float("nan"), bound=float("inf"))
    data = as_data(dataclasses.replace(runs[0], verdict=verdict))
    assert json.loads(json.dumps(data, allow_nan=False))["verdict"]["error"] == "nan"


# ---- the page ----------------------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """Checks that every element is closed in its turn, and collects attributes and the text of the source's cells."""

    VOID = ("meta", "input")

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.code, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs).get("class", "")))
        if ("td", "code") == (tag, dict(attrs).get("class")):
            self.code.append("")

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if ("td", "code") in self.open and not any(kind in ("gap", "bad") for _, kind in self.open):
            self.code[-1] += data


@needs_compiler
def test_the_page_needs_nothing_else(runs):
    text = page(runs)
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert not [a for a in reader.attributes if a[0] in ("src", "href", "style") or a[0].startswith("on")]
    assert "http" not in text and "@import" not in text and "url(" not in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    lines = [line for run in runs for line in run.source.splitlines()]
    assert [line for line in reader.code if line] == [line for line in lines if line]
    assert ("checked", None) not in reader.attributes and ("checked", None) in _attributes(page(runs, whole=True))


def _attributes(text: str) -> list:
    reader = Reader()
    reader.feed(text)
    return reader.attributes


@needs_compiler
def test_the_page_says_what_the_terminal_says(runs):
    finding = Finding("race", "kernel.cu:3: a < b & c", (3,), (0,), (0, 0, 0), 7)
    report = dataclasses.replace(runs[0].report, findings=(finding,))
    text = page([dataclasses.replace(runs[0], report=report)])
    assert "kernel.cu:3: a &lt; b &amp; c (7 times)" in text and "a < b" not in text
    for site in report.sites:
        assert f"<td>{site.instructions:,}</td>" in text


# ---- traces and banks --------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    "access, addresses, wavefronts",
    (
        ("st_shared(base + lane * 8, 1)", [8 * lane for lane in range(32)], [2]),
        ("if (lane % 2) st_shared(base + lane * 4, 1)", [4 * i if i % 2 else None for i in range(32)], [1]),
        ("ld_shared_chunk(base + lane * 128)", [128 * lane for lane in range(32)], [8, 8, 8, 8]),
        ("u32 r[4]; ldmatrix_x4(r, base + lane * 64)", [64 * lane for lane in range(32)], [4, 4, 4, 4]),
    ),
)
def test_a_trace_has_the_addresses(access, addresses, wavefronts):
    body = f"  for (int i = 0; i < 5; i++) {{\n    {access};\n    __syncwarp();\n  }}"
    with emulate(raises=False, trace=2):
        report = run(body, shared_bytes=16384)
    assert len(report.traces) == 2  # of five executions
    for trace in report.traces:
        assert list(trace.addresses) == addresses
        assert [one.wavefronts for one in trace.passes] == wavefronts
        taking_part = [lane for lane in LANES if addresses[lane] is not None]
        assert sorted(lane for one in trace.passes for lane in one.lanes) == taking_part
        assert trace.block == (0, 0, 0) and trace.warp == 0
    with emulate(raises=False):
        assert run(body, shared_bytes=16384).traces == ()


@needs_compiler
def test_traces_name_their_block_and_warp():
    with emulate(raises=False, trace=100, schedule="interleave"):
        report = run("  st_shared(base + threadIdx.x * 4, 1);", block=64, grid=(2,), shared_bytes=256)
    seen = {(trace.block[0], trace.warp): trace.addresses[0] for trace in report.traces}
    assert seen == {(block, warp): 128 * warp for block in (0, 1) for warp in (0, 1)}


@needs_compiler
def test_traces_of_instructions_that_lanes_skip():
    """They are complete when the block meets, whichever warp comes last."""
    with emulate(raises=False, trace=100, schedule="forward"):
        report = run(
            "  if (lane < 3) st_shared(base + threadIdx.x * 4, 1);\n  __syncthreads();", block=96, shared_bytes=384
        )
    assert {trace.warp: trace.addresses[0] for trace in report.traces} == {0: 0, 1: 128, 2: 256}
    assert all([one.lanes for one in trace.passes] == [(0, 1, 2)] for trace in report.traces)


@needs_compiler
def test_every_line_is_traced_as_often_as_asked():
    report = small_run("s20", trace=3).report
    for site in (site for site in report.sites if site.passes):
        kept = [trace for trace in report.traces if (trace.line, trace.op) == (site.line, site.op)]
        assert len(kept) == min(3, site.instructions), site


@pytest.mark.parametrize("settings", ({"trace": -1}, {"trace": 1, "counters": False}))
def test_wrong_traces_are_refused(settings):
    with pytest.raises(ValueError, match="trace is"):
        Settings(**settings)


@needs_compiler
@pytest.mark.parametrize("name, ways", (("s20", 8), ("s21", 1)))
@pytest.mark.parametrize("headdim", (64, 128))
@pytest.mark.parametrize("of", ("Q", "K", "V"))
def test_swizzle_spreads_the_rows_of_a_matrix(name, ways, headdim, of):
    made = bank_conflicts.picture(name, get(name), headdim, "bfloat16", of)
    assert f"{of}_smem" in made.text and len(made.trace.passes) == 4
    for one in made.trace.passes:
        assert one.wavefronts == ways == max(made.wanted(one))
        assert sum(made.wanted(one)) == 32 and made.wanted(one).count(0) == 32 - 32 // ways


@needs_compiler
@pytest.mark.parametrize("name", ("s20", "s21"))
def test_pictures_and_counters_agree(name):
    """The words that a picture shows make the wavefronts that the worker counted, for whatever the kernel does."""
    done = small_run(name, trace=50)
    assert len({trace.line for trace in done.report.traces}) == len([s for s in done.report.sites if s.passes])
    for trace in done.report.traces:
        made = bank_conflicts.Picture(name, "", trace, "", 64)
        assert [max(made.wanted(one)) for one in trace.passes] == [one.wavefronts for one in trace.passes]


@needs_compiler
def test_the_banks_command(capsys):
    assert command.main(["banks"]) == 0
    text = capsys.readouterr().out
    rows = re.findall(r"^ +(\d+)  ([\d·]{32}) +\1  ([\d·]{32})", text, re.MULTILINE)
    assert [int(lane) for lane, *_ in rows] == list(range(32))
    assert all(plain.count("·") == swizzled.count("·") == 28 for _, plain, swizzled in rows)
    assert len({plain.index(lane[-1]) for lane, plain, _ in rows[:8]}) == 1
    assert len({swizzled.index(lane[-1]) for lane, _, swizzled in rows[:8]}) == 8
    assert "8 wavefronts, 8 ways" in text and "pass 3: 1 wavefront " in text


@needs_compiler
def test_banks_of_an_edited_kernel(kernel, capsys):
    path = kernel(("+ chunk * 16;", "+ (chunk ^ row % 4) * 16;"))
    assert command.main(["banks", str(path), "--like", "s20"]) == 0
    assert "pass 0: 2 wavefronts, 2 ways" in capsys.readouterr().out


@needs_compiler
def test_a_line_without_an_access_is_told_which_have_one(capsys):
    assert command.main(["banks", "s20", "--line", "3"]) == 1
    said = capsys.readouterr().err
    assert f"{line_of(source_of('s20'), 'ldmatrix_x4(K_frag')} (ldmatrix)" in said and "--line accepts" in said


# ---- fragments ---------------------------------------------------------------------------------------------


@needs_compiler
def test_fragments_are_those_of_the_isa():
    """The map that the probes find, against the formulas of the PTX ISA."""
    for name, index, registers, halves in (("A", index_a, 4, 2), ("B", index_b, 2, 2), ("C", index_c, 4, 1)):
        found = maps.multiplied()[name]
        for lane in LANES:
            for register in range(registers):
                for half in range(halves):
                    assert found.element(lane, register, half) == index(lane, register * halves + half), (name, lane)


@needs_compiler
@pytest.mark.parametrize("transposed", (False, True))
def test_loads_are_those_of_the_isa(transposed):
    found = maps.loaded(transposed)
    for lane in LANES:
        for register in range(4):
            for half in range(2):
                place = (lane // 4, lane % 4 * 2 + half)
                row, column = reversed(place) if transposed else place
                assert found.element(lane, register, half) == (8 * register + row, column)


@needs_compiler
@pytest.mark.parametrize(
    "old, new, says",
    (
        ("C_acc, A_frag, B_frag[0], B_frag[1]", "C_acc, A_frag, B_frag[1], B_frag[0]", "every element of C once"),
        ("C_acc, A_frag, B", "C_acc, {A_frag[0], A_frag[1], A_frag[3], A_frag[2]}, B", "the product of A and B"),
        ("Bt_smem + (lane % 8) * 32", "Bt_smem + (lane % 4) * 32", "every element of B once"),
        ("a[lane * 4 + i] = A_frag[i]", "a[lane * 4 + i] = A_frag[0]", "every element of A once"),
    ),
)
def test_answers_that_do_not_fit_are_refused(old, new, says, tmp_path, monkeypatch, capsys):
    source = maps.PROBE.read_text()
    assert source.count(old) == 1
    probe = tmp_path / "fragments.cu"
    probe.write_text(source.replace(old, new))
    monkeypatch.setattr(maps, "PROBE", probe)
    with pytest.raises(maps.Inconsistent, match=says):
        maps.multiplied()
    assert command.main(["fragments"]) == 1 and re.search(says, capsys.readouterr().err)


@needs_compiler
@pytest.mark.parametrize("width", (90, 120))
def test_the_fragments_command(width, monkeypatch, capsys):
    monkeypatch.setattr(command, "console", lambda: Console(width=width, highlight=False, no_color=True))
    assert command.main(["fragments", "--lane", "5"]) == 0
    text = capsys.readouterr().out
    for cell, times in (("5 a0", 1), ("5 a3", 1), ("31 a2", 1), ("5 b0", 2), ("5 c3", 1), ("5 r0", 3)):
        assert len(re.findall(rf"(?<!\d){cell}(?!\d)", text)) == times, cell


def test_the_probe_compiles_for_a_gpu():
    """Where one runs it, it asks the hardware."""
    if not installed("cupy"):
        pytest.skip("needs CuPy and NVRTC, which are not installed")
    from tools import nvrtc

    stage = get("s20")
    job = nvrtc.job(stage, "attention_kernel<f16, 64, false>", "80")
    for kernel in ("load<true>", "load<false>", "multiply<f16>", "multiply<bf16>"):
        probe = dataclasses.replace(job, source=maps.PROBE.read_text(), instantiation=kernel)
        assert nvrtc.run(probe).cubin


# ---- figures -----------------------------------------------------------------------------------------------


def texts(fig) -> list:
    return [t for t in fig.findobj(match=lambda artist: hasattr(artist, "get_fontsize")) if t.get_text()]


@needs_compiler
def test_the_figures():
    made = [bank_conflicts.picture(name, get(name), 64, "bfloat16") for name in hardware.STAGES]
    with rc_context(style.SETTINGS):
        banks = bank_chart.chart(made)
        fragments = fragment_chart.chart(maps.multiplied(), (maps.loaded(), maps.loaded(transposed=True)), lane=5)
    for fig in (banks, fragments):
        assert min(text.get_fontsize() for text in texts(fig)) >= 9
    said = [text.get_text() for text in texts(banks)]
    assert "pass 0:\n8 wavefronts" in said and said.count("pass 3:\n1 wavefront") == 1
    bold = [text.get_text() for text in texts(fragments) if text.get_fontweight() == "bold"]
    framed = ["5", "5", *(f"5 {register}" for register in "a0 a1 a2 a3 b0 b1 c0 c1 c2 c3".split())]
    assert sorted(text for text in bold if text[0].isdigit()) == sorted(framed)


@needs_compiler
def test_make_plots_draws_them_too(tmp_path, monkeypatch, capsys):
    (tmp_path / "again").mkdir()
    monkeypatch.setattr(plot, "draw", lambda files, out: [])
    monkeypatch.setattr(plot, "draw_pictures", lambda out: [])
    assert plot.main(["--out", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {f"{name}.{suffix}" for name in ("bank-conflicts", "fragments") for suffix in ("png", "svg")}
    hardware.draw(tmp_path / "again")
    for name in names:
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), "drawn twice, different"
    monkeypatch.setattr(plot, "missing", lambda: "the emulator needs a C++ compiler")
    assert plot.draw_hardware(tmp_path) == [] and "needs a C++ compiler" in capsys.readouterr().err


def test_a_copy_of_a_stage_is_launched_as_the_stage(tmp_path):
    made = edited(get("s20"), tmp_path / "kernel.cu")
    assert made.attention.__globals__["STAGE"] is made and made.name == "s20_mma"
    assert get("s20").attention.__globals__["STAGE"] is get("s20")


def test_a_map_needs_every_element_once():
    with pytest.raises(maps.Inconsistent, match="every element of C once"):
        maps._fragment("C", "c", (16, 8), np.zeros((32, 4, 1), np.int64))
