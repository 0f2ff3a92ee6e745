"""Figures in documents: filled between markers, stale ones found, and nothing guessed."""

import json
import re

import pytest

from tests import synthetic
from tools import figures, inject, results
from tools.figures import Data, FigureError, figure


def profile(date, **counters):
    return {
        "environment": {"device": synthetic.DEVICE, "date": date},
        "profiles": [
            {
                "name": "s12_triton_v2",
                "dtype": "bfloat16",
                "seqlen": 4096,
                "headdim": 128,
                "causal": False,
                "counters": {"tensor_busy": 36.52, "dram_read": 201506560.0} | counters,
            }
        ],
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    profiles = []
    for date, count in (("2031-02-03", 1282447360.0), ("2031-02-02", 1.0)):
        (folder / "p.json").write_text(json.dumps(profile(date, instructions=count)))
        profiles += figures.load_profile(folder / "p.json")
    return Data(synthetic.records(), [synthetic.environment()], profiles)


def ask(data, asks: str) -> str:
    kind, *words = asks.split()
    return figure(data, kind, dict(word.split("=", 1) for word in words))


@pytest.mark.parametrize(
    "asks, text",
    [
        ("ratio stage=s13 peer=torch_fa2 headdim=128 causal=no", "1.50×"),
        ("ratio stage=s13_triton_tuned peer=torch_cudnn headdim=64 causal=yes", "0.79×"),
        ("ratio512 stage=s20 peer=torch_fa2 headdim=128 causal=no", "0.16×"),
        ("ratio512 stage=s11 peer=torch_fa2 headdim=128 causal=no", "0.097×"),
        ("tflops stage=s12 headdim=128 causal=no seqlen=4096", "214 TFLOP/s"),
        ("tflops stage=torch_fa2 headdim=64 causal=yes seqlen=16k", "302 TFLOP/s"),
        ("tflops stage=s12 headdim=128 seqlen=4k", "214 TFLOP/s"),  # causal=no
        ("time stage=s13 headdim=128 causal=yes seqlen=512", "0.124 ms"),
        ("speedup stage=s12 over=s11 headdim=128 causal=no seqlen=4096", "21.4×"),
        ("memory stage=s01 seqlen=4096 headdim=64", "192 MiB"),
        ("memory stage=s12 seqlen=4096 headdim=128", "65.0 MiB"),
        ("spread stage=s12 headdim=128 seqlen=4k", "2.0 %"),
        ("device", f"{synthetic.DEVICE}, 2031-02-03"),
        ("device stage=s13", f"{synthetic.DEVICE}, 2031-02-03"),
        ("device stage=s01", f"{synthetic.CPU}, 2031-02-03"),
        ("ceiling of=copy", "4.25 TB/s"),
        ("ceiling of=matmul", "798 TFLOP/s"),
        ("programs stage=s11 headdim=128 seqlen=16k", "16"),
        ("moved stage=s12 headdim=128 seqlen=16k", "34.5 GB"),
        ("counter stage=s12 name=tensor_busy seqlen=4k", "36.5 %"),
        ("counter stage=s12 name=dram_read", "202 MB"),
        ("counter stage=s12 name=instructions", "1.28 billion"),  # of the newer file
    ],
)
def test_figures(data, asks, text):
    assert ask(data, asks) == text


@pytest.mark.parametrize(
    "asks, says",
    [
        ("guess stage=s12", "kind is 'guess'; accepted: ratio"),
        ("ratio stage=s12 headdim=128 causal=no", "ratio needs peer="),
        ("tflops stage=s12 colour=red", "no key 'colour'"),
        ("tflops stage=s99", "stage: stage is 's99'"),
        ("ratio stage=s12 peer=fa9 headdim=128 causal=no", "peer is 'fa9'"),
        ("tflops stage=s12 causal=maybe", "causal is 'maybe'"),
        ("tflops stage=s12 seqlen=long", "seqlen is 'long'"),
        ("tflops stage=s12 headdim=128 seqlen=3000", "no timed entry for s12_triton_v2"),
        ("tflops stage=torch_math headdim=64 seqlen=16k", "no timed entry for torch_math"),
        ("tflops stage=s12 seqlen=4096", "headdim: 128, 64; say which"),
        ("ratio stage=s12 peer=torch_fa2 headdim=256 causal=no", "no run timed both"),
        ("ratio stage=torch_math peer=torch_fa2 headdim=64 causal=no", "seqlen=16384"),
        ("device device=h900", "no results of device 'h900'"),
        ("device stage=s02 device=h900", "no timed entry for s02"),
        ("ceiling of=latency", "of is 'latency'"),
        ("counter stage=s12 name=mood", "name is 'mood'; accepted: time"),
        ("counter stage=s12 name=tensor_busy seqlen=8k", "no profile has tensor_busy of name=s12_triton_v2"),
        ("moved stage=s13 headdim=128 seqlen=4k", "counted are s11_triton_v1"),
    ],
)
def test_what_is_not_there_is_not_guessed(data, asks, says):
    with pytest.raises(FigureError, match=re.escape(says)):
        ask(data, asks)


def test_of_several_devices_one_has_to_be_named():
    other = "NVIDIA Other 1"
    records = synthetic.records() + [r | {"device": other} for r in synthetic.gpu_records()]
    data = Data(records, [synthetic.environment(), synthetic.environment(device=other)])
    with pytest.raises(FigureError, match="differ in device"):
        ask(data, "tflops stage=s12 headdim=128 seqlen=4k")
    with pytest.raises(FigureError, match="2 devices answer"):
        ask(data, "device")
    assert ask(data, "tflops stage=s12 headdim=128 seqlen=4k device=other") == "214 TFLOP/s"
    assert ask(data, "device device=other") == f"{other}, 2031-02-03"


def test_the_newest_run_is_quoted():
    newer = [r | {"tflops": 1.0} for r in synthetic.gpu_records(run="2031-02-04T00:00:00+00:00")]
    data = Data(newer + synthetic.gpu_records(), [synthetic.environment()])
    assert ask(data, "tflops stage=s12 headdim=128 seqlen=4k") == "1.00 TFLOP/s"


def test_peers_table(data):
    lines = ask(data, "peers-table headdim=128 causal=no").splitlines()
    assert lines[0] == "| TFLOP/s | 512 | 1k | 2k | 4k | 8k | 16k | × FA2 |"
    assert "| torch_fa2 | 308 | 336 | 349 | 356 | 357 | 351 | 1.00× |" in lines
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| s11_triton_v1", "| s12_triton_v2"]
    assert not any("s01" in line for line in lines)
    with_a_gap = ask(data, "peers-table headdim=64 causal=no").splitlines()
    assert "| torch_math | 25.0 | 25.0 | 25.0 | 25.0 | 25.0 | – | – |" in with_a_gap
    with pytest.raises(FigureError, match="headdim=256"):
        ask(data, "peers-table headdim=256 causal=no")


def test_ladder_table(data):
    lines = ask(data, "ladder-table links=../stages/ lessons=../notebooks").splitlines()
    assert " · [lesson](../notebooks/s13_triton_tuned.ipynb) |" in "\n".join(lines)
    lines = ask(data, "ladder-table links=../stages/").splitlines()
    row = next(line for line in lines if "s12_triton_v2" in line)
    assert row.startswith("| [s12_triton_v2](../stages/s12_triton_v2/) | ")
    assert row.endswith(" | 214 | 0.60× | 0.60× | 0.60× | 0.60× |")
    assert len({line.count(" | ") for line in lines}) == 1
    assert figures.table(["a", "b"], [["x|y", "1"]]).splitlines()[-1] == r"| x\|y | 1 |"


# Documents.

RATIO = "inject: ratio stage=s13 peer=torch_fa2 headdim=128 causal=no"
DOCUMENT = f"""# Title

It is <!-- {RATIO} -->9.99×<!-- /inject --> as fast on <!-- inject: device --><!-- /inject -->.

<!-- inject: peers-table headdim=128 causal=no -->
<!-- /inject -->
The end.
"""


def test_markers_are_filled_and_the_rest_stays(data):
    filled = inject.fill(DOCUMENT, data)
    assert f"It is <!-- {RATIO} -->1.50×<!-- /inject --> as fast on <!-- inject: device -->NVIDIA" in filled.text
    assert "causal=no -->\n| TFLOP/s | 512 |" in filled.text and "|\n<!-- /inject -->\nThe end.\n" in filled.text
    assert len(filled.stale) == 3 and filled.stale[0].startswith("document:3: ratio stage=s13")
    again = inject.fill(filled.text, data)
    assert again.text == filled.text and again.stale == []


def test_a_marker_in_a_code_block_is_left_alone(data):
    document = f"```\n<!-- {RATIO} -->x<!-- /inject -->\n<!-- inject: guess -->\n```\n"
    assert inject.fill(document, data) == inject.Filled(document, [])


@pytest.mark.parametrize(
    "document, says",
    [
        (f"\n\n<!-- {RATIO} -->1.50×\n", "d.md:3: marker without its end"),
        (f"<!-- {RATIO} -->\n<!-- {RATIO} -->1.50×<!-- /inject -->\n", "d.md:1: marker without its end"),
        ("\n1.50×<!-- /inject -->\n", "d.md: 1 markers end, and 0 begin"),
        ("\n<!-- inject: guess -->1<!-- /inject -->\n", "d.md:2: kind is 'guess'"),
        (
            "\n<!-- inject: tflops s12 -->1<!-- /inject -->\n",
            "d.md:2: 's12' in 'tflops s12'; accepted: key=value",
        ),
        ("<!-- inject: -->1<!-- /inject -->", "d.md:1: marker is ''"),
    ],
)
def test_broken_markers_are_named_with_their_line(data, document, says):
    with pytest.raises(inject.InjectError, match=re.escape(says)):
        inject.fill(document, data, "d.md")


def test_all_problems_of_a_document_are_listed(data):
    document = "<!-- inject: a -->1<!-- /inject -->\n<!-- inject: b -->1<!-- /inject -->\n"
    with pytest.raises(inject.InjectError) as caught:
        inject.fill(document, data, "d.md")
    assert [problem.split(": ")[0] for problem in caught.value.problems] == ["d.md:1", "d.md:2"]


@pytest.fixture
def place(tmp_path):
    """(document, results file) in a folder of their own."""
    path = tmp_path / "r.json"
    results.save(path, synthetic.environment(), {}, synthetic.records())
    (tmp_path / "d.md").write_text(DOCUMENT, encoding="utf-8")
    return tmp_path / "d.md", path


def test_check_fails_on_a_stale_marker_and_passes_when_it_is_filled(place, capsys):
    document, file = place
    argv = [str(document), "--results", str(file)]
    assert inject.main(["--check", *argv]) == 1
    assert "d.md:3: ratio stage=s13" in capsys.readouterr().err
    assert document.read_text(encoding="utf-8") == DOCUMENT
    assert inject.main(argv) == 0
    assert inject.main(["--check", *argv]) == 0
    stale = document.read_text(encoding="utf-8").replace("1.50×<!-- /inject --> as", "1.51×<!-- /inject --> as")
    document.write_text(stale, encoding="utf-8")
    assert inject.main(["--check", *argv]) == 1


def test_nothing_is_written_when_a_marker_cannot_be_filled(place, capsys, tmp_path):
    document, file = place
    other = tmp_path / "e.md"
    other.write_text("<!-- inject: guess -->1<!-- /inject -->")
    assert inject.main([str(document), str(other), "--results", str(file)]) == 1
    assert "e.md:1: kind is 'guess'" in capsys.readouterr().err
    assert document.read_text(encoding="utf-8") == DOCUMENT


def test_a_damaged_profile_is_named(place, capsys, monkeypatch):
    document, file = place
    monkeypatch.setattr(results, "RESULTS_DIR", file.parent)
    (file.parent / "profile").mkdir()
    for text in ("{", "[]", '{"environment": {}}', json.dumps(profile("2031-02-03", time=float("nan")))):
        (file.parent / "profile" / "p.json").write_text(text)
        assert inject.main([str(document), "--results", str(file)]) == 1
        assert "p.json: damaged" in capsys.readouterr().err
    assert document.read_text(encoding="utf-8") == DOCUMENT


def test_a_damaged_results_file_is_named(place, capsys):
    document, file = place
    data = json.loads(file.read_text())
    data["records"][5]["ms_median"] = float("nan")
    file.write_text(json.dumps(data))
    assert inject.main([str(document), "--results", str(file)]) == 1
    assert "r.json: record 5" in capsys.readouterr().err


def test_a_document_that_is_not_there_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_:
        inject.main(["gone.md"])
    assert exit_.value.code == 2 and "gone.md is no file" in capsys.readouterr().err


def test_which_documents_are_filled(tmp_path):
    for name in ("README.md", "stages/s01_naive/README.md", "docs/deep/er/page.md", "notebooks/s01.md", "notes/a.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = [str(path.relative_to(tmp_path)) for path in inject.documents(tmp_path)]
    assert found == ["README.md", "docs/deep/er/page.md", "notebooks/s01.md", "stages/s01_naive/README.md"]


def test_the_repository_has_no_stale_marker(capsys):
    """Fails until `python -m tools.inject` has been run on the results that are committed."""
    assert inject.main(["--check"]) == 0, capsys.readouterr().err
