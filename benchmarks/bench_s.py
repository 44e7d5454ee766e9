"""bench-S: dense against FLoSS on 20 Newsgroups, accuracy against measured bytes.

    python benchmarks/bench_s.py tune --data DATA --model MODEL    learning rates, on validation
    python benchmarks/bench_s.py run  --data DATA --model MODEL    the runs, through `flwr run`
    python benchmarks/bench_s.py table                             results/bench-s.json and the plot

DATA is the folder of 20 Newsgroups parquet files, MODEL that of MiniLM. Every step skips what is
there already, so a run that was cut off goes on.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from record import write_result

from fedllm_app.config import read_recipe
from fedllm_app.study.sweep import Cell, play

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "bench-s.toml"
RESULTS = ROOT / "benchmarks" / "results"
TRIAL_ROUNDS = 30
CLIENT_LRS = (0.01, 0.1)
SERVER_LRS = (0.003, 0.01, 0.03)
TUNED = {
    "dense": {"strategy.name": "dense"},
    "floss": {"strategy.name": "floss", "strategy.d-down": 1 / 4, "strategy.d-up": 1 / 16},
}
DENSITIES = ((1 / 4, 1 / 4), (1 / 4, 1 / 16), (1 / 4, 1 / 64))


def trials() -> list[tuple[str, dict[str, Any]]]:
    """Return (name, settings) of every trial: the same grid for each method."""
    rows = []
    for method, own in TUNED.items():
        for client_lr, server_lr in itertools.product(CLIENT_LRS, SERVER_LRS):
            name = f"tune-{method}-{client_lr:g}-{server_lr:g}"
            rates = {"client.lr": client_lr, "server.lr": server_lr}
            split = {"data.evaluate-on": "validation", "data.eval-examples": 500}
            length = {"run.rounds": TRIAL_ROUNDS, "round.evaluate-every": 10}
            rows.append((name, own | rates | split | length))
    return rows


def tune(common: dict[str, Any]) -> None:
    """Play all trials, two at a time, and write what each reached."""
    home, recipe = Path(common["run.home"]), read_recipe(RECIPE)

    def say(line: str) -> None:
        print(line)
        write_tuning(home)

    play([Cell(name, recipe | settings | common) for name, settings in trials()], home, say=say)


def write_tuning(home: Path) -> None:
    """Write results/bench-s-tuning.json from the trials that are finished."""
    rows = []
    for name, settings in trials():
        if (home / "runs" / name / "report.html").exists():
            rows.append({"trial": name, "settings": settings, "accuracy": curve(home, name)})
    write_result("bench-s-tuning", {"recipe": "recipes/bench-s.toml"}, rows)


def best_rates(method: str) -> dict[str, float]:
    """Return the rates of a method's best trial at its last round, {} before all are played."""
    rows = json.loads((RESULTS / "bench-s-tuning.json").read_text())["rows"]
    own = [row for row in rows if row["trial"].startswith(f"tune-{method}-")]
    if len(own) < len(CLIENT_LRS) * len(SERVER_LRS):
        return {}
    best = max(own, key=lambda row: row["accuracy"][str(TRIAL_ROUNDS)])
    return {key: best["settings"][key] for key in ("client.lr", "server.lr")}


def cells() -> list[tuple[str, dict[str, Any]]]:
    """Return (name, settings) of every run: dense's rates kept, then FLoSS's own."""
    kept, own = best_rates("dense"), best_rates("floss")
    rows: list[tuple[str, dict[str, Any]]] = [("dense-fp32", {"strategy.name": "dense"} | kept)]
    for values in ("fp32", "int8"):
        for down, up in DENSITIES:
            settings = {"strategy.d-down": down, "strategy.d-up": up, "wire.up-values": values}
            rows.append((f"floss-{round(1 / up)}-{values}", settings | kept))
    if own and own != kept:
        settings = {"strategy.d-down": 1 / 4, "strategy.d-up": 1 / 16}
        rows.append(("floss-16-fp32-own-rates", settings | own))
    return rows


def play_all(common: dict[str, Any]) -> None:
    """Play every cell through `flwr run`: 100 rounds, and up to 200 where short of the target."""
    home = Path(common["run.home"])
    for rounds in (100, 200):
        for name, settings in cells():
            last = max(curve(home, name), default=0)
            if last >= rounds or (rounds > 100 and reached(home, name) is not None):
                continue
            pairs = settings | common | {"run.name": name, "run.rounds": rounds}
            words = [f"{key}={json.dumps(value)}" for key, value in pairs.items()]
            command = [sys.executable, "-m", "fedllm_app.cli", "run", str(RECIPE), *words]
            subprocess.run(command, check=True, cwd=ROOT)
            table(common)


