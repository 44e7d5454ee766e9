"""Numbers read back from a folder, small enough to add up by hand, and how they are spelt."""

import json
from pathlib import Path

import pytest

from fedllm_app.core.units import format_bytes, format_metric, format_seconds, format_times
from fedllm_app.report.curves import running_mean
from fedllm_app.report.page import summary_rows
from fedllm_app.report.run import Run, carried, read_run
from fedllm_app.report.tables import DASH, evaluation_table
from fedllm_app.run.ledger import Ledger
from fedllm_app.run.metrics import JsonLines


@pytest.fixture
def small(tmp_path: Path) -> Run:
    """Three rounds, evaluated at 0, 1 and 3; 100 bytes up and 10 down in each of the first two."""
    metrics, timing = JsonLines(tmp_path / "metrics.jsonl"), JsonLines(tmp_path / "timing.jsonl")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    first = {"headline": "accuracy", "evaluation": {"accuracy": 0.1, "loss": 3.0}}
    metrics.append({"round": 0, "up-bytes": 0, **first})
    timing.append({"round": 0, "seconds": 5.0, "parts": {"evaluate": 5.0}})
    for round, scores in ((1, (0.5, 1.0)), (2, None), (3, (0.4, 2.0))):
        if round < 3:
            ledger.record(round, "a", "all", "down", 1, 2, 7, 40)
            ledger.record(round, "a", "all", "up", 10, 20, 70, 400, accepted=round == 1)
            ledger.end_round()
        record: dict[str, object] = {"round": round, "dropped": {"late": round}, "up-bytes": 100}
        if scores:
            record["evaluation"] = dict(zip(("accuracy", "loss"), scores, strict=True))
        metrics.append(record)
        timing.append({"round": round, "seconds": 2.0, "parts": {"wait": 1.0, "fold": 0.5}})
    for file in (metrics, timing, ledger):
        file.close()
    (tmp_path / "config.toml").write_text('[strategy]\nname = "floss"\nd-up = 0.25\n')
    return read_run(tmp_path)


def test_a_run_that_diverged_ends_in_no_number(small: Run) -> None:
    with (small.folder / "metrics.jsonl").open("a") as file:
        last = {"accuracy": 0.1, "loss": None, "perplexity": None}  # as JsonLines writes NaN
        file.write(json.dumps({"round": 4, "evaluation": last}) + "\n")
    run = read_run(small.folder)
    assert (run.final("loss"), run.final("accuracy"), run.best("loss")[1]) == (None, 0.1, 1.0)
    rows = {row.cells[0].text: [c.text for c in row.cells] for row in evaluation_table(run).rows}
    assert rows["Loss"][1:3] == ["3.0000", DASH]
    assert rows["Perplexity"][1:] == [DASH, DASH]


def test_metrics_final_best_and_bytes_to_target(small: Run) -> None:
    assert (small.headline, small.last_round, small.seconds) == ("accuracy", 3, 11.0)
    assert small.final("accuracy") == 0.4
    best, lowest = small.best("accuracy"), small.best("loss")
    assert best is not None and (best[0]["round"], best[1]) == (1, 0.5)
    assert lowest is not None and (lowest[0]["round"], lowest[1]) == (1, 1.0)
    reached = small.reached("accuracy", 0.45)
    assert reached is not None and reached["up-bytes"] == 100
    assert small.reached("accuracy", 0.9) is None
    assert (small.reached("loss", 3.0) or {})["up-bytes"] == 0


def test_bytes_seconds_and_drops(small: Run) -> None:
    assert small.sent("up") == (200, 800)
    assert small.sent("down") == (20, 80)
    assert small.part_bytes("up", "values") == 140
    assert small.part_bytes("down", "positions", 2) == 2
    assert small.part_bytes("down", "positions", 3) == 0
    assert small.dropped == {"late": 6}
    assert small.refused == {"a": 1}
    assert small.mean_seconds() == {"wait": 1.0, "fold": 0.5, "other": 0.5}
    assert small.settings == {"strategy.name": "floss", "strategy.d-up": 0.25}


def test_an_evaluation_alone_stands_where_the_round_before_it_ended() -> None:
    written = [
        {"round": 0, "evaluation": {"loss": 3.0}},
        {"round": 1, "up-bytes": 100, "simulated-s": 1.5},
        {"round": 1, "evaluation": {"loss": 1.0}},
    ]
    first, second, last = carried(written)
    assert first == {"round": 0, "up-bytes": 0, "simulated-s": 0, "evaluation": {"loss": 3.0}}
    assert second == written[1]
    assert last == {"round": 1, "up-bytes": 100, "simulated-s": 1.5, "evaluation": {"loss": 1.0}}
    # What no record has is not made up.
    assert carried(written[:1]) == written[:1]


def test_a_run_without_a_clock_has_no_simulated_seconds(small: Run) -> None:
    assert not small.clock
    assert small.simulated_s is None
    assert small.staleness is None


def test_staleness_is_a_mean_over_replies_and_the_largest(tmp_path: Path) -> None:
    metrics = JsonLines(tmp_path / "metrics.jsonl")
    metrics.append({"round": 0, "headline": "loss"})
    for round, replies, mean, most in ((1, 2, 0.0, 0), (2, 4, 1.5, 3)):
        stale = {"staleness-mean": mean, "staleness-most": most}
        metrics.append({"round": round, "clients": replies, "dropped": {}} | stale)
    metrics.append({"round": 3, "clients": 0, "dropped": {"stale": 1, "late": 2}})
    assert read_run(tmp_path).staleness == (1.0, 3)
    rows = dict(summary_rows(tmp_path))
    assert rows["staleness"] == "1.00 steps on average, 3 at most"
    assert rows["dropped replies"] == "2 late, 1 stale"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345, "12.3 kB"), (999_949, "1.00 MB"),
     (660_000_000, "660 MB"), (23e9, "23.0 GB"), (5e12, "5.00 TB"), (999.7e3, "1.00 MB")],
)  # fmt: skip
def test_bytes_have_three_digits(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_seconds_times_and_metrics_as_people_read_them() -> None:
    assert [format_seconds(s) for s in (0.0, 0.041, 0.0996, 0.413, 12.34, 99.97, 245.2, 7620)] == [
        "0 s", "41.0 ms", "0.10 s", "0.41 s", "12.3 s", "1 min 40 s", "4 min 05 s", "2 h 07 min",
    ]  # fmt: skip
    assert format_times(64, 4) == "16.0\N{MULTIPLICATION SIGN}"
    assert format_times(64, 0) == "\N{EN DASH}"
    assert [format_metric(m) for m in (0.63391, 1234.56, None)] == ["0.6339", "1235", "\N{EN DASH}"]


def test_running_mean_leaves_out_what_is_not_known() -> None:
    assert running_mean([1.0, float("nan"), 3.0, 5.0], 2) == [1.0, 1.0, 3.0, 4.0]
