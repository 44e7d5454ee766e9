"""What this project adds to Flower: to a round, to the start, and with many clients.

The peer is the smallest Flower app there is (peers/empty), launched by the same launcher on the
same two workers.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers import flower_app
from benchmarks.rows.row import Context, Row
from benchmarks.rows.setting import Setting, bench_s
from benchmarks.studies import overhead
from benchmarks.watching import watching
from fedllm_app.run.metrics import iterate_lines

CLIENTS = (350, 4_000, 40_000)
ROUND = "round with empty training, 10 clients"
START = "`flwr run` to the first training step, warm caches"
LOOK_S = 0.02  # between two looks at a file that a run writes


def measure(context: Context) -> list[Row]:
    """Return all rows of the group."""
    rounds, starts = (5, 1) if context.quick else (60, 3)
    empty = flower_app.play("empty", {"rounds": rounds}, nodes=10, folder=context.folder)
    measured = [overhead.measure(n, rounds) for n in CLIENTS[: 1 if context.quick else None]]
    failed = [row for row in measured if "failed" in row]
    if failed:
        raise RuntimeError(f"runs failed: {failed}")
    rows = [round_row(measured[0], empty), *scale_rows(measured)]
    if lacking := context.lacks("20newsgroups", "minilm"):
        return [*rows, Row(what=START, skipped=lacking)]
    return [*rows, start_row(context, empty, starts)]


def round_row(ours: dict[str, Any], empty: flower_app.Played) -> Row:
    """Compare a round of a tiny model with one of the empty app."""
    own, other = ours["round-s"]["median"], median(empty.rounds[1:])
    return Row(
        what=ROUND,
        measured=own,
        unit="s/round",
        peer="empty Flower app",
        theirs=other,
        judged=own - other,
        about="s more",
        target=("at most", 0.15),
        details={"ours": ours, "empty-s": empty.rounds, "note": "ours trains a tiny model"},
    )


def scale_rows(measured: list[dict[str, Any]]) -> list[Row]:
    """Compare memory and overhead by number of clients, the largest with the smallest."""
    listed = " / ".join(f"{n:,}" for n in CLIENTS)
    figures = {
        "server memory": ("MB", [row["peak-rss-mb"]["server"] for row in measured]),
        "round overhead": ("s/round", [row["overhead-s"]["median"] for row in measured]),
    }
    if len(measured) < len(CLIENTS):
        return [Row(what=f"{what}, {listed} clients", skipped="--quick") for what in figures]
    return [
        Row(
            what=f"{what}, {listed} clients",
            measured=max(values),
            unit=unit,
            peer="the smallest of them",
            theirs=min(values),
            judged=max(values) / min(values),
            target=("at most", 1.2),
            details={"by-clients": dict(zip(CLIENTS, values, strict=True)), "runs": measured},
        )
        for what, (unit, values) in figures.items()
    ]


def start_row(context: Context, empty: flower_app.Played, repeats: int) -> Row:
    """Compare the time from the launch to the end of bench-S's round 1 of one step."""
    setting = bench_s(context, 2)  # the last round ends with an evaluation; round 1 does not
    _ = setting.cohorts, setting.parts.source  # caches of data and model are warm
    own, other, lines = [], [empty.first_train_s], []
    for number in range(repeats):
        seconds, line = start_of(setting, f"start-{number}")
        own.append(seconds)
        lines.append(line)
        if number:
            keys = {"rounds": 1, "clients": 2}
            played = flower_app.play("empty", keys, nodes=2, folder=context.folder)
            other.append(played.first_train_s)
    return Row(
        what=START,
        measured=median(own),
        unit="s",
        peer="empty Flower app's first client",
        theirs=median(other),
        judged=median(own) - median(other),
        about="s more",
        target=("at most", 8),
        details={
            "ours-s": own,
            "empty-s": other,
            "round-1": lines,
            "note": "ours to the end of round 1, one client and one step: an upper bound of its "
            "first step; the evaluation of round 0 is on data.eval-examples",
            "settings": setting.keys,
        },
    )


def start_of(setting: Setting, name: str) -> tuple[float, dict[str, Any]]:
    """Return the seconds from the launch to the end of round 1, and that round's timing."""
    with first_round(setting.timing_file(name)) as seen:
        line, _ = setting.run(name, **{"round.clients": 1, "client.steps": 1})
    return seen["seconds"], line


@contextmanager
def first_round(path: Path) -> Iterator[dict[str, float]]:
    """Yield a table that holds, once round 1 stands in a run's timing, `seconds` since now."""
    began, seen = time.monotonic(), dict[str, float]()

    def look() -> None:
        if "seconds" not in seen and any(line["round"] == 1 for line in iterate_lines(path)):
            seen["seconds"] = time.monotonic() - began

    with watching(look, LOOK_S):
        yield seen