def reached(home: Path, name: str) -> int | None:
    """Return the first evaluated round within 1 point of dense at round 100, or None."""
    target = curve(home, "dense-fp32")[100] - 0.01
    return next((t for t, value in curve(home, name).items() if value >= target), None)


def table(common: dict[str, Any]) -> None:
    """Write results/bench-s.json and the plot from the runs there are."""
    home, rows = Path(common["run.home"]), []
    for name, settings in cells():
        accuracy = curve(home, name)
        if not (home / "runs" / name).exists() and name in known():
            rows.append(known()[name])  # measured elsewhere
            continue
        if 100 not in accuracy:
            continue
        sent = {
            r["round"]: r for r in read(home / "runs" / name / "metrics.jsonl") if "clients" in r
        }
        totals = json_totals(home / "runs" / name / "ledger.jsonl", 100)
        when = reached(home, name)
        rows.append(
            {
                "run": name,
                "settings": settings,
                "accuracy": {str(t): value for t, value in accuracy.items()},
                "up-bytes": {str(t): sent[t]["up-bytes"] for t in accuracy if t},
                "accuracy-at-100": accuracy[100],
                "up-bytes-at-100": sent[100]["up-bytes"],
                "down-bytes-at-100": sent[100]["down-bytes"],
                "times-less-up": totals["up"][1] / totals["up"][0],
                "times-less-down": totals["down"][1] / totals["down"][0],
                "round-of-target": when,
                "up-bytes-to-target": sent[when]["up-bytes"] if when else None,
                "rounds-played": max(accuracy),
            }
        )
    write_result("bench-s", {"recipe": "recipes/bench-s.toml"}, rows)
    plot(rows)
    for row in rows:
        up = f"{row['up-bytes-at-100'] / 1e6:8.2f} MB up ({row['times-less-up']:.1f}x less)"
        accuracy, target = row["accuracy-at-100"], row["round-of-target"]
        print(f"{row['run']:24} {accuracy:.3f} {up}, target in round {target}")


def json_totals(path: Path, rounds: int) -> dict[str, tuple[int, int]]:
    """Return (bytes, dense bytes) by direction over the first rounds of a ledger."""
    totals = {}
    for direction in ("up", "down"):
        lines = [x for x in read(path) if x["direction"] == direction and x["round"] <= rounds]
        totals[direction] = (sum(x["bytes"] for x in lines), sum(x["dense-bytes"] for x in lines))
    return totals


def plot(rows: list[dict[str, Any]]) -> None:
    """Draw accuracy against rounds and against upload bytes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12.5, 4.2), sharey=True)
    for row in rows:
        evaluated = [t for t in row["accuracy"] if t != "0"]
        values = [row["accuracy"][t] for t in evaluated]
        style = {
            "linestyle": "--" if "int8" in row["run"] else "-",
            "marker": ".",
            "label": row["run"],
        }
        axes[0].plot([int(t) for t in evaluated], values, **style)
        axes[1].plot([row["up-bytes"][t] / 1e6 for t in evaluated], values, **style)
    axes[0].set(xlabel="round", ylabel="test accuracy", title="bench-S")
    axes[1].set(xlabel="upload of all clients, MB", xscale="log", title="against measured bytes")
    axes[1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "bench-s.png", dpi=110)
    plt.close(figure)


def curve(home: Path, name: str) -> dict[int, float]:
    """Return accuracy by round, from the run or else from the results; {} of neither."""
    path = home / "runs" / name / "metrics.jsonl"
    if not path.exists():
        accuracy = known().get(name, {}).get("accuracy", {})
        return {int(t): value for t, value in accuracy.items()}
    records = read(path)
    return {r["round"]: r["evaluation"]["accuracy"] for r in records if "evaluation" in r}


def known() -> dict[str, dict[str, Any]]:
    """Return the rows of results/bench-s.json by run."""
    path = RESULTS / "bench-s.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return {row["run"]: row for row in rows}


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a .jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["tune", "run", "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--home", type=Path, default=Path.home() / ".fedllm" / "bench-s")
    arguments = parser.parse_args()
    common = {"run.home": str(arguments.home)}
    if arguments.data and arguments.model:
        common |= {"data.train": str(arguments.data), "model.source": str(arguments.model)}
    {"tune": tune, "run": play_all, "table": table}[arguments.step](common)


if __name__ == "__main__":
    sys.exit(main())
