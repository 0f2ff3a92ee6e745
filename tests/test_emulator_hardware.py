"""The emulator's counters are a GPU's: what was counted on the hardware is in docs/results/emulator, and every case is
counted here again. Then the tools around that: rules, files, ncu's output, the tables."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import time

import numpy as np
import pytest

from stages.common.where import gpu_arch, installed
from tools import figures, inject, nvrtc, profile, results
from tools.emulator import agreement, cases, compare, missing
from tools.emulator.cases import CASES, StageCase, emulated, find
from tools.figures import Data, FigureError, figure
from tools.results import ROOT, ResultsError
from tools.sass import mix

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

DOCUMENTS = [agreement.load(path) for path in agreement.recorded()]
MEASURE = "on a GPU with ncu, `python -m tools.emulator.compare --out docs/results/emulator` measures it"


# ---- what is recorded ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: re.sub(r"[^a-z0-9]+", "_", case.name))
def test_the_emulator_counts_what_the_hardware_counted(case):
    assert DOCUMENTS, f"docs/results/emulator has no file; {MEASURE}"
    for document in DOCUMENTS:
        record = next((r for r in document["records"] if r["case"] == case.name), None)
        assert record, f"{document['environment']['device']} has no record of {case.name}; {MEASURE}"
        assert compare.problems_of(record, case) == []


def test_records_are_of_cases_that_there_are():
    recorded = {record["case"] for document in DOCUMENTS for record in document["records"]}
    assert recorded <= {case.name for case in CASES}


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)


# ---- the kernels --------------------------------------------------------------------------------------------

ONE_STAGE = find("s21, head dim 64, causal, length 200 × 333")
COPY = find("copy of 8 bytes a lane, one element late")
TRANSPOSE = find("transpose by 32×32 tiles, not padded")
BESIDE = find("ldmatrix over and over, beside asynchronous copies")


@pytest.mark.parametrize("schedule, asynchronous", (("reverse", "early"), ("random", "late"), ("interleave", "early")))
@pytest.mark.parametrize("case", (ONE_STAGE, BESIDE), ids=("stage", "kernel"))
def test_the_order_of_threads_decides_no_counter(case, schedule, asynchronous):
    assert emulated(case, schedule=schedule, asynchronous=asynchronous) == emulated(case)


def test_counters_by_hand():
    transposed = emulated(TRANSPOSE)  # 6 tiles, 32 columns each, each column in one bank
    assert transposed["shared_load_conflicts"] == 6 * 32 * 31 and transposed["shared_store_conflicts"] == 0
    assert transposed["global_load_sectors"] == transposed["global_store_sectors"] == 6 * 32 * 4
    assert emulated(find("transpose by 32×32 tiles, padded by a word"))["shared_load_conflicts"] == 0
    assert emulated(COPY)["global_load_sectors"] == 4 * 9  # four warps; 256 bytes from byte 8 on
    for pitch, ways in ((128, 8), (192, 4), (160, 2), (144, 1)):
        counted = emulated(find(f"ldmatrix, rows {pitch} bytes apart"))
        assert counted["shared_load_wavefronts"] == counted["ldmatrix_wavefronts"] == 2 * 8 * 4 * ways
        assert counted["shared_load_conflicts"] == 2 * 8 * 4 * (ways - 1) and counted["ldmatrix"] == 2 * 8


@pytest.mark.parametrize("device", ("cpu", "cuda"))
def test_kernels_compute_what_they_say(device, monkeypatch):
    """A kernel that the emulator and the GPU read differently would be no comparison."""
    if device == "cuda" and (gpu_arch() is None or gpu_arch() < 80):
        pytest.skip("needs a GPU of compute capability 8.0 or newer")
    ran = {case.name: case.prepare(device)().cpu().numpy() for case in CASES if case.group == "accesses"}
    x = np.arange(64 * 96).reshape(64, 96)
    np.testing.assert_array_equal(ran[TRANSPOSE.name].reshape(96, 64), x.T)
    np.testing.assert_array_equal(ran["shared memory, 16 bytes a lane, 144 apart"], np.roll(np.arange(32) * 16 + 6, 1))
    alone = ran["ldmatrix over and over, alone"]
    np.testing.assert_array_equal(alone, ran[BESIDE.name])
    assert len(np.unique(alone[:32])) == 32


@pytest.mark.skipif(not installed("cupy"), reason="needs CuPy for NVRTC, and it is not installed")
@pytest.mark.parametrize("case", [c for c in CASES if c.group == "accesses"], ids=lambda case: case.instantiation)
def test_nvrtc_makes_the_same_accesses_of_them(case):
    """The assembler narrows a load of which a part is not used: the GPU would then do another access."""
    from stages.common.cuda import COMPILE_OPTIONS

    source = cases.ACCESSES.read_text(encoding="utf-8")
    options = (*COMPILE_OPTIONS, *nvrtc.CUPY_OPTIONS)
    made = nvrtc.run(nvrtc.Job("accesses", "accesses.cu", source, case.instantiation, "90a", options))
    assert made.warnings == [] and made.spilled == 0
    disassembler = mix.find_disassembler()
    if disassembler is None:
        pytest.skip("the compiler takes it; nvdisasm, which would show the instructions, is not installed")
    code = mix.disassemble(made.cubin, disassembler)
    found = set(re.findall(r"\b(?<!@!PT )(LDG[.\w]*|LDS[.\w]*|STS[.\w]*)", code))
    width = {"u32": "", "Pair": ".64", "Chunk": ".128"}.get(re.split("[<,>]", case.instantiation)[1], "")
    expected = {
        "strided_copy": {f"LDG.E{width}"},
        "tiled_transpose": {"LDG.E", "LDS", "STS"},
        "pitched_lanes": {f"LDS{width}", f"STS{width}"},
        "pitched_ldmatrix": {"LDSM.16.M88.4", "STS"},
        "ldmatrix_beside_copies": {"LDSM.16.M88.4", "STS"},
    }[case.kernel]
    assert {op for op in found if not op.startswith(("LDGSTS", "LDGDEPBAR"))} == expected


# ---- rules ---------------------------------------------------------------------------------------------------


def record(case=COPY, runs=2, **hardware) -> dict:
    """As if the hardware had counted what the emulator does, but for `hardware`."""
    counted = emulated(case)
    return cases.described(case) | {
        "hardware": {name: [number] * runs for name, number in counted.items()} | hardware,
        "emulator": counted,
    }


def document(*records, **environment) -> dict:
    made = {"device": "NVIDIA Test 1", "date": "2031-02-03T00:00:00+00:00", "ncu": "2031.1"} | environment
    return json.loads(json.dumps(agreement.empty(made, 2) | {"records": list(records)}))


@pytest.mark.parametrize("case", (COPY, TRANSPOSE, BESIDE, ONE_STAGE), ids=lambda case: case.kernel)
def test_equal_counters_agree(case):
    assert agreement.disagreements(record(case)) == []


@pytest.mark.parametrize("counter", [n for n, c in agreement.COUNTERS.items() if c.rule != "recorded"])
@pytest.mark.parametrize("off", (1, -1))
def test_one_wrong_counter_is_found(counter, off):
    """In one run on the hardware, or in the emulator."""
    good = record(BESIDE)
    number = good["emulator"][counter]
    wrong = record(BESIDE, **{counter: [number, number + off]})
    assert any(counter in line for line in agreement.disagreements(wrong))
    assert any(counter in line for line in agreement.disagreements(good, good["emulator"] | {counter: number + off}))


def test_turns_lost_to_arriving_data_are_accepted_and_no_more():
    counted = emulated(BESIDE)
    w, c = counted["shared_load_wavefronts"], counted["shared_load_conflicts"]
    arriving = counted["global_load_sectors"]

    def found(more_w, more_c, case=BESIDE) -> str:
        pair = {"shared_load_wavefronts": [w, w + more_w], "shared_load_conflicts": [c, c + more_c]}
        return "\n".join(agreement.disagreements(record(case, **pair)))

    assert found(0, 0) == found(78, 78) == found(arriving, arriving) == ""
    assert "in run 2, +78 and +77" in found(78, 77)
    assert "-1 and -1" in found(-1, -1)
    assert "only 8,192 sectors are loaded" in found(arriving + 1, arriving + 1)
    assert "only 0 sectors are loaded" in found(1, 1, find("ldmatrix over and over, alone"))


# ---- files ---------------------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_was_written(tmp_path):
    made = document(record())
    (tmp_path / "a.json").write_text(agreement.text(made))
    assert agreement.load(tmp_path / "a.json") == made


def test_a_damaged_file_is_named(tmp_path):
    path, good = tmp_path / "a.json", document(record())
    lenient = json.loads(json.dumps(good))
    lenient["counters"]["ldmatrix"]["rule"] = "recorded"
    bad = [lenient, good | {"records": []}, good | {"runs": 3}, good | {"environment": {"device": "x"}}, [], "{"]
    for key, value in (("ldmatrix", [1.5, 1.5]), ("ldmatrix", [-1, 0]), ("mood", [1, 1])):
        bad.append(document(record(**{key: value})))
    missing_one = document(record())
    del missing_one["records"][0]["hardware"]["cp_async"]
    for made in (*bad, missing_one):
        path.write_text(made if isinstance(made, str) else json.dumps(made))
        with pytest.raises(ResultsError, match="a.json: damaged"):
            agreement.load(path)
    without = document(record())
    del without["records"][0]["hardware"]["ldmatrix_conflicts"]  # not every GPU has it
    path.write_text(json.dumps(without))
    assert agreement.disagreements(agreement.load(path)["records"][0]) == []


@pytest.mark.parametrize(
    "planted, says",
    (
        ({}, ""),
        (
            {"global_load_sectors": [37, 37]},
            f"{COPY.name}: global_load_sectors: 37 on the hardware, 36 in the emulator",
        ),
        ({"shared_store_wavefronts": [0, 1]}, "1 and 0 on the hardware in run 2"),
    ),
)
def test_check(tmp_path, capsys, monkeypatch, planted, says):
    monkeypatch.setattr(compare, "CASES", (COPY, TRANSPOSE))
    monkeypatch.setattr(compare.problems, "__defaults__", ((COPY, TRANSPOSE),))
    path = tmp_path / "a.json"
    path.write_text(agreement.text(document(record(**planted), record(TRANSPOSE))))
    assert compare.main(["--check", str(path)]) == bool(says)
    assert says in capsys.readouterr().err


def test_check_sees_an_emulator_that_counts_otherwise(tmp_path, capsys, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(agreement.text(document(record())))
    monkeypatch.setattr(compare, "emulated", lambda case: emulated(case) | {"global_load_sectors": 35})
    assert compare.main(["--check", str(path)]) == 1
    said = capsys.readouterr().err
    assert f"{COPY.name}: global_load_sectors: 35 in the emulator, 36 when it was recorded" in said
    assert f"{TRANSPOSE.name}: no record" in said


def test_check_without_a_file(capsys, monkeypatch):
    monkeypatch.setattr(agreement, "recorded", list)
    assert compare.main(["--check"]) == 1
    assert "--out writes one" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, says", ((["--only", "s99"], "'s99'"), (["--runs", "0"], "--runs: is 0"), (["--limit-s", "0"], "--limit-s"))
)
def test_wrong_arguments(argv, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        compare.main(argv)
    assert stopped.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.skipif(gpu_arch() is not None, reason="there is a GPU here")
def test_without_a_gpu(capsys):
    assert compare.main([]) == 1
    assert "there is none; --check needs none" in capsys.readouterr().err


# ---- measuring -----------------------------------------------------------------------------------------------

NCU = f"""#!{sys.executable}
# Stands for ncu: takes its arguments, and prints as it does what the emulator counts of the launches asked for.
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
from tools.emulator.agreement import COUNTERS
from tools.emulator.cases import CASES, emulated
a = sys.argv[1:]
if a == ["--version"]:
    print("NVIDIA (R) Nsight Compute Command Line Profiler\\nVersion 2031.1.0.0 (build 1) (public-release)")
    sys.exit()
