"""What the compiler makes of the CUDA stages, for GPUs that need not be there: nothing spills that is not declared,
what is recorded is of the kernels as they are, and what reads machine code reads it right."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from stages import get
from stages.common.record import Stage
from tests.conftest import needs_nvrtc
from tools import nvrtc, results
from tools.figures import Data, FigureError, figure
from tools.machine import find_compiler
from tools.sass import __main__ as command
from tools.sass import mix, records, show
from tools.sass.occupancy import LIMITS, occupancy

STAGES = command.cuda_stages()
needs_disassembler = pytest.mark.skipif(
    mix.find_disassembler() is None, reason=f"needs nvdisasm (package {mix.PACKAGE}), which is not installed"
)
one_of_each = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.short)


def measured(stage, disassembler=None, **chosen):
    """In this process: the suite's workers already fill the machine."""
    return list(records.measure_all(records.instantiations(stage, disassembler, **chosen), workers=1))


def undeclared(stage, made) -> list[str]:
    """The faults and warnings that the stage does not own up to."""
    found = [f"{show.named(r)}: {f}" for r in made for f in records.faults(r) if f not in stage.compiler_faults]
    loss = "performance loss" in stage.compiler_faults
    return found + [w for r in made for w in r["warnings"] if not (loss and "performance loss" in w.lower())]


# -------------------------------------------------------------------------------- the stages


@needs_nvrtc
@one_of_each
@pytest.mark.parametrize("arch", nvrtc.ARCHES)
def test_compiles_launches_and_suffers_nothing_undeclared(stage, arch):
    made = measured(stage, arch=arch)
    assert len(made) == 2 * len(stage.capability.dtypes) * len(stage.capability.headdims)
    assert undeclared(stage, made) == []
    assert all(r["blocks"] >= 1 for r in made), "a block takes more than a multiprocessor has"


@needs_nvrtc
@one_of_each
def test_what_is_declared_happens(stage):
    if not stage.compiler_faults:
        pytest.skip(f"{stage.name} declares no compiler fault")
    assert {fault for r in measured(stage) for fault in records.faults(r)} >= set(stage.compiler_faults)


@one_of_each
def test_the_records_are_of_the_kernels_as_they_are(stage):
    """Fails until `make sass` has been run on the kernel and headers that are there."""
    assert records.stale(stage) == ""
    made = records.load(records.path_of(stage))["instantiations"]
    assert undeclared(stage, made) == []
    for r in made:
        fits = occupancy(
            r["arch"],
            registers=r["registers"],
            shared=r["static_shared"] + r["dynamic_shared"],
            threads=r["threads"],
            barriers=r["barriers"],
        )
        assert (r["blocks"], r["warps"], r["limited_by"]) == (fits.blocks, fits.warps, list(fits.limited_by))


@needs_nvrtc
@needs_disassembler
@one_of_each
def test_the_recorded_is_what_is_measured(stage):
    kept = records.load(records.path_of(stage))
    here = {
        "nvrtc": nvrtc.compiler_version(),
        "disassembler": mix.disassembler_version(mix.find_disassembler()),
    }
    if here != kept["compiler"]:
        pytest.skip(f"recorded with {kept['compiler']}, here are {here}")
    chosen = {"dtype": "bfloat16", "headdim": 128, "causal": True}
    made = measured(stage, mix.find_disassembler(), **chosen)
    assert made == [r for r in kept["instantiations"] if all(r[key] == value for key, value in chosen.items())]


