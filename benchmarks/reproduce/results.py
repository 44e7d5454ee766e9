"""From finished runs to rows: accuracy by round, measured bytes, seconds on an asymmetric link.

A run that is not finished, or was played with other settings, gives no row. A row whose run's
folder is not here (measured on another machine) is kept from the results file.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import kept_rows, write_result
from benchmarks.reproduce.cells import (
    BUDGET_ROUNDS,
    COMPARED,
    OTHERS,
    TASKS,
    TRIAL_ROUNDS,
    Entry,
    Rates,
    Settings,
    trials,
)
from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.core.errors import FedllmError
from fedllm_app.devices.network import PRESETS, Network, NetworkSettings
from fedllm_app.run.metrics import read_lines
from fedllm_app.server.methods import method_of
from fedllm_app.study.costs import measured
from fedllm_app.study.sweep import finished

Row = dict[str, Any]

FIGURES = ("tuning", "5.1", "5.2", "5.3", "5.4", "options", "seeds")
UP_MBPS = {name: PRESETS[f"thesis-{name}"][1] for name in ("1x", "4x", "16x")}
NOWHERE = {"data.train": "org/data", "model.source": "org/model"}


def best_rates(home: Path) -> Rates:
    """Return the rates of each method's best trial; a method with trials to come is left out."""
    found: dict[str, Settings] = {}
    by_run = {row["run"]: row for row in rows_of("tuning", list(trials()), {}, home)}
    for method in COMPARED + OTHERS:
        own = [entry for entry in trials() if entry.method == method]
        if all(entry.name in by_run for entry in own):
            best = max(own, key=lambda e: by_run[e.name]["accuracy"][str(TRIAL_ROUNDS)])
            found[method] = {key: best.settings[key] for key in ("client.lr", "server.lr")}
    return found


def is_finished(entry: Entry, rates: Rates, home: Path) -> bool:
    """Say whether the entry's run is here, whole, and played with the entry's settings."""
    return state(entry, rates, home) is True


def state(entry: Entry, rates: Rates, home: Path) -> bool | str:
    """Return whether the entry's run is finished, or why it can never be."""
    cell = entry.cell(rates, NOWHERE)
    try:
        return cell is not None and finished(cell, home)
    except FedllmError as error:
        return str(error)


def rows_of(figure: str, entries: Iterable[Entry], rates: Rates, home: Path) -> list[Row]:
    """Return the rows of a figure's entries that are measured, in the order of the entries."""
    rows, known = [], {row["run"]: row for row in kept_rows(f"reproduce-{figure}")}
    for entry in entries:
        if is_finished(entry, rates, home):
            rows.append(measure(entry, rates, home))
        elif not (home / "runs" / entry.name).exists() and entry.name in known:
            row = known[entry.name]
            if row["settings"] == own_settings(entry, rates):
                rows.append(row)
    return rows


def own_settings(entry: Entry, rates: Rates) -> Settings:
    """Return what a row says of its settings: the recipe of its task has the rest."""
    return dict(entry.settings) | dict(rates.get(entry.tuned_as, {}))


def measure(entry: Entry, rates: Rates, home: Path) -> Row:
    """Return what a finished run measured up to the round that the figure asks for."""
    folder, metric = home / "runs" / entry.name, TASKS[entry.task].metric()
    records = [r for r in read_lines(folder / "metrics.jsonl") if r["round"] <= entry.rounds]
    accuracy = {str(r["round"]): r["evaluation"][metric] for r in records if "evaluation" in r}
    sent = {str(r["round"]): r for r in records if "up-bytes" in r}
    row = {
        "run": entry.name,
        "figure": entry.figure,
        "task": entry.task,
        "method": entry.method,
        "partition": entry.partition,
        "seed": entry.seed,
        "settings": own_settings(entry, rates),
        "head": head_handling(read_recipe(folder / "config.toml")),
        "metric": metric,
        "rounds": entry.rounds,
        "accuracy": accuracy,
        "score": accuracy[str(entry.rounds)],
        "up-bytes": {t: sent[t]["up-bytes"] for t in accuracy if t in sent},
        "down-bytes": {t: sent[t]["down-bytes"] for t in accuracy if t in sent},
    }
    if entry.figure == "5.4":
        row["seconds"] = {
            name: simulated_seconds(folder, f"thesis-{name}", entry.rounds) for name in UP_MBPS
        }
    return row


