"""The machine code that lessons show: recorded of the kernels as they are, read as the compiler's, counted right."""

from __future__ import annotations

import re

import pytest

from stages import get
from tests.conftest import needs_nvrtc
from tools import nvrtc
from tools.lesson import LessonError, listing, listings, record_listings
from tools.notebooks.pair import pairs
from tools.sass import mix, records

needs_disassembler = pytest.mark.skipif(
    mix.find_disassembler() is None, reason=f"needs nvdisasm (package {mix.PACKAGE}), which is not installed"
)


def head(name: str) -> str:
    return listings.path_of(name).read_text(encoding="utf-8").partition("\n")[0]


DEFAULT = [name for name, wanted in listings.WANTED.items() if not wanted.changes and not wanted.tiles]

# ---- what is recorded ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", listings.WANTED)
def test_the_listings_are_of_the_kernels_as_they_are(name):
    """Fails until `python -m tools.lesson.record_listings` has been run on the kernels that are there."""
    assert listings.stale(name) == ""
    loop = mix.families(mix.count(listings.loop(name)))
    wanted = listings.WANTED[name]
    m_tiles = wanted.tiles.Br // (wanted.tiles.num_warps * 16) if wanted.tiles else 1
    assert (loop["HMMA"], loop["BAR"]) == (2 * m_tiles * wanted.loads["KV"], 1)
    assert loop["LDSM"] == wanted.loads["KV"] + wanted.loads["Q"]


@pytest.mark.parametrize("name", DEFAULT)
def test_the_listings_count_as_the_records_do(name):
    wanted = listings.WANTED[name]
    document = records.load(records.path_of(get(wanted.stage)))
    if f"NVRTC {document['compiler']['nvrtc']}," not in head(name):
        pytest.skip("docs/results/sass and the listings are of two compilers")
    where = {"arch": listings.ARCH, "headdim": wanted.headdim, "causal": False, "dtype": "bfloat16"}
    record = records.find([document], get(wanted.stage).name, **where)
    assert mix.count(listings.loop(name)) == record["loop"]
    assert listings.registers(name) == record["registers"]


@needs_nvrtc
@needs_disassembler
@pytest.mark.parametrize("name", ("s24", "s25_no_branch", "s34_128x64"))
def test_the_compiler_at_hand_makes_what_is_recorded(name):
    made = record_listings.document(name, mix.find_disassembler())
    if f"NVRTC {nvrtc.compiler_version()}," not in head(name):
        pytest.skip(f"recorded with another compiler than NVRTC {nvrtc.compiler_version()}")
    assert made.partition("\n")[2] == listings.path_of(name).read_text(encoding="utf-8").partition("\n")[2]


def test_a_changed_kernel_makes_a_listing_stale(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(listings, "FOLDER", tmp_path)
    assert listings.stale("s24") == "s24: nothing is recorded"
    (tmp_path / "s24.sass").write_text("// s24: source 0123456789abcdef; registers 255\n")
    assert "has changed" in listings.stale("s24")
    assert record_listings.main(["--check", "s24"]) == 1
    assert "has changed" in capsys.readouterr().err
    assert listings.WANTED["s25"].source != listings.WANTED["s25_no_branch"].source


def test_the_command(capsys):
    assert record_listings.main(["--check"]) == 0
    with pytest.raises(SystemExit) as exit_:
        record_listings.main(["s99"])
    assert exit_.value.code == 2 and "s23" in capsys.readouterr().err


@pytest.mark.parametrize("pair", pairs(), ids=lambda pair: pair.name.partition("_")[0])
def test_lines_of_machine_code_that_a_lesson_quotes_are_in_a_listing(pair):
    recorded = {f"{one.name} {one.operands}" for name in listings.WANTED for one in listings.loop(name)}
    text = pair.text.read_text(encoding="utf-8")
    for line in re.findall(r"`((?:HMMA|LDSM|IMAD|MOV|FFMA|FMUL|BRA)[.\w]* @?!?\w+,[^`]*)`", text):
        assert line in recorded, line


# ---- what is shown ------------------------------------------------------------------------------------------


def test_a_listing_shows_lines_with_their_places():
    lines = repr(listing("s24", "LDSM", "HMMA", first=200, lines=5)).splitlines()
    assert lines[0].startswith("s24: the loop over K/V tiles, ") and len(lines) == 7
    for line in lines[2:]:
        place, name = line.split()[:2]
        assert listings.loop("s24")[int(place)].name == name
        assert name.startswith(("LDSM", "HMMA")) and int(place) >= 200
    assert "IMAD.MOV" in repr(listing("s27", "IMAD.MOV", lines=1))


@pytest.mark.parametrize(
    "asks", ({"name": "s99"}, {"name": "s24", "first": 10_000}, {"name": "s24", "opcode": "NOTHING"})
)
def test_a_listing_that_is_not_there_is_an_error(asks):
    opcodes = [asks.pop("opcode")] if "opcode" in asks else []
    with pytest.raises(LessonError, match="there are|first is 10000|no NOTHING"):
        listing(asks.pop("name"), *opcodes, **asks)
