"""tools.profile: what ncu prints becomes counters in base units, or an error that says what is missing."""

import pytest

from tools.profile import COUNTERS, main, parse_ncu

HEADER = '"ID","Process ID","Process Name","Host Name","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'


def ncu_output(**overrides) -> str:
    """ncu's --csv output for one kernel: its own chatter first, then a row a metric."""
    rows = []
    for name, (metric, _, _) in COUNTERS.items():
        unit, value = overrides.get(name, ("", "1"))
        if value is not None:
            rows.append(f'"0","1","python3","host","attention_kernel","{metric}","{unit}","{value}"\n')
    return "==PROF== Connected to process 1\n" + HEADER + "".join(rows)


def test_values_come_out_in_base_units():
    found = parse_ncu(
        ncu_output(
            time=("us", "1,025.22"),
            dram_read=("Gbyte", "13.3"),
            dram_write=("Mbyte", "59.2"),
            l2_read=("sector", "622,958,000"),
            sms_busy=("%", "48.07"),
        )
    )
    assert found["time"] == pytest.approx(1_025_220)  # ns
    assert found["dram_read"] == pytest.approx(13.3e9)
    assert found["dram_write"] == pytest.approx(59.2e6)
    assert found["l2_read"] == 622_958_000
    assert found["sms_busy"] == 48.07
    assert set(found) == set(COUNTERS)


def test_a_missing_counter_is_named():
    with pytest.raises(ValueError, match=COUNTERS["dram_read"][0]):
        parse_ncu(ncu_output(dram_read=("", None)))


def test_no_counters_at_all():
    with pytest.raises(ValueError, match="ERR_NVGPUCTRPERM"):
        parse_ncu("==ERROR== ERR_NVGPUCTRPERM - The user does not have permission\n")


@pytest.mark.parametrize("argv, says", (([], "stages is empty"), (["s99"], "stage is 's99'")))
def test_wrong_arguments(capsys, argv, says):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def test_a_stage_without_kernel_is_refused(capsys):
    assert main(["s01"]) == 1
    assert "s01_naive does not run on a GPU" in capsys.readouterr().err
