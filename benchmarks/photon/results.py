"""From finished runs to rows, tables and the plot of docs/reproducing-photon.md."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.markers import fill, printed
from benchmarks.photon.cells import Entry, Rates, Settings, entries, trials
from benchmarks.record import ROOT, kept_rows, write_result
from benchmarks.reproduce.figures import save
from fedllm_app.core.errors import FedllmError
from fedllm_app.run.metrics import read_lines
from fedllm_app.study.sweep import finished

Row = dict[str, Any]
NAME = "reproduce-photon"
NOWHERE: Settings = {"data.train": "org/data"}
RATE = {"photon": "client.lr", "diloco": "server.lr", "sparse": "server.lr"}


def best_rates(home: Path) -> Rates:
    """Return the rates of the best trials; who has trials to come is left out."""
    rates: dict[str, Settings] = {}
    known, every = kept(), list(trials())
    for method in dict.fromkeys(entry.figure for entry in every):
        own = [entry for entry in every if entry.figure == method]
        rows = [measured(entry, rates, home, known) for entry in own]
        if all(rows):
            best = min((row for row in rows if row), key=lambda row: float(row["loss"]))
            key = RATE.get(method, "client.lr")
            chosen = next(e for e in own if e.name == best["run"]).settings[key]
            rates[method] = {**rates.get("photon", {}), key: chosen}
    return rates


def measured(entry: Entry, rates: Rates, home: Path, known: Mapping[str, Row]) -> Row | None:
    """Return what a finished run measured; where its folder is not here, the row that is known."""
    cell = entry.cell(rates, NOWHERE)
    folder = home / "runs" / entry.name
    if cell is None or not folder.exists():
        return known.get(entry.name)
    try:
        if not finished(cell, home):
            return None
    except FedllmError as error:
        print(f"left out: {error}")
        return None
    records = read_lines(folder / "metrics.jsonl")
    evaluated = [r for r in records if r.get("evaluation")]
    last = records[-1] if "up-bytes" in records[-1] else records[-2]
    return {
        "run": entry.name, "figure": entry.figure, "settings": dict(cell.settings),
        "loss": evaluated[-1]["evaluation"]["loss"],
        "perplexity": evaluated[-1]["evaluation"]["perplexity"],
        "curve": {str(r["round"]): r["evaluation"]["loss"] for r in evaluated},
        **{key: last.get(key, 0) for key in ("tokens", "up-bytes", "down-bytes", "simulated-s")},
    }  # fmt: skip


def kept() -> dict[str, Row]:
    """Return the rows of the results file by run, {} if there is none."""
    return {row["run"]: row for row in kept_rows(NAME)}


def collect(home: Path) -> list[Row]:
    """Return all rows there are, and write them."""
    rates, known = best_rates(home), kept()
    rows = [row for e in (*trials(), *entries()) if (row := measured(e, rates, home, known))]
    if rows:
        write_result(NAME, {"rates": {name: dict(own) for name, own in rates.items()}}, rows)
        tables(rows)
        draw(rows)
    return rows


def tables(rows: Sequence[Row]) -> None:
    """Write the tables of the document."""
    dense = next((r for r in rows if r["run"] == "diloco-k4-h64-s0"), None)
    head = ["run", "perplexity", "tokens", "MB up", "MB down", "times less up"]
    body = []
    for name, seeds in by_point(rows).items():
        perplexity = [row["perplexity"] for row in seeds]
        spread = f" ± {stdev(perplexity):.2f} ({len(seeds)} seeds)" if len(seeds) > 1 else ""
        first = seeds[0]
        less = f"{dense['up-bytes'] / first['up-bytes']:.1f}" if dense else ""
        body.append([
            name, f"{fmean(perplexity):.2f}{spread}", f"{first['tokens'] / 1e6:.2f}M",
            f"{first['up-bytes'] / 1e6:,.1f}", f"{first['down-bytes'] / 1e6:,.1f}",
            less if first["figure"] in ("headline", "bytes") else "",
        ])  # fmt: skip
    fill(ROOT / "docs" / "reproducing-photon.md", {"photon-runs": printed([head, *body])})


def by_point(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each point, a row for each seed, without trials."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if not row["run"].startswith("trial-"):
            found.setdefault(row["run"].rpartition("-s")[0], []).append(row)
    return found


def draw(rows: Sequence[Row]) -> None:
    """Draw perplexity against megabytes up."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    points = {
        name: seeds
        for name, seeds in by_point(rows).items()
        if seeds[0]["figure"] in ("headline", "bytes") and not name.startswith("centralized")
    }
    if not points:
        return
    figure, axis = plt.subplots(figsize=(8, 5))
    for name, seeds in points.items():
        up = seeds[0]["up-bytes"] / 1e6
        value = fmean(row["perplexity"] for row in seeds)
        color = "C0" if name.startswith("sparse") else "C7"
        axis.plot(up, value, "o", color=color)
        axis.annotate(name, (up, value), (5, 3), textcoords="offset points", fontsize=7)
    axis.set(xscale="log", xlabel="MB up, all clients", ylabel="held-out perplexity")
    axis.grid(alpha=0.3)
    save(figure, "photon-bytes")
