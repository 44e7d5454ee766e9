"""Turn runs into the tables of a page and of the terminal: text only, no HTML.

A column is there if at least one run has something to put in it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedllm_app.core.units import (
    DASH,
    format_bytes,
    format_joules,
    format_metric,
    format_seconds,
    format_times,
    words,
)
from fedllm_app.data.partition import TO_CLIENTS
from fedllm_app.data.settings import NODE
from fedllm_app.report.drawing import Series
from fedllm_app.report.progress import progress, rounds_of
from fedllm_app.report.run import PARTS, Run
from fedllm_app.run.metrics import Record

# Clients named on the page; a federation may have dropped replies of thousands.
NAMED_CLIENTS = 8
WORST_CLASSES = 8


@dataclass(frozen=True)
class Cell:
    """A value, and a smaller line below it."""

    text: str
    sub: str = ""


@dataclass(frozen=True)
class Row:
    """One line of a table; `colour` is that of the run in the plots."""

    cells: list[Cell]
    colour: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page. `first` ones stand above the plots."""

    title: str
    head: list[str]
    rows: list[Row]
    note: str = ""
    look: str = ""
    numbers: bool = True
    first: bool = False


def tiles(run: Run) -> list[tuple[str, str, str]]:
    """Return (name, value, explanation) of the numbers that a page opens with."""
    metric, best = run.headline, run.best(run.headline)
    shown = [
        (words(metric), format_metric(run.final(metric)), f"best {_best(best)}")
        if best
        else ("Metric", DASH, "nothing was evaluated"),
        ("Rounds", rounds_of(run), _rounds_note(run)),
    ]
    for name, direction in (("Upload", "up"), ("Download", "down")):
        sent, dense = run.sent(direction)
        less = f"{format_times(dense, sent)} less than dense" if sent else "none in the ledger"
        shown.append((name, format_bytes(sent), less))
    if run.simulated_s is not None:
        shown.append(("Simulated", format_seconds(run.simulated_s), _each_simulated(run)))
    if run.energy_j is not None:
        shown.append(("Energy", format_joules(run.energy_j), "of all simulated devices"))
    shown.append(("Time", format_seconds(run.seconds), _each_round(run)))
    return shown


def summary(run: Run, report: Path) -> list[tuple[str, str]]:
    """Return (name, value) rows for the terminal."""
    rows = [("run", run.name), ("rounds", rounds_of(run))]
    if far := progress(run):
        rows.append(("progress", far))
    if best := run.best(run.headline):
        value = f"{format_metric(run.final(run.headline))} (best {_best(best)})"
        rows.append((run.headline.replace("-", " "), value))
    for direction in ("up", "down"):
        sent, _ = run.sent(direction)
        rows.append((f"bytes {direction}", format_bytes(sent)))
    (up, dense_up), (down, dense_down) = run.sent("up"), run.sent("down")
    both = format_times(dense_up + dense_down, up + down)
    less = f"{format_times(dense_up, up)} up, {format_times(dense_down, down)} down, {both} in all"
    rows += [("times less than dense", less), ("time", format_seconds(run.seconds))]
    if run.simulated_s is not None:
        rows.append(("simulated time", format_seconds(run.simulated_s)))
    if run.energy_j is not None:
        rows.append(("energy of devices", format_joules(run.energy_j)))
    if stale := run.staleness:
        rows.append(("staleness", f"{stale[0]:.2f} steps on average, {stale[1]} at most"))
    if run.dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in run.dropped.most_common())
        rows.append(("dropped replies", reasons))
    if run.clipped:
        counted = f"{run.clipped.total():,} by round.clip, of clients {_named(run.clipped)}"
        rows.append(("scaled down" if run.scales else "too large", counted))
    if run.ended:
        more = len(run.ended) - NAMED_CLIENTS
        listed = ", ".join(run.ended[:NAMED_CLIENTS]) + (f" and {more:,} more" if more > 0 else "")
        rows.append(("ended streams", f"{len(run.ended):,}, of clients {listed}"))
    rows += [("fails again and again", line) for line in failing_lines(run)]
    return [*rows, ("report", str(report))]


