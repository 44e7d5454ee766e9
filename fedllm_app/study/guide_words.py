"""The guide in words and as a figure, for the terminal and for docs/guide.md."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from fedllm_app.core.units import format_bytes, format_flops, format_joules, format_seconds
from fedllm_app.study.guide import Advice, Choice, front
from fedllm_app.study.on_fleet import GOALS

LEAST = {
    "time": "least time", "energy": "least energy", "compute": "least compute",
    "bytes": "fewest bytes",
}  # fmt: skip
AMOUNTS = {
    "time": format_seconds, "energy": format_joules, "compute": format_flops,
    "bytes": format_bytes,
}  # fmt: skip
SHOWN = 6  # rivals, and neighbours of a knob


def amount(goal: str, value: float) -> str:
    """Return a cost with its unit."""
    return AMOUNTS[goal](value)


def stop(choice: Choice) -> str:
    """Return when to stop, in words."""
    if choice.round == choice.of:
        return f"all {choice.of} rounds"
    return f"stop after round {choice.round} of {choice.of}"


def taken(choice: Choice) -> str:
    """Return the knobs of a choice, as a run-config has them."""
    own = {**choice.setting.knobs, **choice.setting.beside}
    knobs = [f"{key} = {_value(value)}" for key, value in own.items() if value is not None]
    return ", ".join(knobs) or "the only setting that was played"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "not read"
    if value == "":
        return '""'
    return f"{value:g}" if isinstance(value, float) else str(value)


def sentences(advice: Advice, fleet: str) -> list[str]:
    """Return the advice, a paragraph each: the goal, what to take, what it costs, how sure."""
    choice = advice.choice
    if advice.within is not None:
        asked = (
            f"perplexity at most {advice.within:g} % above the best seen "
            f"({advice.best.perplexity:.1f})"
        )
    else:
        asked = f"the lowest perplexity for {amount(advice.goal, advice.most or 0.0)}"
    costs = ", ".join(f"{amount(goal, choice.costs[goal])} of {goal}" for goal in GOALS)
    spread = "" if advice.sigma is None else f" ± {choice.perplexity * advice.sigma:.1f}"
    said = [
        f"Goal: {LEAST[advice.goal]} on {fleet}, {asked}.",
        f"Take: {taken(choice)}; {stop(choice)}.",
        f"Seen: perplexity {choice.perplexity:.1f}{spread} ({len(choice.setting.runs)} seeds). "
        f"Costs: {costs}.",
    ]
    if advice.rivals:
        rivals = [
            f"{taken(c)} ({stop(c)}): perplexity {c.perplexity:.1f}, "
            f"{amount(advice.goal, c.costs[advice.goal])}"
            for c in advice.rivals[:SHOWN]
        ]
        more = len(advice.rivals) - SHOWN
        tail = f"; and {more} more" if more > 0 else ""
        said.append("Cannot be told apart from it: " + "; ".join(rivals) + tail + ".")
    return said


def neighbours(advice: Advice) -> list[list[str]]:
    """Return a table of what changes when one knob does, its first row as the head."""
    head = ["knob", "advice", "instead", "perplexity", advice.goal]
    noise = 2 * 2**0.5 * 100 * (advice.sigma or 0.0)
    body = []
    for n in advice.neighbours:
        mark = "" if abs(n.percent) > noise else " (within chance)"
        worse = f"{n.percent:+.1f} %{mark}" if isfinite(n.percent) else "diverged"
        body.append([n.knob, _value(n.before), _value(n.after), worse, f"{n.times:.2f}x"])
    return [head, *body]


def draw_front(found: Sequence[Choice], chosen: Sequence[Choice], goals: Sequence[str],
               path: Path, title: str) -> None:  # fmt: skip
    """Draw perplexity against each goal: all evaluations, the Pareto front, and what is advised."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(goals), figsize=(4.2 * len(goals), 3.8), squeeze=False, sharey=True
    )
    for axis, goal, advised in zip(axes[0], goals, chosen, strict=True):
        best = front(found, goal)
        lowest = min(c.perplexity for c in found)
        shown = [c for c in found if c.perplexity <= 4 * lowest]
        axis.scatter([c.costs[goal] for c in shown], [c.perplexity for c in shown], s=8,
                     color="0.7", label="measured")  # fmt: skip
        line = [c for c in best if c.perplexity <= 4 * lowest]
        axis.step(
            [c.costs[goal] for c in line], [c.perplexity for c in line], where="post",
            color="C0", marker="o", markersize=3, label="nothing cheaper is as good",
        )  # fmt: skip
        axis.scatter([advised.costs[goal]], [advised.perplexity], marker="*", s=140, color="C1",
                     zorder=3, label="advice")  # fmt: skip
        axis.set(xscale="log", xlabel=f"{goal}, {GOALS[goal]}")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set(yscale="log", ylabel="held-out perplexity")
    axes[0][-1].legend(fontsize=7)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
