"""What a job holds in memory is counted within 15 % of what a process of its own grew by."""

import pytest

from benchmarks.record import ROOT, kept_rows
from benchmarks.studies.device_memory import CASES, NAME, Case, row_of, table

ROWS = kept_rows(NAME)


def test_every_case_was_measured_and_counted_within_15_percent():
    assert len(ROWS) == len(CASES)
    for row, case in zip(ROWS, CASES, strict=True):
        assert {name: row[name] for name in vars(case)} == vars(case)
        assert row["ratio"] == pytest.approx(row["counted"]["total"] / row["measured"], abs=1e-3)
        assert 0.85 < row["ratio"] < 1.15, case


def test_the_page_has_the_table_of_the_result():
    assert table(ROWS) in (ROOT / "docs" / "devices.md").read_text("utf-8")


@pytest.mark.real
def test_a_process_grows_by_what_is_counted():
    assert 0.85 < row_of(Case("tiny", batch=4))["ratio"] < 1.15