def test_the_loop_of_s20_holds_what_its_tile_takes():
    """16 rows × 64 keys × d in products of 16×8×16, twice; an ldmatrix.x4 for two of them."""
    for r in records.load(records.path_of(STAGES[0]))["instantiations"]:
        products = 2 * (64 // 8) * (r["headdim"] // 16)
        counted = mix.families(r["loop"])
        assert (counted["HMMA"], counted["LDSM"], counted["BAR"]) == (products, products // 2, 2)
        assert mix.families(r["static"])["HMMA"] == products  # none outside


# -------------------------------------------------------------------------------- the compiler


def planted(tmp_path, *changes: tuple[str, str]) -> Stage:
    stage = STAGES[0]
    text = stage.kernel_file.read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "kernel.cu").write_text(text, encoding="utf-8")
    return command.edited(stage, tmp_path / "kernel.cu")


SPILL = ("__launch_bounds__(THREADS, 2)", "__launch_bounds__(THREADS, 8)")
ONE = {"arch": "80", "dtype": "bfloat16", "headdim": 64, "causal": False}


@needs_nvrtc
def test_cupy_still_adds_the_options_that_are_added_here():
    """cupy.cuda.compiler is not imported: that wants a driver."""
    text = (Path(importlib.util.find_spec("cupy").origin).parent / "cuda" / "compiler.py").read_text(encoding="utf-8")
    added = re.findall(r"^\s+options \+= \('(-[^']+)',\)", text, re.MULTILINE)
    assert set(nvrtc.CUPY_OPTIONS) <= set(added), added


@needs_nvrtc
def test_a_broken_kernel_is_reported_with_its_line(tmp_path):
    stage = planted(tmp_path, ("m_new = fmaxf(m_new, s);", "m_new = fmaxf(m_new, s)"))
    with pytest.raises(nvrtc.CompileError, match=r"s20_mma, .*sm_80: (.|\n)*kernel\.cu\(\d+\): error"):
        measured(stage, **ONE)


@needs_nvrtc
def test_a_spill_is_found_and_may_be_declared(tmp_path):
    stage = planted(tmp_path, SPILL)
    made = measured(stage, **ONE)
    assert made[0]["spill"] > 0 and made[0]["stack"] > 0 and made[0]["registers"] == 64
    assert records.faults(made[0]) == ["spill"]
    assert undeclared(stage, made) == ["sm_80, bfloat16, d64: spill"]
    object.__setattr__(stage, "compiler_faults", ("spill",))
    assert undeclared(stage, made) == []


@needs_nvrtc
def test_a_warning_is_found(tmp_path):
    made = measured(
        planted(tmp_path, ("  const int batch = blockIdx.z", "  int idle;\n  const int batch = blockIdx.z")), **ONE
    )
    assert re.search(r"kernel\.cu\(\d+\): warning .*idle", made[0]["warnings"][0])


# An accumulator that is touched while wgmma may still write it.
SERIALIZED = """
template <int N> __global__ void attention_kernel(float* out, unsigned long long a, unsigned long long b) {
  __shared__ float last[32];
  float d[4] = {out[0], out[1], out[2], out[3]};
  for (int i = 0; i < N; i++) {
    asm volatile("wgmma.fence.sync.aligned;");
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b));
    asm volatile("wgmma.commit_group.sync.aligned;");
    d[0] *= 2.f;
    asm volatile("wgmma.wait_group.sync.aligned 0;");
  }
  last[threadIdx.x % 32] = d[0];
  __syncthreads();
  out[threadIdx.x] = last[threadIdx.x % 7] + d[1] + d[2] + d[3];
}
"""


@needs_nvrtc
def test_a_performance_loss_is_found_though_the_compiler_calls_it_info():
    made = nvrtc.run(nvrtc.Job("x", "x.cu", SERIALIZED, "attention_kernel<64>", "90a", nvrtc.CUPY_OPTIONS))
    assert "ptxas info" in made.warnings[0] and "wgmma.mma_async instructions are serialized" in made.warnings[0]
    assert records.faults({"spill": 0, "warnings": made.warnings}) == ["performance loss"]
    assert (made.static_shared, made.spilled) == (128, 0) and made.registers > 8 and made.barriers >= 1


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match="compiler_faults has 'slow'; accepted: spill, performance loss"):
        Stage(1, "s01_x", "", "", None, STAGES[0].capability, compiler_faults=("slow",))