metrics = a[a.index("--metrics") + 1].split(",")
if any(os.environ.get("NCU_LACKS", "-") in metric for metric in metrics):
    sys.exit("==ERROR== Failed to find metric")
runs, cases = int(a[a.index("--runs") + 1]), [CASES[int(i)] for i in a[a.index("--cases") + 1 :]]
names = {{counter.metric: name for name, counter in COUNTERS.items()}}
rows, code, launch = ['"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"'], 0, 0
with open(a[a.index("--launch") + 1], "w") as manifest:
    for case in cases:
        if case.name == os.environ.get("NCU_RAISES"):
            print(json.dumps({{"case": case.name, "error": "RuntimeError: planted"}}), file=manifest)
        if case.name in (os.environ.get("NCU_RAISES"), os.environ.get("NCU_DIES")):
            code = 1
            break
        counted = emulated(case)
        for launch in range(launch + 1, launch + 1 + runs):
            for metric in metrics:
                what = f'"{{launch}}","void {{case.kernel}}<(int)3>(int)","{{metric}}"'
                rows.append(f'{{what}},"","{{counted[names[metric]]:,}}"')
        print(json.dumps({{"case": case.name}}), file=manifest)
print("==PROF== Connected to process 1", *rows, sep="\\n")
sys.exit(code)
"""


@pytest.fixture
def ncu(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ncu").write_text(NCU)
    (folder / "ncu").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "out"


THREE = (COPY, BESIDE, TRANSPOSE)


def measured(out) -> dict:
    (path,) = out.iterdir()
    return agreement.load(path)


def test_a_whole_comparison(ncu, capsys):
    assert compare.compare(THREE, 2, 600, ncu) == 0
    made = measured(ncu)
    assert [record["case"] for record in made["records"]] == [case.name for case in THREE]
    assert made["environment"]["ncu"] == "2031.1.0.0" and made["runs"] == 2
    copied = made["records"][0]["hardware"]
    assert copied["global_load_sectors"] == [36, 36] and "ldmatrix_conflicts" not in copied
    assert made["records"][1]["hardware"]["cp_async_wavefronts"] == [2048, 2048]
    assert f"{COPY.name}: 8 counters, equal\n" in capsys.readouterr().out


@pytest.mark.parametrize("how", ("NCU_RAISES", "NCU_DIES"))
@pytest.mark.parametrize("which", (0, 1))
def test_a_case_that_fails_is_named_and_the_others_go_on(ncu, capsys, monkeypatch, how, which):
    monkeypatch.setenv(how, THREE[which].name)
    assert compare.compare(THREE, 1, 600, ncu) == 1
    assert [r["case"] for r in measured(ncu)["records"]] == [c.name for c in THREE if c is not THREE[which]]
    why = "RuntimeError: planted" if how == "NCU_RAISES" else "exit code 1"
    assert f"{THREE[which].name}: not compared: {why}" in capsys.readouterr().err


def test_a_profiler_without_the_optional_counters(ncu, capsys, monkeypatch):
    monkeypatch.setenv("NCU_LACKS", "ldgsts.sum")
    monkeypatch.setattr(compare, "REQUIRED", tuple(n for n in compare.REQUIRED if n != "cp_async"))
    found, failed = compare.measure(THREE, compare.OPTIONAL["cp_async"], 1, time.monotonic() + 600)
    assert found == {} and set(failed) == {case.name for case in THREE}
    assert all("Failed to find metric" in why for why in failed.values())


def test_no_time_left(ncu):
    found, failed = compare.measure(THREE, compare.REQUIRED, 1, time.monotonic())
    assert found == {} and set(failed.values()) == {"no time was left"}


def test_a_process_that_hangs_is_ended():
    start = time.monotonic()
    said, problem = compare._run([sys.executable, "-c", "import time; time.sleep(300)"], 1)
    assert (said, problem) == ("", "not done within 1 s") and time.monotonic() - start < 100


def test_the_launching_process_stops_at_the_first_failure(tmp_path, monkeypatch):
    class Broken:
        name = "broken"

        def prepare(self, device):
            raise RuntimeError(f"planted on {device}")

    monkeypatch.setattr(compare, "CASES", (Broken(), Broken()))
    assert compare.launch_all(tmp_path / "manifest", [0, 1], 1) == 1
    (line,) = (tmp_path / "manifest").read_text().splitlines()
    assert json.loads(line) == {"case": "broken", "error": "RuntimeError: planted on cuda"}


def csv(*launches) -> str:
    rows = [f'"{i}","{kernel}","m.sum","","{value}"' for i, (kernel, value) in enumerate(launches)]
    return "\n".join(['==PROF== x\n"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"', *rows]) + "\n"


def test_launches_are_told_apart_and_matched_in_order(monkeypatch):
    monkeypatch.setitem(agreement.COUNTERS, "m", agreement.Counter("m.sum", "", "equal"))
    lines = [{"case": COPY.name}, {"case": TRANSPOSE.name}, {"case": BESIDE.name, "error": "planted"}]
    output = csv(("strided_copy", "1,000"), ("strided_copy", 2), ("tiled_transpose", 3), ("tiled_transpose", 4))
    assert compare.matched(output, lines, ["m"], 2) == {COPY.name: {"m": [1000, 2]}, TRANSPOSE.name: {"m": [3, 4]}}
    for bad, says in (
        (
            csv(("strided_copy", 1), ("strided_copy", 2), ("tiled_transpose", 3)),
            "expected 2 launches of tiled_transpose",
        ),
        (csv(("tiled_transpose", 1), ("strided_copy", 2)), "expected 2 launches of strided_copy"),
        (csv(*[("strided_copy", 1.5)] * 2, *[("tiled_transpose", 1)] * 2), "a count is 1.5"),
        ("==ERROR== no permission", "ncu printed no counters"),
        (csv(*[("strided_copy", 1)] * 4).replace("m.sum", "n.sum"), "no value for m.sum"),
    ):
        with pytest.raises(compare.MeasureError, match=says):
            compare.matched(bad, lines, ["m"], 2)


# ---- in documents --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    w, c = (emulated(BESIDE)[f"shared_load_{what}"] for what in ("wavefronts", "conflicts"))
    lost = {"shared_load_wavefronts": [w + 9, w + 3], "shared_load_conflicts": [c + 9, c + 3]}
    older = document(record(global_load_sectors=[1, 1]), date="2031-02-02T00:00:00+00:00")
    return Data([], [], emulator=[document(record(), record(BESIDE, **lost)), older])


def test_tables(data):
    lines = figure(data, "emulator-table", {"of": "accesses"}).splitlines()
    assert lines[0].startswith("| launch | shared load wavefronts | shared load conflicts |")
    assert lines[2] == f"| {COPY.name} | 0 | 0 | 0 | 0 | 36 | 36 | 0 | 0 |"
    assert lines[3].startswith(f"| {BESIDE.name} | 65,536 (+3 to +9) | 0 (+3 to +9) | 288 | 0 | 8,192 |")
    (_, _, line, _) = figure(data, "emulator-table", {"of": "accesses", "counters": "ldmatrix"}).splitlines()
    assert line == f"| {COPY.name} | 0 |"
    assert figure(data, "emulator-run", {}) == "NVIDIA Test 1, 2031-02-03, Nsight Compute 2031.1"
    counts = [figure(data, "emulator-agreement", {"of": of}) for of in ("all", "equal", "more", "runs")]
    assert counts == ["20", "18", "2", "2"]


@pytest.mark.parametrize(
    "kind, keys, says",
    (
        ("emulator-table", {"of": "stages"}, "no record of=stages"),
        ("emulator-table", {"of": "accesses", "counters": "mood"}, "counters has 'mood'; accepted: shared_load"),
        ("emulator-agreement", {"of": "mood"}, "of is 'mood'; accepted: all"),
        ("emulator-run", {"device": "h900"}, "no device 'h900'"),
    ),
)
def test_what_is_not_there_is_not_guessed(data, kind, keys, says):
    with pytest.raises(FigureError, match=re.escape(says)):
        figure(data, kind, keys)


def test_of_several_devices_one_has_to_be_named(data):
    both = Data([], [], emulator=[*data.emulator, document(record(), device="NVIDIA Other 2")])
    with pytest.raises(FigureError, match="2 devices: NVIDIA Other 2, NVIDIA Test 1"):
        figure(both, "emulator-run", {})
    assert figure(both, "emulator-run", {"device": "other"}).startswith("NVIDIA Other 2")


def test_inject_names_a_damaged_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RESULTS_DIR", tmp_path)
    (tmp_path / "emulator").mkdir()
    (tmp_path / "emulator" / "a.json").write_text("{")
    (tmp_path / "d.md").write_text("text")
    assert inject.main([str(tmp_path / "d.md")]) == 1
    assert "a.json: damaged" in capsys.readouterr().err


# ---- make profile --------------------------------------------------------------------------------------------


def test_the_profile_is_shown_beside_the_emulator(monkeypatch, capsys):
    """Of a CUDA stage, at a small shape; the counters that both know, and their difference."""
    asked = []

    def profiled(stage, args):
        asked.append(args)
        case = StageCase(stage.short, args.headdim, args.seqlen, args.seqlen, causal=args.causal)
        counted = {name: float(n) for name, n in emulated(case).items() if name in profile.COUNTERS}
        counted["shared_load_conflicts"] += 1234
        shape = {key: getattr(args, key) for key in ("batch", "nheads", "seqlen", "headdim", "causal")}
        return {"name": stage.name, **shape, "counters": dict.fromkeys(profile.COUNTERS, 0.0) | counted}

    from stages import get

    monkeypatch.setattr(profile, "profile", profiled)
    args = profile.parser().parse_args(["s20", "--headdim", "64", "--causal"])
    assert profile.show_beside_emulator(get("s20"), args) == 0
    (small,) = asked
    assert (small.batch, small.nheads, small.seqlen, small.headdim, small.causal) == (1, 2, 256, 64, True)
    said = capsys.readouterr().out
    rows = {line.split("(")[0].strip("│ "): line for line in said.splitlines() if "│" in line}
    assert set(figures.EMULATOR_COUNTERS) <= set(rows) and "registers" not in rows
    assert re.search(r"│ +75,264 +│|│ +\d[\d,]* │ +\d[\d,]* │ +\+1,234 │", rows["shared_load_conflicts"])
    assert re.search(r"│ +0 │$", rows["ldmatrix"].strip())
