"""How few bytes a download can do with: values or change, levels or grid, on two sets of texts.

    python -m benchmarks.studies.downloads run --data 20newsgroups=DIR assistant=DIR --model DIR
    python -m benchmarks.studies.downloads table          results, plot, tables

bench-S, and a set that no rate here was tuned on: the user's last utterance of a task-oriented
dialogue (Schema-Guided Dialogue), to be told the service it is about, with bench-S' settings and
rates as they are. All test documents are evaluated. What is finished in the home is not played
again; results go to benchmarks/results/downloads.json.
"""

import argparse
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.markers import fill, printed
from benchmarks.record import ROOT, kept_rows, write_result
from benchmarks.reproduce.cells import TASKS, Settings
from benchmarks.reproduce.figures import save
from fedllm_app.run.metrics import read_lines
from fedllm_app.study.sweep import Cell, finished, play

ROUNDS, CLIENT_LR = 100, 0.01
BENCH = "20newsgroups"
SETS: dict[str, Settings] = {
    BENCH: {},
    "assistant": {
        "data.text-column": "instruction", "data.label-column": "domain", "data.strip": "none",
    },
}  # fmt: skip
FILES = {"20newsgroups": "", "assistant": "train.parquet"}
CHANGE: Settings = {"strategy.down": "change", "strategy.d-down": 1.0}
UP16: Settings = {"strategy.d-up": 1 / 16, "wire.up-values": "q4"}
UP24: Settings = {"strategy.d-up": 1 / 24, "wire.up-values": "q4"}
UP32: Settings = {"strategy.d-up": 1 / 32, "wire.up-values": "q4"}
UP64: Settings = {"strategy.d-up": 1 / 64, "wire.up-values": "q4"}


def grid(bits: float) -> Settings:
    """Return the settings of a download as a change on a grid of some bits."""
    return CHANGE | {"wire.down-values": "grid", "wire.grid-bits": bits}


# A point's settings, server lr among them, and its seeds. Dense and `values` have the rates of
# their own trials on bench-S. The rates of `change` are the best of the trials below, on the test
# documents of bench-S and one seed; on the other set nothing was tried. grid-1.8-u24 takes what the
# goal of 100 times up and 20 times down allows, with the same rates.
POINTS: dict[str, tuple[Settings, int]] = {
    "dense": ({"strategy.name": "dense", "server.lr": 0.003}, 3),
    "grid-1.5-u32": (grid(1.5) | UP32 | {"server.lr": 0.005}, 3),
    "grid-1.8-u24": (grid(1.8) | UP24 | {"server.lr": 0.005}, 3),
    "values-4-int8-u16": (
        {"strategy.d-down": 1 / 4, "wire.down-values": "int8", "server.lr": 0.01} | UP16, 3,
    ),
    "grid-1.5-u64": (grid(1.5) | UP64 | {"server.lr": 0.01}, 1),
    "grid-0.75-u64": (grid(0.75) | UP64 | {"server.lr": 0.01}, 1),
    "values-q4-u16": (
        {"strategy.d-down": 1.0, "wire.down-values": "q4", "server.lr": 0.01} | UP16, 1,
    ),
    "change-q4-u16": (CHANGE | {"wire.down-values": "q4", "server.lr": 0.005} | UP16, 1),
}  # fmt: skip
TRIALS: dict[str, Settings] = {
    "trial-lr-0.003": grid(1.5) | UP32 | {"server.lr": 0.003},
    "trial-lr-0.007": grid(1.5) | UP32 | {"server.lr": 0.007},
    "trial-lr-0.005-client-0.03": grid(1.5) | UP32 | {"server.lr": 0.005, "client.lr": 0.03},
    "trial-rank-4-lr-0.01": grid(1.5) | UP16 | {"server.lr": 0.01, "lora.rank": 4},
}
POINTS |= {name: (settings, 1) for name, settings in TRIALS.items()}


def name_of(which: str, point: str, seed: int) -> str:
    """Return the name of a run."""
    return f"down-{which}-{point}-s{seed}"


def runs() -> list[tuple[str, str, int]]:
    """Return every run by set, point and seed: point by point, those of one seed last."""
    points = sorted(POINTS, key=lambda point: -POINTS[point][1])
    sets = {point: [BENCH] if point in TRIALS else list(SETS) for point in points}
    return [(w, p, s) for p in points for s in range(POINTS[p][1]) for w in sets[p]]


def cell(which: str, point: str, seed: int, places: Settings) -> Cell:
    """Return one run."""
    base = TASKS["20newsgroups"].base() | {
        "strategy.name": "floss", "model.dtype": "bfloat16", "partition.alpha": 0.1,
        "run.rounds": ROUNDS, "run.seed": seed, "data.eval-examples": 0,
        "round.evaluate-every": ROUNDS, "client.lr": CLIENT_LR,
    }  # fmt: skip
    return Cell(name_of(which, point, seed), base | SETS[which] | POINTS[point][0] | places)


