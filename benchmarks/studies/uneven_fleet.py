"""FLoSS on a fleet of uneven devices: accuracy, bytes, seconds and joules, and their picture.

    python -m benchmarks.studies.uneven_fleet --data 20newsgroups --model minilm --home FOLDER

Each run is a real `fedllm run` of recipes/bench-s.toml through Flower and Ray; one that is finished
is not played again. Seconds and joules are those of the simulated devices, by class. The result
goes to benchmarks/results/uneven-fleet.json and docs/figures/uneven-fleet.png.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.playing import play_run
from benchmarks.record import ROOT, write_result
from benchmarks.reproduce.figures import save
from fedllm_app.run.metrics import iterate_lines, read_lines

FLEET = "phone=0.6,wearable=0.1,embedded=0.2,pc=0.1"
ALIKE = {
    "devices.fleet": FLEET, "run.rounds": 30, "client.steps": 4, "client.lr": 0.01,
    "round.clients": 10,
}  # fmt: skip
FLOSS = {
    "strategy.name": "floss", "strategy.d-down": 0.25, "strategy.d-up": 0.0625,
    "server.lr": 0.01, "wire.up-values": "q4",
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "dense": {"strategy.name": "dense", "server.lr": 0.01},
    "floss": FLOSS,
    "floss, balanced": FLOSS | {"devices.balance": True},
}
PARTS = {"compute-j": "computing", "radio-j": "sending and receiving", "wait-j": "waiting"}


def play(name: str, keys: dict[str, Any], places: dict[str, Any], home: Path) -> dict[str, Any]:
    """Play one run and return its row."""
    run = name.replace(", ", "-")
    settings = ALIKE | keys
    folder = home / "runs" / run
    if not (folder / "report.html").exists():
        asked = settings | places | {"run.home": str(home), "run.name": run}
        play_run(asked, ROOT / "recipes" / "bench-s.toml")
    records = read_lines(folder / "metrics.jsonl")
    evaluated = [r for r in records if r.get("evaluation")]
    last = next(r for r in reversed(records) if "up-bytes" in r)
    spent = ("up-bytes", "down-bytes", "energy-j", "flops", "simulated-s")
    return {
        "run": name,
        "settings": settings,
        "curve": [
            [r["round"], r.get("energy-j", 0.0), r["evaluation"]["accuracy"]] for r in evaluated
        ],
        **{key: last[key] for key in spent},
        "by-class": by_class(folder),
    }


def by_class(folder: Path) -> dict[str, dict[str, float]]:
    """Return jobs and sums of seconds and joules by class of device."""
    found: dict[str, dict[str, float]] = {}
    for line in iterate_lines(folder / "devices.jsonl"):
        own = found.setdefault(str(line["device"]), {"jobs": 0.0})
        own["jobs"] += 1
        for key, value in line.items():
            if key.endswith(("-s", "-j")):
                own[key] = own.get(key, 0.0) + float(value)
    return dict(sorted(found.items()))


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw accuracy against energy, and where the joules of each run went."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for row in rows:
        _, joules, accuracy = zip(*row["curve"], strict=True)
        left.plot([j / 1000 for j in joules], accuracy, marker="o", ms=3, label=row["run"])
    left.set(xlabel="energy of all devices, kJ", ylabel="accuracy", title=FLEET)
    left.title.set_fontsize(8)
    left.legend(frameon=False)
    left.grid(alpha=0.3)
    at = range(len(rows))
    below = [0.0] * len(rows)
    for part, words in PARTS.items():
        values = [sum(c[part] for c in row["by-class"].values()) / 1000 for row in rows]
        right.bar(at, values, bottom=below, label=words, width=0.6)
        below = [b + v for b, v in zip(below, values, strict=True)]
    right.set_xticks(at, [row["run"] for row in rows])
    right.set(ylabel="kJ of all devices", ylim=(0, 1.35 * max(below)))
    right.legend(frameon=False, loc="upper left")
    save(figure, "uneven-fleet")


def main() -> None:
    """Play all runs and write the result as they end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of 20 Newsgroups")
    parser.add_argument("--model", type=Path, required=True, help="folder of MiniLM")
    parser.add_argument("--home", type=Path, required=True, help="where the runs live")
    asked = parser.parse_args()
    places = {"data.train": str(asked.data), "model.source": str(asked.model)}
    rows: list[dict[str, Any]] = []
    for name, keys in RUNS.items():
        rows.append(play(name, keys, places, asked.home.resolve()))
        print(write_result("uneven-fleet", {"recipe": "recipes/bench-s.toml"}, rows))
    draw(rows)


if __name__ == "__main__":
    main()