def runs_table(runs: Sequence[Run], looks: Sequence[Series]) -> Table:
    """Return one line per run: what it reached and what it cost."""
    metrics = list(dict.fromkeys(run.headline for run in runs if run.headline))
    head = ["Run", "Rounds", *(words(m) for m in metrics), "Best", "Upload", "Download", "Time"]
    clock = any(run.simulated_s is not None for run in runs)
    if clock:
        head.insert(-1, "Simulated")
    rows = []
    for run, look in zip(runs, looks, strict=True):
        best = run.best(run.headline)
        cells = [Cell(look.label, run.strategy), Cell(rounds_of(run))]
        cells += [Cell(format_metric(run.final(metric))) for metric in metrics]
        cells.append(
            Cell(format_metric(best[1]), f"round {best[0]['round']}") if best else Cell(DASH)
        )
        for direction in ("up", "down"):
            sent, dense = run.sent(direction)
            cells.append(Cell(format_bytes(sent), f"{format_times(dense, sent)} less"))
        if clock:
            total = run.simulated_s
            simulated = DASH if total is None else format_seconds(total)
            cells.append(Cell(simulated, _each_simulated(run)))
        cells.append(Cell(format_seconds(run.seconds), _each_round(run)))
        rows.append(Row(cells, look.colour))
    note = (
        "“Less” compares measured payloads with dense float32 payloads of the same layout for the "
        "same clients."
    )
    return Table("Summary", head, rows, note, look="runs", first=True)


def traffic_table(run: Run) -> Table:
    """Return what travelled, by direction and part, beside dense."""
    rows = []
    for name, direction in (("Upload", "up"), ("Download", "down")):
        sent, dense = run.sent(direction)
        parts = [Cell(format_bytes(run.part_bytes(direction, part))) for part in PARTS]
        ends = [Cell(format_bytes(dense)), Cell(format_times(dense, sent))]
        rows.append(Row([Cell(name), Cell(format_bytes(sent)), *parts, *ends]))
    head = ["", "Measured", *(part.capitalize() for part in PARTS), "Dense float32", "Times less"]
    base = run.totals.base_bytes
    note = f"Each client also downloaded the base model once; in all {format_bytes(base)}, on top."
    return Table("Bytes", head, rows, note if base else "", first=True)


def evaluation_table(run: Run) -> Table:
    """Return every metric at the start, at the end and at its best."""
    rows = []
    for metric in run.evaluation_names():
        found, best = run.evaluations(metric), run.best(metric)
        start = format_metric(found[0][1]) if found and found[0][0]["round"] == 0 else DASH
        ends = [Cell(start), Cell(format_metric(run.final(metric)))]
        top = [Cell(format_metric(best[1])), Cell(str(best[0]["round"]))] if best else []
        rows.append(Row([Cell(words(metric)), *ends, *top]))
    note = "" if rows else "Nothing was evaluated."
    head = ["Metric", "Untrained", "Final", "Best", "In round"]
    return Table("Evaluation", head, rows, note, first=True)


def classes_table(run: Run) -> Table | None:
    """Return the classes that the final model gets wrong most often; None where there are none."""
    worst = sorted(run.classes, key=lambda c: (c["correct"] / c["examples"], c["label"]))
    rows = [
        Row(
            [
                Cell(str(c["label"])),
                Cell(format_metric(c["correct"] / c["examples"])),
                Cell(f"{c['examples']:,}"),
                Cell(f"{c['predicted']:,}"),
            ]
        )
        for c in worst[:WORST_CLASSES]
    ]
    if not rows:
        return None
    note = f"Of {len(worst):,} classes in the evaluation, after round {run.last_round}."
    head = ["Class", "Accuracy", "Examples", "Predicted as such"]
    return Table("Worst classes", head, rows, note, look="fit")


