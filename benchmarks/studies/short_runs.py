"""Short runs on real data through `flwr run`: does the loss fall, does the result load.

    python -m benchmarks.studies.short_runs --data shakespeare=speeches.parquet cifar10=FOLDER \
        --model shakespeare=SmolLM2.gguf cifar10=VIT_FOLDER

Next token by user (SmolLM2-135M on Shakespeare by role) and images (a ViT-S/14 on CIFAR-10), each
with its recipe; a run that is there already is not played again. The merged model of each run is
loaded with plain transformers at the end.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.playing import play_run
from benchmarks.record import ROOT, write_result

RUNS = ("shakespeare", "cifar10")


def play(name: str, data: Path, model: Path, home: Path) -> dict[str, Any]:
    """Play one recipe and return what it measured."""
    recipe = ROOT / "recipes" / f"{name}.toml"
    settings = {"data.train": data, "model.source": model, "run.home": home, "run.name": name}
    folder = home / "runs" / name
    if not (folder / "report.html").exists():
        play_run({key: str(value) for key, value in settings.items()}, recipe)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluated = {r["round"]: r["evaluation"] for r in records if "evaluation" in r}
    timing = [json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines()]
    return {
        "recipe": f"recipes/{name}.toml",
        "evaluation": evaluated,
        "train-loss": {r["round"]: r["train-loss"] for r in records if "train-loss" in r},
        "up-bytes": records[-1]["up-bytes"],
        "down-bytes": records[-1]["down-bytes"],
        "seconds": sum(r.get("seconds", 0.0) for r in timing),
        "merged-model": load_merged(folder, name),
    }


def load_merged(folder: Path, name: str) -> str:
    """Merge adapter and base, load the result as a user would, and return its class."""
    import transformers

    from fedllm_app.models.export import merge

    out = folder / "merged"
    shutil.rmtree(out, ignore_errors=True)
    merge(folder / "adapter", out)
    kind = "AutoModelForCausalLM" if name == "shakespeare" else "AutoModelForImageClassification"
    return type(getattr(transformers, kind).from_pretrained(out)).__name__


def main() -> None:
    """Play the runs that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="RUN=PATH")
    parser.add_argument("--model", nargs="+", required=True, help="RUN=PATH")
    parser.add_argument("--home", type=Path, default=Path.home() / ".fedllm" / "short-runs")
    arguments = parser.parse_args()
    data = dict(pair.split("=", 1) for pair in arguments.data)
    models = dict(pair.split("=", 1) for pair in arguments.model)
    rows = []
    for name in RUNS:
        if name in data:
            rows.append(play(name, Path(data[name]), Path(models[name]), arguments.home))
            write_result("short-runs", {}, rows)


if __name__ == "__main__":
    main()