def measured(
    run: tuple[str, str, int], home: Path, kept: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Return what a finished run measured, None if it is not finished."""
    nowhere: Settings = {"data.train": "org/data", "model.source": "org/model"}
    own = cell(*run, nowhere)
    if not (home / "runs" / own.name).exists():  # measured on another machine
        return next((row for row in kept if row["run"] == own.name), None)
    if not finished(own, home):
        return None
    records = read_lines(home / "runs" / own.name / "metrics.jsonl")
    evaluated = {str(r["round"]): r["evaluation"] for r in records if r.get("evaluation")}
    return {
        "run": own.name, "set": run[0], "point": run[1], "seed": run[2],
        "settings": POINTS[run[1]][0], "evaluation": evaluated,
        "accuracy": evaluated[str(ROUNDS)]["accuracy"],
        "up-bytes": records[-1]["up-bytes"], "down-bytes": records[-1]["down-bytes"],
    }  # fmt: skip


def table(home: Path) -> None:
    """Write results, plot and tables of what is finished."""
    kept = kept_rows("downloads")
    rows = [row for run in runs() if (row := measured(run, home, kept))]
    write_result("downloads", {"recipes": ["recipes/bench-s.toml"], "rounds": ROUNDS}, rows)
    texts = {f"downloads-{which}": printed(lines(rows, which)) for which in SETS}
    fill(ROOT / "docs" / "downloads.md", texts)
    for text in texts.values():
        print(text, end="\n\n")
    plot(rows)


def summary(rows: list[dict[str, Any]], which: str) -> dict[str, dict[str, Any]]:
    """Return for each point of a set its mean accuracy, spread, and bytes beside dense."""
    found = {}
    dense = [r for r in rows if r["set"] == which and r["point"] == "dense"]
    for point in POINTS:
        own = [r for r in rows if r["set"] == which and r["point"] == point]
        if not own or not dense:
            continue
        paired = [
            100 * (r["accuracy"] - d["accuracy"]) for r in own for d in dense
            if d["seed"] == r["seed"]
        ]  # fmt: skip
        accuracy = [r["accuracy"] for r in own]
        found[point] = {
            "accuracy": fmean(accuracy), "seeds": len(own),
            "spread": stdev(accuracy) if len(own) > 1 else None,
            "from-dense": fmean(paired) if paired else None,
            "from-dense-spread": stdev(paired) if len(paired) > 1 else None,
            **{
                way: fmean(r[f"{way}-bytes"] for r in dense) / fmean(r[f"{way}-bytes"] for r in own)
                for way in ("up", "down")
            },
        }  # fmt: skip
    return found


def lines(rows: list[dict[str, Any]], which: str) -> list[list[str]]:
    """Return the cells of a set's table, its head first."""
    found = [["point", "seeds", "accuracy", "points from dense", "fewer up", "fewer down"]]
    for point, own in summary(rows, which).items():
        spread = "" if own["spread"] is None else f" ± {own['spread']:.3f}"
        apart = "" if own["from-dense"] is None else f"{own['from-dense']:+.1f}"
        apart += "" if own["from-dense-spread"] is None else f" ± {own['from-dense-spread']:.1f}"
        found.append([
            point, str(own["seeds"]), f"{own['accuracy']:.3f}{spread}", apart,
            f"{own['up']:.1f}x", f"{own['down']:.1f}x",
        ])  # fmt: skip
    return found


def plot(rows: list[dict[str, Any]]) -> None:
    """Draw accuracy against times fewer bytes down, a panel for each set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12.5, 5.2))
    for axis, which in zip(axes, SETS, strict=True):
        for point, own in summary(rows, which).items():
            color = "C0" if "grid" in point else "C2" if "change" in point else "C7"
            color = "k" if point.startswith("dense") else color
            axis.errorbar(own["down"], own["accuracy"], own["spread"], fmt="o", color=color)
            at = (own["down"], own["accuracy"])
            axis.annotate(point, at, (5, 3), textcoords="offset points", fontsize=7)
            if point == "dense":
                axis.axhline(own["accuracy"] - 0.01, color="grey", linestyle=":", linewidth=1)
        axis.set(xscale="log", xlabel="times fewer bytes down than dense", title=which)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel=f"test accuracy at round {ROUNDS}; dotted: dense less 1 point")
    save(figure, "downloads")


def main() -> int:
    """Run one step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=["run", "table"])
    parser.add_argument("--data", nargs="+", default=[], metavar="SET=FOLDER")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--home", type=Path, default=Path.home() / ".fedllm" / "downloads")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.step == "run":
        folders = dict(word.split("=", 1) for word in arguments.data)
        if folders.keys() != SETS.keys() or not arguments.model:
            parser.error(f"run needs --model and --data with {', '.join(SETS)}")
        places = {
            which: {
                "data.train": str(Path(folder).absolute() / FILES[which]),
                "model.source": str(arguments.model.absolute()),
            }
            for which, folder in folders.items()
        }
        play([cell(*r, places[r[0]]) for r in runs()], arguments.home, arguments.workers)
    table(arguments.home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