def dropped_table(runs: Sequence[Run]) -> Table:
    """Return dropped replies by reason, and the clients whose bytes arrived in vain."""
    reasons = sorted({reason for run in runs for reason in run.dropped})
    taken = [sum(int(r.get("clients") or 0) for r in run.metrics) for run in runs]
    if not reasons:
        total = sum(taken)
        return Table("Dropped replies", [], [], f"None; {total:,} replies were accepted.")
    rows = [
        Row([Cell(run.name), Cell(f"{n:,}"), *(Cell(f"{run.dropped[r]:,}") for r in reasons)])
        for run, n in zip(runs, taken, strict=True)
    ]
    refused = sum((run.refused for run in runs), start=type(runs[0].refused)())
    note = f"Arrived, were counted in bytes and dropped, by client: {_named(refused)}."
    head = ["Run", "Accepted", *(words(reason) for reason in reasons)]
    return Table("Dropped replies", head, rows, note if refused else "", look="runs fit")


def guard_table(run: Run) -> Table:
    """Return what `round.clip` did, and the clients that failed twice or more for one reason."""
    bounds = [float(r["clip-bound"]) for r in run.metrics if r.get("clip-bound") is not None]
    shown = f"{bounds[0]:.3g} to {bounds[-1]:.3g}" if bounds else DASH
    what = "scaled down" if run.scales else "dropped"
    rows = [[f"Updates {what} by round.clip", f"{run.clipped.total():,}", _named(run.clipped)]]
    rows += [["Bound of the norm, first and last round", shown, ""]]
    rows += [["Fails again and again", "", line] for line in failing_lines(run)]
    cells = [Row([Cell(text) for text in row]) for row in rows] if bounds or len(rows) > 2 else []
    note = "" if cells else "No bound was in force, and no client failed twice for one reason."
    return Table("Single clients", ["", "", "Clients"], cells, note, look="runs fit")


def failing_lines(run: Run) -> list[str]:
    """Return a line for each client and reason that came twice or more; for some, how many more."""
    lines = [
        f"client {client}: {count} times {reason}" + (f": {why}" if why else "")
        for (client, reason), (count, why) in run.failing.items()
    ]
    more = len(lines) - NAMED_CLIENTS
    return lines[:NAMED_CLIENTS] + ([f"and {more:,} more"] if more > 0 else [])


def _named(clients: Counter[str]) -> str:
    """Return the clients with the largest counts, and how many more there are."""
    named = [f"{client} ({count})" for client, count in clients.most_common(NAMED_CLIENTS)]
    more = len(clients) - len(named)
    return ", ".join(named) + (f" and {more:,} more" if more > 0 else "")


def about(run: Run) -> str:
    """Return method, model, data and clients in one line."""
    given = run.settings
    values = [
        run.strategy,
        _last_part(given.get("model.source")),
        _last_part(given.get("data.train")),
    ]
    clients = given.get("partition.clients")
    dealt = given.get("data.train") != NODE and given.get("partition.name", "iid") in TO_CLIENTS
    if dealt and isinstance(clients, int):
        values.append(f"{clients:,} clients")
    elif run.clients:
        values.append(f"{run.clients:,} clients took part")
    return " · ".join(value for value in values if value)


def _best(best: tuple[Record, float] | None) -> str:
    if best is None:
        return DASH
    return f"{format_metric(best[1])} in round {best[0]['round']}"


def _each_round(run: Run) -> str:
    parts = run.mean_seconds()
    return f"{format_seconds(sum(parts.values()))} a round" if parts else ""


def _each_simulated(run: Run) -> str:
    if run.simulated_s is None or not run.rounds:
        return ""
    return f"{format_seconds(run.simulated_s / run.last_round)} a round"


def _rounds_note(run: Run) -> str:
    taken = sum(int(record.get("clients") or 0) for record in run.metrics)
    dropped = sum(run.dropped.values())
    stale = run.staleness
    words = [f"{taken:,} replies", f"{dropped:,} dropped" if dropped else ""]
    words += [f"{stale[0]:.1f} steps stale on average, {stale[1]} at most"] if stale else []
    return ", ".join(filter(None, words))


def _last_part(value: object) -> str:
    """Return the end of a path that says which model or data it is."""
    if not isinstance(value, str) or not value.startswith("/"):
        return str(value or "")
    return "/".join(Path(value).parts[-2:] if Path(value).suffix else Path(value).parts[-1:])
