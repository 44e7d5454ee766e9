"""Choose which candidates a pilot tries, and how far: what a share of the budget surely pays for.

A pilot is a short run of a candidate, evaluated on held-out training data. Successive halving
(study/halving.py) plays them; here is said beforehand how many candidates and rungs the share
holds, whoever survives, and which candidates those are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.settings import Scalar
from fedllm_app.data.cache import digest
from fedllm_app.study.budget import Budget, show
from fedllm_app.study.costs import Costs
from fedllm_app.study.planner import Candidate, frontier
from fedllm_app.study.predict import Predictor

ETA = 3
MARGIN = 1.02  # an even spread is the dearest case; single rounds have come out 0.5 % above it


@dataclass
class Pilot:
    """One candidate's short run.

    Attributes
    ----------
    config : of the short run, whatever its rounds.
    expected : predicted costs of its rounds.
    rung : the last rung it was played to; a candidate that can pay for fewer rounds stops there.
    value : the metric after them.
    played : rounds in its ledger.
    spent : by limit of the budget, from the ledger.
    """

    candidate: Candidate
    config: RunConfig
    expected: Costs
    rung: int = 0
    value: float = math.nan
    played: int = 0
    spent: Mapping[str, float] = field(default_factory=dict)

    def until(self, rung: int) -> int:
        """Return the rounds to play for a rung: no more than the budget of its run holds."""
        return min(rung, self.candidate.fits)

    def cost(self, budget: Budget, before: int, rung: int) -> dict[str, float]:
        """Return what it takes of each limit to play from round `before` on to a rung."""
        rounds = slice(before, max(before, self.until(rung)))
        used = budget.used(self.expected)
        return {name: MARGIN * float(each[rounds].sum()) for name, each in used.items()}


def survivors(count: int) -> int:
    """Return how many of a rung's candidates go on."""
    return -(-count // ETA)


def pilot_config(candidate: Candidate) -> RunConfig:
    """Return the configuration of a candidate's short run; its name hangs on all that matters.

    It is evaluated on held-out training data, at the end of each rung alone, and has no other
    end than its rounds.
    """
    flat: dict[str, Scalar] = candidate.config.resolved().flat() | {
        "data.evaluate-on": "validation",
        "round.evaluate-every": 0,
        "round.target": 0.0,
        "round.max-up-bytes": 0,
        "round.max-down-bytes": 0,
        "round.max-seconds": 0.0,
        "round.max-simulated-s": 0.0,
    }
    apart = ("run.rounds", "run.checkpoint-every", "run.name")
    name = digest({key: value for key, value in flat.items() if key not in apart})
    return RunConfig.parse(flat | {"run.name": f"pilot-{name[:16]}"})


def named(pilots: Sequence[Pilot], first: int) -> list[Pilot]:
    """Return pilots whose short runs are named by their first rung, too: there they are evaluated.

    A pilot with another share or other rungs then plays runs of its own.
    """
    found = []
    for pilot in pilots:
        run = pilot.config.run
        run = run.model_copy(update={"name": f"{run.name}-{first}"})
        found.append(replace(pilot, config=pilot.config.model_copy(update={"run": run})))
    return found


def prepare(candidates: Sequence[Candidate], predictor: Predictor) -> list[Pilot]:
    """Return one short run per candidate that cannot be raised within the budget.

    Those that differ only in their rounds are the same short run, and come once.

    Parameters
    ----------
    predictor : over the clients of the short runs, which have a little less data.
    """
    longest: dict[str, Pilot] = {}
    for candidate in sorted(frontier(candidates), key=lambda c: -c.fits):
        config = pilot_config(candidate)
        if config.run.name not in longest:
            longest[config.run.name] = Pilot(candidate, config, predictor.costs(config))
    return sorted(longest.values(), key=lambda pilot: pilot.candidate.order())


def spread(pilots: Sequence[Pilot]) -> list[Pilot]:
    """Return all, ordered so that any first few are spread out over what is varied.

    The first stays first; each next one is the farthest from those before it. Numbers are
    compared by their logarithm, each key on a scale from 0 to 1.
    """
    rows = [p.candidate.settings for p in pilots]
    columns = []
    for key in rows[0]:
        values = [row[key] for row in rows]
        numeric = all(isinstance(v, int | float) and v > 0 for v in values)
        known = sorted(set(map(str, values)))
        scale = [math.log(float(v)) if numeric else float(known.index(str(v))) for v in values]
        low, high = min(scale), max(scale)
        columns.append([(x - low) / (high - low) if high > low else 0.0 for x in scale])
    points = np.array(columns).T.reshape(len(rows), -1)
    chosen, nearest = [0], np.full(len(rows), np.inf)
    while len(chosen) < len(rows):
        nearest = np.minimum(nearest, np.abs(points - points[chosen[-1]]).sum(axis=1))
        nearest[chosen] = -1
        chosen.append(int(np.argmax(nearest)))
    return [pilots[i] for i in chosen]


def rungs_of(first: int, rounds: int) -> list[int]:
    """Return the rounds of each rung: `first`, then three times more, below `rounds`."""
    rungs = [min(first, rounds)]
    while rungs[-1] * ETA < rounds:
        rungs.append(rungs[-1] * ETA)
    return rungs


def worst_cost(pilots: Sequence[Pilot], rungs: Sequence[int], budget: Budget) -> dict[str, float]:
    """Return the most that successive halving can spend, whoever survives, by limit."""
    worst = dict.fromkeys(budget.limits, 0.0)
    count, before = len(pilots), 0
    for rung in rungs:
        steps = [p.cost(budget, p.until(before), rung) for p in pilots]
        for name in worst:
            worst[name] += sum(sorted((step[name] for step in steps), reverse=True)[:count])
        count, before = survivors(count), rung
    return worst


def affordable(
    pilots: Sequence[Pilot], budget: Budget, first: int, rounds: int, most: int = 0
) -> tuple[list[Pilot], list[int]]:
    """Return the candidates and rungs that the budget surely pays for.

    As many rungs as can be with two or more candidates in the last, then as many candidates.

    Parameters
    ----------
    pilots : two or more.
    first : rounds of the first rung.
    rounds : of a whole run.
    most : candidates at most; 0 is all.

    Raises
    ------
    ConfigError
        If it pays for no two candidates.
    """
    order, every = spread(pilots), rungs_of(first, rounds)
    ceiling = min(len(order), most or len(order))
    for rungs in (every[:n] for n in range(len(every), 0, -1)):
        for count in range(ceiling, ETA ** (len(rungs) - 1), -1):
            needed = worst_cost(order[:count], rungs, budget)
            if all(needed[name] <= limit for name, limit in budget.limits.items()):
                return order[:count], rungs
    needed = worst_cost(order[:2], every[:1], budget)
    words = ", ".join(
        f"{show(name, needed[name])} of {show(name, limit)} ({name})"
        for name, limit in budget.limits.items()
    )
    raise ConfigError(
        f"the share pays for no two candidates of {every[0]} rounds: {words} needed. Raise "
        "--pilot, or lower --pilot-rounds"
    )


def stretched(
    pilots: Sequence[Pilot], rungs: Sequence[int], budget: Budget, rounds: int
) -> list[int]:
    """Return as many rungs, as long as the budget surely pays for: what is left would be wasted."""
    best = list(rungs)
    for first in range(rungs[0] + 1, rounds // ETA ** (len(rungs) - 1) + 1):
        longer = [first * ETA**i for i in range(len(rungs))]
        needed = worst_cost(pilots, longer, budget)
        if any(needed[name] > limit for name, limit in budget.limits.items()):
            break
        best = longer
    return best


def metric_of(config: RunConfig) -> str:
    """Return the metric that a pilot ranks by: the target's, else the task's first."""
    return config.round.target_metric or config.task.kind.headline


def told(chosen: int, all_: int, rungs: Sequence[int]) -> str:
    """Return what a pilot is going to play, as a sentence."""
    *before, last = map(str, rungs)
    end = f"they are judged after {last} rounds."
    if before:
        end = f"the best third goes on after {' and '.join(before)} rounds; the end is at {last}."
    return (
        f"Pilot: {chosen} of {all_} configurations that cannot be raised within the budget; {end}"
    )