@needs_nvrtc
def test_the_second_time_it_comes_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(nvrtc, "CACHE_DIR", tmp_path / "cubin")
    wanted = records.instantiations(STAGES[0], None, **ONE)[0].job
    first = nvrtc.run(wanted)
    monkeypatch.setattr(nvrtc, "_compile", lambda job: pytest.fail("compiled again"))
    assert nvrtc.run(wanted) == first
    assert sorted(path.suffix for path in (tmp_path / "cubin").iterdir()) == [".cubin", ".log"]
    with pytest.raises(pytest.fail.Exception):
        nvrtc.run(records.instantiations(STAGES[0], None, **ONE | {"causal": True})[0].job)


def test_a_changed_header_makes_the_record_stale(tmp_path, monkeypatch, capsys):
    stage = planted(tmp_path)
    assert nvrtc.source_hash(stage) == nvrtc.source_hash(STAGES[0])
    shutil.copytree(nvrtc.STAGES_DIR / "common", tmp_path / "common", ignore=shutil.ignore_patterns("*.py*"))
    monkeypatch.setattr(nvrtc, "STAGES_DIR", tmp_path)
    assert command.check([STAGES[0]]) == 0
    with open(tmp_path / "common" / "params.cuh", "a") as header:
        header.write("// more\n")
    assert command.check([STAGES[0]]) == 1
    assert "has changed since s20.json was recorded; `make sass`" in capsys.readouterr().err
    monkeypatch.setattr(results, "RESULTS_DIR", tmp_path)
    assert command.check([STAGES[0]]) == 1
    assert "nothing is recorded" in capsys.readouterr().err


# -------------------------------------------------------------------------------- occupancy


@pytest.mark.parametrize(
    "arch, takes, blocks, limited_by",
    [
        ("90a", {"registers": 220, "shared": 49152, "threads": 128}, 2, ("registers",)),
        ("89", {"registers": 220, "shared": 49152, "threads": 128}, 2, ("registers", "shared memory")),
        ("89", {"registers": 128, "shared": 49152, "threads": 128}, 2, ("shared memory",)),
        ("80", {"registers": 32, "shared": 0, "threads": 1024}, 2, ("registers", "threads")),
        ("89", {"registers": 32, "shared": 0, "threads": 1024}, 1, ("threads",)),
        ("80", {"registers": 16, "shared": 0, "threads": 32}, 32, ("blocks",)),
        ("90a", {"registers": 24, "shared": 0, "threads": 128, "barriers": 16}, 4, ("barriers",)),
        ("80", {"registers": 64, "shared": 163 * 1024, "threads": 128}, 1, ("shared memory",)),
        ("80", {"registers": 64, "shared": 163 * 1024 + 1, "threads": 128}, 0, ("shared memory",)),
        ("90a", {"registers": 168, "shared": 0, "threads": 416}, 0, ("registers",)),  # 13 warps count as 16
    ],
)
def test_occupancy(arch, takes, blocks, limited_by):
    fits = occupancy(arch, **takes)
    assert (fits.blocks, fits.limited_by) == (blocks, limited_by)
    assert fits.fraction == blocks * takes["threads"] / 32 / LIMITS[arch].warps


def test_occupancy_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="arch is '75'; accepted: 80, 89, 90a"):
        occupancy("75", registers=32, shared=0, threads=128)
    with pytest.raises(ValueError, match="threads is 0"):
        occupancy("80", registers=32, shared=0, threads=0)


