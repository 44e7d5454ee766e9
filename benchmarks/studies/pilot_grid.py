"""The planner's pilot beside the exhaustive grid of figure 5.3, under one budget.

    python -m benchmarks.studies.pilot_grid --data DATA --model MODEL [--share 0.3]

DATA is the folder of 20 Newsgroups parquet files, MODEL that of MiniLM. The grid is that of
`make reproduce` (ranks x densities on bench-S), which has to be measured first; the budget is what
50 dense rounds of rank 16 cost, both ways together. The pilot spends a share of it on short runs
and names a winner; the winner is then worth what the grid's own run of it reaches with the rest of
the budget. The result goes to benchmarks/results/pilot-grid.json and, as tables, to
docs/planner.md.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.markers import fill, printed
from benchmarks.record import ROOT, kept_rows, write_result
from benchmarks.reproduce.cells import BUDGET_ROUNDS, DENSITIES, RANKS, ROUNDS, floss_entry
from benchmarks.reproduce.results import best_rates
from fedllm_app.config import RunConfig
from fedllm_app.core.settings import Scalar
from fedllm_app.study.budget import Budget
from fedllm_app.study.command import Question, play, predictor
from fedllm_app.study.planner import fraction, plan

Row = dict[str, Any]


def choices(home: Path, places: dict[str, str]) -> list[tuple[dict[str, Scalar], RunConfig]]:
    """Return the cells of the grid, each with the learning rates it has there."""
    rates, found = best_rates(home), []
    for rank in RANKS:
        for name, density in DENSITIES.items():
            cell = floss_entry("5.3", rank, name, name, ROUNDS).cell(rates, places)
            if cell is None:
                raise SystemExit("the trials of dense, rank-4 and floss are to be played first")
            settings: dict[str, Scalar] = {
                "lora.rank": rank, "strategy.d-down": density, "strategy.d-up": density,
            }  # fmt: skip
            found.append((settings, cell.config(home)))
    return found


def grid() -> dict[tuple[int, float], Row]:
    """Return the rows of figure 5.3 by rank and density."""
    return {
        (r["settings"]["lora.rank"], float(r["settings"].get("strategy.d-up", 1.0))): r
        for r in kept_rows("reproduce-5.3")
    }


def reached(row: Row, budget: float) -> tuple[float, int, float]:
    """Return accuracy and round of the last evaluation within a budget, and the bytes by then."""
    sent = {int(t): row["up-bytes"][t] + row["down-bytes"][t] for t in row["up-bytes"]}
    inside = [t for t, size in sent.items() if size <= budget]
    last = max(inside, default=0)
    return row["accuracy"][str(last)], last, float(sent.get(last, 0))


def compare(home: Path, places: dict[str, str], share: float) -> None:
    """Play the pilot and write what it found beside the grid."""
    cells = grid()
    if len(cells) < len(RANKS) * len(DENSITIES):
        raise SystemExit(f"{len(cells)} cells of the grid are measured; play `make reproduce`")
    dense = cells[16, 1.0]
    both = dense["up-bytes"]["100"] + dense["down-bytes"]["100"]
    budget = Budget(both_mb=both * BUDGET_ROUNDS / 100 / 1e6, base=False)
    made = choices(home, places)
    config = made[0][1]
    question = Question(config, budget, None, (), 1, (), 20, None, share, 0, 0, None)
    candidates = plan(made, budget.left(share), predictor(config, None), 1)
    pilots = play(question, candidates, budget.share(share, ROUNDS), Console(width=120))
    winner = pilots[0].candidate.settings
    own = reached(cells[winner["lora.rank"], winner["strategy.d-up"]], (1 - share) * both / 2)
    under = {key: reached(row, both / 2) for key, row in cells.items()}
    # The grid's dense run is evaluated before and after its budget ends, that of 5.4 as it ends.
    half = next(row for row in kept_rows("reproduce-5.4") if row["method"] == "dense")
    under[16, 1.0] = reached(half, both / 2)
    best = max(under, key=lambda key: under[key][0])
    spent = sum(p.spent["both"] for p in pilots if p.spent)
    row: Row = {
        "budget-mb": both / 2e6,
        "share": share,
        "winner": dict(winner),
        "winner-accuracy": own[0],
        "winner-round": own[1],
        "grid-best": {"rank": best[0], "density": best[1]},
        "grid-best-accuracy": under[best][0],
        "points-behind": 100 * (under[best][0] - own[0]),
        "pilot-bytes": spent,
        "grid-bytes": sum(size for _, _, size in under.values()),
        "pilot-rounds": sum(p.played for p in pilots),
        "grid-rounds": sum(t for _, t, _ in under.values()),
        "pilots": [
            {"settings": dict(p.candidate.settings), "rounds": p.played, "value": p.value}
            for p in pilots
        ],
        "grid": [
            {"rank": r, "density": d, "accuracy": a, "round": t, "bytes": sent}
            for (r, d), (a, t, sent) in under.items()
        ],
    }
    print(write_result("pilot-grid", {"figure": "5.3", "rounds": ROUNDS}, [row]))
    fill(ROOT / "docs" / "planner.md", {"comparison": document(row)})


def document(row: Row) -> str:
    """Return the outcome and the cells of the grid, with their pilots, as two tables."""
    best, own = row["grid-best"], row["winner"]
    mb = [row[f"{who}-bytes"] / 1e6 for who in ("pilot", "grid")]
    outcome = [
        ["", "pilot", "grid"],
        ["chosen", *(f"rank {r}, density {fraction(d)}" for r, d in (
            (own["lora.rank"], own["strategy.d-up"]), (best["rank"], best["density"])))],
        ["accuracy within the budget", f"{row['winner-accuracy']:.3f} ({row['points-behind']:.1f} "
         "points behind)", f"{row['grid-best-accuracy']:.3f}"],
        ["bytes spent to choose", f"{mb[0]:.0f} MB, {mb[0] / mb[1]:.2f} of the grid's",
         f"{mb[1]:.0f} MB"],
        ["rounds played to choose", str(row["pilot-rounds"]), str(row["grid-rounds"])],
    ]  # fmt: skip
    short = {(p["settings"]["lora.rank"], p["settings"]["strategy.d-up"]): p for p in row["pilots"]}
    cells = [["rank", "density", "accuracy within the budget", "MB", "short run, on validation"]]
    for cell in row["grid"]:
        tried = short.get((cell["rank"], cell["density"]))
        words = f"{tried['value']:.3f} after {tried['rounds']} rounds" if tried else "not tried"
        cells.append([str(cell["rank"]), fraction(cell["density"]),
                      f"{cell['accuracy']:.3f} (round {cell['round']})",
                      f"{cell['bytes'] / 1e6:.1f}", words])  # fmt: skip
    return f"{printed(outcome)}\n\n{printed(cells)}"


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--home", type=Path, default=Path.home() / ".fedllm" / "bench-s")
    a = parser.parse_args()
    places = {"data.train": str(a.data.absolute()), "model.source": str(a.model.absolute())}
    compare(a.home, places, a.share)


if __name__ == "__main__":
    sys.exit(main())