def head_handling(recipe: Settings) -> str:
    """Return whether the head competed in a top-k or was sent whole; "none": there is no head."""
    c = RunConfig.parse(NOWHERE | recipe)
    if not c.task.kind.has_head:
        return "none"
    return c.strategy.head if "head" in method_of(c.strategy.name).keys else "whole"


def simulated_seconds(folder: Path, preset: str, rounds: int) -> list[float]:
    """Return the seconds on the network after each round; a round lasts as long as its slowest."""
    network = Network(NetworkSettings.model_validate({"preset": preset}), 0)
    seconds: list[float] = np.cumsum(measured(folder, network).seconds[:rounds]).tolist()
    return seconds


def collect(entries: Sequence[Entry], rates: Rates, home: Path) -> dict[str, list[Row]]:
    """Return all rows by figure, with the communication relative to dense, and write them."""
    rows = {
        figure: rows_of(figure, [e for e in entries if e.figure == figure], rates, home)
        for figure in FIGURES
    }
    per_round = {
        key(row): traffic(row, row["rounds"]) / row["rounds"]
        for row in rows["5.1"] + rows["5.2"]
        if row["method"] == "dense"
    }
    for figure in FIGURES[1:]:
        for row in rows[figure]:
            if key(row) in per_round:
                dense = per_round[key(row)] * row["rounds"]
                row["communication"] = traffic(row, row["rounds"]) / dense
    add_budgets(rows["5.4"])
    for figure in FIGURES:
        if rows[figure]:
            write_result(f"reproduce-{figure}", {"recipes": recipes(rows[figure])}, rows[figure])
    return rows


def key(row: Row) -> tuple[str, str, int]:
    """Return what a run has in common with the dense run that it is held against."""
    return row["task"], row["partition"], row["seed"]


def traffic(row: Row, rounds: int) -> int:
    """Return the bytes of both directions after some rounds."""
    return int(row["up-bytes"][str(rounds)] + row["down-bytes"][str(rounds)])


def add_budgets(rows: list[Row]) -> None:
    """Add what each run of figure 5.4 reaches within the seconds of 50 dense rounds.

    The score is that of the last evaluation inside the budget. A run whose rounds end before the
    budget says so. How soon is the time of the first evaluation that is as good as dense's last.
    """
    dense = next((row for row in rows if row["method"] == "dense"), None)
    for row in rows if dense else []:
        row["budget"] = {}
        for name in UP_MBPS:
            budget, seconds = dense["seconds"][name][BUDGET_ROUNDS - 1], row["seconds"][name]
            fits = sum(s <= budget for s in seconds)
            inside = [int(t) for t in row["accuracy"] if int(t) <= fits]
            good = [t for t in inside if row["accuracy"][str(t)] >= dense["score"]]
            row["budget"][name] = {
                "seconds": budget,
                "rounds": fits,
                "used-up": fits < len(seconds) or seconds[-1] >= budget,
                "evaluated": max(inside),
                "score": row["accuracy"][str(max(inside))],
                "seconds-to-dense": seconds[min(good) - 1] if good else None,
            }


def recipes(rows: list[Row]) -> list[str]:
    """Return the recipes that the rows' settings are put over."""
    return sorted({f"recipes/{TASKS[row['task']].recipe}.toml" for row in rows})


def scores(rows: Iterable[Row], task: str, method: str) -> list[float]:
    """Return the scores of a method on a task, one per seed."""
    return [row["score"] for row in rows if (row["task"], row["method"]) == (task, method)]