ORACLE = """
#include <cstddef>
#include <cstdio>
#include "cuda_occupancy.h"
int main() {
  int major, minor, warps, shared, r, s, t, b;
  while (scanf("%d %d %d %d %d %d %d %d", &major, &minor, &warps, &shared, &r, &s, &t, &b) == 8) {
    cudaOccDeviceProp p;
    p.computeMajor = major; p.computeMinor = minor; p.maxThreadsPerBlock = 1024;
    p.maxThreadsPerMultiprocessor = 32 * warps; p.regsPerBlock = p.regsPerMultiprocessor = 65536; p.warpSize = 32;
    p.sharedMemPerBlock = 48 * 1024; p.sharedMemPerMultiprocessor = shared; p.numSms = 1;
    p.sharedMemPerBlockOptin = shared - 1024; p.reservedSharedMemPerBlock = 1024;
    cudaOccFuncAttributes f;
    f.maxThreadsPerBlock = 1024; f.numRegs = r; f.sharedSizeBytes = 0; f.partitionedGCConfig = PARTITIONED_GC_OFF;
    f.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN; f.maxDynamicSharedSizeBytes = shared - 1024; f.numBlockBarriers = b;
    cudaOccDeviceState state;
    state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    cudaOccResult result;
    int error = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &p, &f, &state, t, s);
    printf("%d\\n", error ? -1 : result.activeBlocksPerMultiprocessor);
  }
}
"""


def test_occupancy_is_that_of_the_toolkits_own_calculator(tmp_path):
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec else ()
    headers = [header for root in roots for header in sorted(Path(root).glob("**/cuda_occupancy.h"))]
    if not headers or find_compiler() is None:
        pytest.skip("needs cuda_occupancy.h (package nvidia-cuda-runtime) and a C++ compiler")
    (tmp_path / "oracle.cpp").write_text(ORACLE)
    program = tmp_path / "oracle"
    build = [find_compiler(), "-w", f"-I{headers[0].parent}", "-o", program, tmp_path / "oracle.cpp"]
    subprocess.run(build, check=True)
    asked = [
        (arch, r, s, t, b)
        for arch in LIMITS
        for r in (16, 32, 33, 64, 96, 127, 128, 168, 221, 240, 255)
        for s in (0, 1, 1024, 8192, 24576, 49152, 65536, 98304, 100352)
        for t in (32, 96, 128, 160, 256, 384, 416, 512, 1024)
        for b in (0, 1, 3, 16)
    ]
    lines = [
        f"{arch[0]} {arch[1]} {LIMITS[arch].warps} {LIMITS[arch].shared} {r} {s} {t} {b}" for arch, r, s, t, b in asked
    ]
    said = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=True).stdout.split()
    ours = [occupancy(arch, registers=r, shared=s, threads=t, barriers=b).blocks for arch, r, s, t, b in asked]
    assert [(one, a, b) for one, a, b in zip(asked, ours, map(int, said), strict=True) if a != b] == []


# -------------------------------------------------------------------------------- machine code

LISTING = """
.text._Z1k:
_Z1k:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 EXIT ;
        /*0020*/                   CS2R R2, SRZ ;
        /*0030*/                   IMAD.MOV.U32 R4, RZ, RZ, RZ ;
.L_x_0:
        /*0040*/                   IMAD.U32 R5, RZ, RZ, UR4 ;
        /*0050*/                   BRA.DIV ~URZ, `(.L_x_5) ;
.L_x_1:
        /*0060*/                   SHFL.BFLY PT, R6, R5, 0x1, 0x1f ;
.L_x_2:
        /*0070*/                   HMMA.16816.F32.BF16 R8, R12, R16, RZ ;
        /*0080*/              @!PT LDS RZ, [RZ] ;
        /*0090*/               @P1 BRA `(.L_x_4) ;
        /*00a0*/                   LDSM.16.M88.4 R16, [R20] ;
        /*00b0*/               @P2 BRA `(.L_x_2) ;
.L_x_3:
        /*00c0*/               @P0 CALL.REL.NOINC `(.L_x_6) ;
        /*00d0*/                   BRA `(.L_x_0) ;
.L_x_6:
        /*00e0*/                   STG.E [R2], R8 ;
        /*00f0*/                   EXIT ;
.L_x_4:
        /*0100*/                   IMAD.IADD R9, R9, 0x1, R3 ;
        /*0110*/                   BRA `(.L_x_2) ;
.L_x_5:
        /*0120*/                   SHFL.BFLY PT, R6, R5, 0x1, 0x1f ;
        /*0130*/                   BRA `(.L_x_1) ;
.L_x_7:
        /*0140*/                   BRA `(.L_x_7);
        /*0150*/                   NOP;
.L_x_8:
"""


