"""Bytes, memory and hours of pre-training at 125M, 1.3B and 7B, by the wall-time model.

    python -m benchmarks.studies.scaling

8 clients, rounds of 512 steps of 32 rows of 2,048 tokens. Payloads are those of the method and the
codec (`study.walltime.compressed`). The speed of a client is an assumption: one H100 at 400
TFLOP/s. Results go to benchmarks/results/scaling.json and into docs/scaling.md.
"""

import sys
from typing import Any

from benchmarks.markers import fill, printed
from benchmarks.record import ROOT, write_result
from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.study.walltime import Run, Topology, Traffic, compressed, total_s

PARAMETERS = {"125M": 123.6e6, "1.3B": 1.308e9, "7B": 6.657e9}
GBPS = (0.1, 1.0, 10.0)
ROUNDS, STEPS, CLIENTS, TOKENS = 22, 512, 8, 32 * 2048
FLOPS = 400e12
ASSUMED = {"flops-a-second": FLOPS, "tokens-a-step": TOKENS, "rounds": ROUNDS, "steps": STEPS}
# At 10 steps without exchange or more between two, an exchange of every step is not in question.
WAYS: dict[str, tuple[str, Topology]] = {
    "every step, ring": ("dense", "ring"),
    "DiLoCo, fp32": ("dense", "parameter-server"),
    "sparse-diloco": ("sparse", "parameter-server"),
}


def rows() -> list[dict[str, Any]]:
    """Return a row for each size, link and way."""
    recipe = read_recipe(ROOT / "recipes" / "pretraining" / "sparse-diloco.toml")
    config = RunConfig.parse({"data.train": "org/data"} | recipe).resolved()
    found = []
    for size, P in PARAMETERS.items():
        run = Run(ROUNDS, STEPS, CLIENTS, FLOPS / (6 * P * TOKENS))
        traffic = {"dense": Traffic.dense(P), "sparse": compressed(config, P)}
        for gbps in GBPS:
            for way, (kind, topology) in WAYS.items():
                played = run.every_step() if "step" in way else run
                seconds = total_s(played, topology, traffic[kind], gbps * 1e9 / 8)
                found.append({
                    "size": size, "parameters": P, "gbps": gbps, "way": way,
                    "hours": seconds / 3600, "compute-hours": ROUNDS * run.compute_s / 3600,
                    "up-bytes": traffic[kind].up, "down-bytes": traffic[kind].down,
                })  # fmt: skip
    return found


def hours(found: list[dict[str, Any]]) -> list[list[str]]:
    """Return the table of hours, its head first."""
    table = [["size", "computing alone", "way", *(f"{gbps:g} Gbps" for gbps in GBPS)]]
    for size in PARAMETERS:
        for way in WAYS:
            own = [r for r in found if (r["size"], r["way"]) == (size, way)]
            table.append([
                size, f"{own[0]['compute-hours']:,.1f}", way, *(f"{r['hours']:,.1f}" for r in own),
            ])  # fmt: skip
    return table


def payloads(found: list[dict[str, Any]]) -> list[list[str]]:
    """Return the table of bytes, its head first."""
    table = [["size", "dense, each way", "sparse-diloco up", "sparse-diloco down"]]
    for size in PARAMETERS:
        dense, sparse = (
            next(r for r in found if (r["size"], r["way"]) == (size, way))
            for way in ("DiLoCo, fp32", "sparse-diloco")
        )
        up, down = (dense["up-bytes"] / sparse[f"{way}-bytes"] for way in ("up", "down"))
        table.append([
            size, f"{dense['up-bytes'] / 1e9:.2f} GB",
            f"{sparse['up-bytes'] / 1e6:,.1f} MB ({up:.0f}x less)",
            f"{sparse['down-bytes'] / 1e6:,.0f} MB ({down:.1f}x less)",
        ])  # fmt: skip
    return table


def main() -> int:
    """Write the results and the tables."""
    found = rows()
    settings = {"recipes": ["recipes/pretraining/sparse-diloco.toml"], "clients": CLIENTS}
    write_result("scaling", settings | ASSUMED, found)
    texts = {"scaling-hours": printed(hours(found)), "scaling-bytes": printed(payloads(found))}
    fill(ROOT / "docs" / "scaling.md", texts)
    print("\n\n".join(texts.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
