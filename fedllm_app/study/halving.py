"""Play candidates from rung to rung, the best third each time (synchronous successive halving).

Karnin 2013; Jamieson and Talwalkar 2016. A run is resumed from rung to rung, so no round is
played twice. What has been spent is read from the ledgers, without the base: the run that follows
meets the same clients and has it in a column of its own.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from fedllm_app.core.errors import FedllmError, RunFailedError
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.progress import duration
from fedllm_app.core.units import format_metric
from fedllm_app.devices.network import Network
from fedllm_app.place import Place
from fedllm_app.play import run_local
from fedllm_app.report.run import read_run
from fedllm_app.study.budget import Budget, show
from fedllm_app.study.costs import measured
from fedllm_app.study.effort import amounts
from fedllm_app.study.pilot import Pilot, survivors
from fedllm_app.study.planner import label

log = logging.getLogger("fedllm.pilot")


def best_third(values: Sequence[float], falling: bool) -> list[int]:
    """Return the positions of the best third of a rung's values, ascending.

    NaN is the worst value there is; of equal values the earlier is kept.

    Parameters
    ----------
    falling : a smaller value is better.
    """
    sign = 1 if falling else -1
    order = sorted(range(len(values)), key=lambda i: (math.isnan(values[i]), sign * values[i]))
    return sorted(order[: survivors(len(values))])


def halve(
    pilots: Sequence[Pilot],
    rungs: Sequence[int],
    budget: Budget,
    metric: str,
    network: Network | None,
    counts: Mapping[str, int] | None = None,
) -> list[Pilot]:
    """Play the candidates from rung to rung and return them all, the best first.

    Parameters
    ----------
    budget : what may be spent in all; no segment is begun that could pass it.
    metric : by which they are ranked.
    network, counts : links and speeds, and the examples of each client that local steps hang on.

    Raises
    ------
    FedllmError
        If a short run may cost more than is left, or no candidate has a metric that is a number.
    """
    falling = metric in pilots[0].config.task.kind.falling
    live = list(pilots)
    for number, rung in enumerate(rungs, start=1):
        began = time.monotonic()
        for done, pilot in enumerate(live, start=1):
            _play(pilot, rung, pilots, budget, metric, network, counts or {})
            left = (time.monotonic() - began) / done * (len(live) - done)
            log.info(
                "rung %d of %d, candidate %d of %d: %s, %s %s after %d rounds; about %s left of it",
                number, len(rungs), done, len(live), label(pilot.candidate.settings), metric,
                format_metric(pilot.value), pilot.until(rung), duration(left),
            )  # fmt: skip
        best = [live[i] for i in best_third([pilot.value for pilot in live], falling)]
        live = [pilot for pilot in best if not math.isnan(pilot.value)]
    if all(math.isnan(pilot.value) for pilot in pilots):
        raise FedllmError(f"no candidate's {metric} is a number; a lower client.lr may help")
    sign = 1 if falling else -1
    return sorted(pilots, key=lambda p: (math.isnan(p.value), -p.rung, sign * p.value))


def spent_by(pilots: Sequence[Pilot], budget: Budget) -> dict[str, float]:
    """Return what has been spent so far, by limit."""
    return {name: sum((p.spent or {}).get(name, 0.0) for p in pilots) for name in budget.limits}


def _play(
    pilot: Pilot,
    rung: int,
    pilots: Sequence[Pilot],
    budget: Budget,
    metric: str,
    network: Network | None,
    counts: Mapping[str, int],
) -> None:
    """Play one candidate on to a rung, if the budget surely pays for it."""
    rounds, folder = pilot.until(rung), Place.of(pilot.config).home / "runs" / pilot.config.run.name
    spent, more = spent_by(pilots, budget), pilot.cost(budget, pilot.played, rung)
    for name, limit in budget.limits.items():
        if spent[name] + more[name] > limit:
            raise FedllmError(
                f"{show(name, spent[name])} of {show(name, limit)} ({name}) are spent and the next "
                f"short run may take {show(name, more[name])}: the runs have cost more than "
                "predicted, or belong to an earlier pilot with a larger share"
            )
    value = _value_at(folder, rounds, metric)
    if math.isnan(value):
        run = pilot.config.run.model_copy(update={"rounds": rounds, "checkpoint_every": rounds})
        with suppress(RunFailedError):  # it has no value, which is the worst there is
            run_local(pilot.config.model_copy(update={"run": run}))
        value = _value_at(folder, rounds, metric)
    c, layout = pilot.config.resolved(), ParamLayout((), ())  # everything is trained

    def amount(name: str) -> float:
        return amounts(network, c, {name: counts.get(name, 1)}, layout)[name] if network else 0.0

    costs = measured(folder, network, amount)
    pilot.rung, pilot.value, pilot.played = rung, value, costs.rounds
    pilot.spent = {name: float(each.sum()) for name, each in budget.used(costs).items()}


def _value_at(folder: Path, round_: int, metric: str) -> float:
    """Return the metric after a round, NaN where there is none."""
    if not (folder / "metrics.jsonl").is_file():
        return math.nan
    found = [v for record, v in read_run(folder).evaluations(metric) if record["round"] == round_]
    return found[-1] if found else math.nan