def test_a_listing_is_counted_without_what_does_nothing():
    counted = mix.count(mix.parse(LISTING))
    assert counted["total"] == 19 and counted["zeroing"] == 2
    families = mix.families(counted)
    assert sum(families.values()) == 19
    assert {name: families[name] for name in ("HMMA", "LDSM", "LDS", "MOV", "SHFL", "IADD3", "STG")} == {
        "HMMA": 1,
        "LDSM": 1,
        "LDS": 0,
        "MOV": 4,
        "SHFL": 2,
        "IADD3": 1,
        "STG": 1,
    }
    assert families["other"] == counted["opcodes"]["BRA"] + counted["opcodes"]["CALL"] + counted["opcodes"]["EXIT"]


def test_the_main_loop_is_the_innermost_with_the_products_and_holds_what_lies_elsewhere():
    names = [code.name for code in mix.main_loop(mix.parse(LISTING))]
    assert names == ["HMMA.16816.F32.BF16", "BRA", "LDSM.16.M88.4", "BRA", "IMAD.IADD", "BRA"]
    outer = mix.parse(
        LISTING.replace("@P2 BRA `(.L_x_2)", "@P2 BRA `(.L_x_6)").replace("BRA `(.L_x_2) ;", "BRA `(.L_x_3) ;")
    )
    assert [code.name for code in mix.main_loop(outer)][:3] == ["IMAD.U32", "BRA.DIV", "SHFL.BFLY"]
    assert len(mix.main_loop(outer)) == 11  # the lane-by-lane path of BRA.DIV is not in it
    assert mix.main_loop(mix.parse("/*0000*/ EXIT ;")) == []


@needs_nvrtc
@needs_disassembler
def test_both_disassemblers_are_read_alike():
    tool = mix.find_disassembler()
    other = tool.parent / "cuobjdump"
    if not other.exists():
        pytest.skip("cuobjdump does not lie beside nvdisasm")
    cubin = nvrtc.run(records.instantiations(STAGES[0], None, **ONE)[0].job).cubin
    one, two = (mix.parse(mix.disassemble(cubin, path)) for path in (tool, other))
    assert mix.count(one) == mix.count(two)
    assert mix.count(mix.main_loop(one)) == mix.count(mix.main_loop(two))


# -------------------------------------------------------------------------------- the command


@needs_nvrtc
@needs_disassembler
def test_a_stage_against_a_changed_copy(tmp_path, capsys):
    """The copy has one product of QKᵀ twice: 16 more, and no more loads."""
    line = "        mma_m16n8k16<T>(S[2 * n], Q_frag[k], K_frag[0], K_frag[2]);\n"
    stage = planted(tmp_path, (line, line + line))
    argv = ["s20", str(stage.kernel_file), "--arch", "80", "--headdim", "64", "--jobs", "1"]
    assert command.main(argv) == 0
    rows = {line.split("  ")[1].strip(): line.split() for line in capsys.readouterr().out.splitlines() if "  " in line}
    assert rows["HMMA (mma.sync)"][-6:] == ["64", "80", "+16", "64", "80", "+16"]
    assert rows["LDSM (ldmatrix)"][-4:] == ["36", "36", "32", "32"]


