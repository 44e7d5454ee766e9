"""Bytes at equal accuracy, progress, classes and settings, from folders small enough to count."""

import fcntl
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fedllm_app.config import RunConfig
from fedllm_app.config.unread import unread_keys
from fedllm_app.report import drawing, palette
from fedllm_app.report.classes import read_classes, write_classes
from fedllm_app.report.equal import equal_tables
from fedllm_app.report.page import summary_rows, write_comparison, write_report
from fedllm_app.report.progress import progress, state_of
from fedllm_app.report.run import Run, read_run
from fedllm_app.report.settings import differing
from fedllm_app.report.tables import about, classes_table, traffic_table
from fedllm_app.run.ledger import Ledger
from fedllm_app.run.metrics import JsonLines

Made = Callable[..., Run]
TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Return a function that writes a run that sends `up` and `down` bytes a round."""

    def write(
        name: str,
        scores: Sequence[float],
        up: int,
        down: int,
        metric: str = "accuracy",
        **keys: object,
    ) -> Run:
        folder = tmp_path / name
        folder.mkdir()
        metrics, timing = JsonLines(folder / "metrics.jsonl"), JsonLines(folder / "timing.jsonl")
        ledger = Ledger(folder / "ledger.jsonl")
        for round, score in enumerate(scores):
            record: dict[str, object] = {"round": round, "evaluation": {metric: score}}
            if round:
                for client in ("a", "b", "c"):
                    ledger.record(round, client, "all", "up", 0, 0, up, 10 * up)
                ledger.end_round()
                timing.append({"round": round, "seconds": 3.0, "parts": {}})
                record |= {"up-bytes": round * up, "down-bytes": round * down}
            else:
                record["headline"] = metric
            metrics.append(record)
        for file in (metrics, timing, ledger):
            file.close()
        flat = RunConfig.parse(keys | {"run.name": name}).flat()  # type: ignore[operator]
        lines = (f"{key} = {json.dumps(value)}\n" for key, value in flat.items())
        (folder / "config.toml").write_text("".join(lines))
        return read_run(folder)

    return write


def looks(runs: Sequence[Run]) -> list[drawing.Series]:
    return drawing.series([run.name for run in runs])


def rows(table: object) -> list[list[tuple[str, str]]]:
    return [[(cell.text, cell.sub) for cell in row.cells] for row in table.rows]  # type: ignore[attr-defined]


def test_savings_are_counted_where_runs_are_equally_good(made: Made) -> None:
    dense = made("dense", (0.1, 0.5, 0.6), 1000, 1000, **{"strategy.name": "dense"})
    floss = made("floss", (0.1, 0.4, 0.5, 0.595), 100, 500)
    (table,) = equal_tables([dense, floss], looks([dense, floss]))
    assert table.title == "Bytes at equal accuracy: 0.5900"  # 0.6 less one point
    assert rows(table) == [
        [("dense", ""), ("2", ""), ("2.00 kB", ""), ("2.00 kB", ""), ("4.00 kB", "")],
        [
            ("floss", ""), ("3", ""), ("300 B", f"1.70 kB saved, 6.67{TIMES} less"),
            ("1.50 kB", f"500 B saved, 1.33{TIMES} less"),
            ("1.80 kB", f"2.20 kB saved, 2.22{TIMES} less"),
        ],
    ]  # fmt: skip


def test_where_one_falls_short_they_are_compared_at_its_best_too(made: Made) -> None:
    dense = made("dense", (0.1, 0.4, 0.6), 1000, 10, **{"strategy.name": "dense"})
    floss = made("floss", (0.1, 0.3, 0.4), 800, 20)
    first, second = equal_tables([dense, floss], looks([dense, floss]))
    assert rows(first)[1][1] == ("not reached", "")
    assert second.title.endswith("0.4000")
    assert rows(second)[1][1:4] == [
        ("2", ""), ("1.60 kB", "600 B more"), ("40 B", "30 B more"),
    ]  # fmt: skip
    # Without a dense run, and where less is better: the worst of the lowest losses.
    runs = [made(n, s, 100, 100, "loss") for n, s in (("x", (3.0, 2.0, 1.0)), ("y", (3.0, 2.5)))]
    (table,) = equal_tables(runs, looks(runs))
    assert table.title == "Bytes at equal loss: 2.5000"
    assert [row[1][0] for row in rows(table)] == ["1", "1"]
    assert equal_tables(runs[:1], looks(runs[:1])) == []
    # A run that never learnt is no measure for the others.
    runs += [made("z", (3.0, 3.5), 100, 100, "loss")]
    assert equal_tables(runs, looks(runs)) == []


def test_a_run_says_how_far_it_is(made: Made) -> None:
    run = made("half", (0.1, 0.2, 0.3), 1, 1, **{"run.rounds": 8})
    assert state_of(run) == "stopped"
    assert progress(run).startswith("Round 2 of 8: stopped. Start the run again by its name")
    with (run.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert state_of(run) == "going"
        assert progress(run).startswith("Round 2 of 8, about 18.0 s left. The run is going on")
        page = write_report(run.folder).read_text("utf-8")
        assert '<progress max="1" value="0.25">' in page and "2 of 8" in page
        assert dict(summary_rows(run.folder))["rounds"] == "2 of 8"
    (run.folder / "adapter").mkdir()  # it ended early: a budget, a target
    assert progress(run) == ""
    assert "<progress" not in write_report(run.folder).read_text("utf-8")
    assert state_of(made("whole", (0.1, 0.2), 1, 1, **{"run.rounds": 1})) == "finished"


def test_clients_of_a_natural_partition_are_those_that_took_part(made: Made) -> None:
    assert "20 clients" in about(made("iid", (0.1, 0.2), 1, 1))
    natural = about(made("natural", (0.1, 0.2), 1, 1, **{"partition.name": "natural"}))
    assert natural.endswith(" · 3 clients took part")


def test_the_worst_classes_are_those_of_the_last_evaluation(made: Made) -> None:
    run = made("r", (0.1, 0.2), 1, 1)
    classes = [
        {"label": f"class {i}", "examples": 10, "correct": i, "predicted": 2 * i} for i in range(10)
    ]
    write_classes(run.folder, 1, classes)
    table = classes_table(read_run(run.folder))
    assert table is not None
    assert rows(table)[1] == [("class 1", ""), ("0.1000", ""), ("10", ""), ("2", "")]
    assert len(table.rows) == 8 and table.note.startswith("Of 10 classes")
    write_classes(run.folder, 1, [])  # a run that ends again and evaluates nothing
    assert len(read_classes(run.folder, 1)) == 10
    assert read_classes(run.folder, 2) == []
    assert "Worst classes" in write_report(run.folder).read_text("utf-8")
    (run.folder / "classes.json").write_text("[1]")
    assert classes_table(read_run(run.folder)) is None


def test_settings_that_no_run_reads_are_no_difference(made: Made, tmp_path: Path) -> None:
    keys = {"partition.name": "natural"}
    one = made("one", (0.1, 0.2), 1, 1, **keys | {"partition.clients": 5, "client.beta1": 0.8})
    two = made("two", (0.1, 0.2), 1, 1, **keys | {"client.optimizer": "adamw", "wire.block": 16})
    three = made(
        "three", (0.1, 0.2), 1, 1, **keys | {"strategy.name": "dense", "strategy.d-up": 0.5}
    )
    assert differing([one, two], unread_keys) == ["client.beta1", "client.optimizer"]
    assert differing([one, three], unread_keys) == ["strategy.d-up", "strategy.name"]
    page = write_comparison([one.folder, three.folder], tmp_path / "c.html", unread=unread_keys)
    text = page.read_text("utf-8")
    assert "A dash: the run does not read this key." in text
    assert not re.search(r"<th[^>]*>\s*partition\.clients", text)


def test_the_keys_of_another_version_all_count_as_read() -> None:
    assert unread_keys({"strategy.name": "floss", "gone.key": 1}) == frozenset()
    assert "strategy.density" in unread_keys({"strategy.name": "floss"})


def test_tables_of_bytes_stand_before_the_plots(made: Made) -> None:
    run = made("r", (0.1, 0.2), 1, 1)
    assert traffic_table(run).first
    text = write_report(run.folder).read_text("utf-8")
    assert text.index("<h2>Bytes</h2>") < text.index("<h2>Evaluation</h2>") < text.index("Plots")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_curves_stand_out_in_the_dark(made: Made, tmp_path: Path) -> None:
    paper = luminance("#15181c")
    for shown in palette.ON_DARK.values():
        assert (luminance(shown) + 0.05) / (paper + 0.05) > 6
    runs = [made(f"r{i}", (0.1, 0.2 + i / 50), 1 + i, 1) for i in range(7)]
    text = write_comparison([r.folder for r in runs], tmp_path / "c.html").read_text("utf-8")
    page = text.split("</style>")[1]
    for colour in palette.ON_DARK:
        # Never bare, where it would be the same in the dark.
        bare = re.sub(re.escape(palette.themed(colour)), "", page, flags=re.IGNORECASE)
        assert colour.lower() not in bare.lower()
    assert palette.themed(palette.BLUE) in page


def test_an_axis_within_one_power_of_ten_is_labelled_in_bytes(made: Made, tmp_path: Path) -> None:
    runs = [made("a", (0.1, 0.2, 0.3), 4_000_000, 1), made("b", (0.1, 0.2, 0.3), 900_000, 1)]
    text = write_comparison([r.folder for r in runs], tmp_path / "c.html").read_text("utf-8")
    assert "mathdefault" not in text
    assert "2 MB" in text and "5 MB" in text