@needs_nvrtc
def test_without_a_disassembler_all_but_the_instructions_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(mix, "find_disassembler", lambda: None)
    assert command.main(["s20", "--arch", "80", "--headdim", "64", "--causal", "no", "--jobs", "1"]) == 0
    said = capsys.readouterr()
    assert "pip install nvidia-cuda-nvdisasm" in said.err
    registers = nvrtc.compile_for(get("s20"), "attention_kernel<bf16, 64, false>", "80").registers
    assert str(registers) in said.out and "registers" in said.out and "HMMA" not in said.out
    assert command.main(["--record"]) == 1
    assert "nothing is written" in capsys.readouterr().err


@needs_nvrtc
@needs_disassembler
def test_the_machine_code_is_written(tmp_path):
    file = tmp_path / "s20.sass"
    assert command.main(["s20", "--headdim", "64", "--arch", "80", "--dump", str(file)]) == 0
    text = file.read_text()
    assert "HMMA.16816" in text and 'kernel.cu", line' in text


@needs_nvrtc
def test_an_undeclared_fault_is_exit_1(tmp_path, capsys):
    stage = planted(tmp_path, SPILL)
    argv = ["s20", str(stage.kernel_file), "--arch", "80", "--headdim", "64", "--jobs", "1"]
    assert command.main(argv) == 1
    assert "sm_80, bfloat16, d64: spill, which the stage does not declare" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, says",
    [
        (["s12"], "s12_triton_v2 is no CUDA stage; accepted: s20"),
        (["s99"], "stage is 's99'"),
        (["x.cu"], "accepted: after the stage"),
        (["s20", "gone.cu"], "gone.cu is no file"),
        (["s20", "--jobs", "0"], "accepted: 1 or more"),
        pytest.param(["s20", "--headdim", "48"], "has no such instantiation", marks=needs_nvrtc),
        pytest.param(
            ["s20", "--dump", "x", "--dtype", "all"], "2 instantiations answer", marks=[needs_nvrtc, needs_disassembler]
        ),
    ],
)
def test_wrong_arguments_are_exit_2(argv, says, capsys):
    with pytest.raises(SystemExit) as exit_:
        command.main(argv)
    assert exit_.value.code == 2 and says in capsys.readouterr().err


# -------------------------------------------------------------------------------- the figures


@pytest.fixture(scope="module")
def data():
    return Data([], [], sass=[records.load(records.path_of(STAGES[0]))])


@pytest.mark.parametrize(
    "keys, text",
    [
        ({"name": "loop:HMMA"}, "128"),
        ({"name": "loop:LDSM", "headdim": "64", "causal": "yes"}, "32"),
        ({"name": "HMMA", "arch": "80", "dtype": "float16"}, "128"),
        ({"name": "shared"}, "48 KiB"),
        ({"name": "occupancy", "arch": "89"}, "16.7 %"),
        ({"name": "limit", "arch": "89"}, "registers and shared memory"),
        ({"name": "spill"}, "0"),
    ],
)
def test_figures(data, keys, text):
    assert figure(data, "sass", {"stage": "s20", **keys}) == text


@pytest.mark.parametrize(
    "keys, says",
    [
        ({"name": "mood"}, "name is 'mood'; accepted: registers"),
        ({"name": "loop:registers"}, "name is 'loop:registers'"),
        ({"name": "HMMA", "arch": "75"}, "nothing is recorded by tools.sass of s20_mma arch=75"),
        ({"name": "HMMA", "headdim": "256"}, "headdim=256"),
    ],
)
def test_figures_that_are_not_there(data, keys, says):
    with pytest.raises(FigureError, match=re.escape(says)):
        figure(data, "sass", {"stage": "s20", **keys})


def test_a_damaged_file_is_named(tmp_path):
    good = json.loads(records.path_of(STAGES[0]).read_text())
    bad = json.loads(json.dumps(good))
    bad["instantiations"][0]["registers"] = float("nan")
    for text in ("{", "[]", "{}", json.dumps(bad), json.dumps(good | {"instantiations": []})):
        (tmp_path / "s20.json").write_text(text)
        with pytest.raises(results.ResultsError, match="s20.json: damaged"):
            records.load(tmp_path / "s20.json")
