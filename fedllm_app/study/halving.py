"""Play candidates from rung to rung, the best third each time (synchronous successive halving).

Karnin 2013; Jamieson and Talwalkar 2016. A run is resumed from rung to rung, so no round is
played twice. What has been spent is read from the ledgers, without the base: the run that follows
meets the same clients and has it in a column of its own.

optuna keeps the trials. Its own SuccessiveHalvingPruner is asynchronous: it promotes the first
trial of a rung whatever its value, and a pruned one never resumes. Here all trials of a rung
report before any is pruned.
"""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import optuna

from fedllm_app.core.errors import FedllmError
from fedllm_app.core.progress import duration
from fedllm_app.core.units import format_metric
from fedllm_app.devices.network import Network
from fedllm_app.parts import Place
from fedllm_app.play import run_local
from fedllm_app.report.run import FALLING, read_run
from fedllm_app.study.budget import Budget, show
from fedllm_app.study.costs import measured
from fedllm_app.study.pilot import Pilot, survivors
from fedllm_app.study.planner import label

log = logging.getLogger("fedllm.pilot")


class BestThird(optuna.pruners.BasePruner):
    """Prune what is not in the best third of all trials that reached the same step."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Say whether a trial ends here; every trial of the rung must have reported."""
        step = trial.last_step
        assert step is not None
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        there = [t for t in study.get_trials(deepcopy=False) if step in t.intermediate_values]
        worth = {t.number: sign * t.intermediate_values[step] for t in there}
        # A value that is no number is the worst there is; of equal ones the earlier is kept.
        best = sorted(worth, key=lambda n: (math.isnan(worth[n]), -worth[n], n))
        return trial.number not in best[: survivors(len(best))]


def halve(
    pilots: Sequence[Pilot],
    rungs: Sequence[int],
    budget: Budget,
    metric: str,
    network: Network | None,
) -> list[Pilot]:
    """Play the candidates from rung to rung and return them all, the best first.

    Parameters
    ----------
    budget : what may be spent in all; no segment is begun that could pass it.
    metric : by which they are ranked.

    Raises
    ------
    FedllmError
        If a short run may cost more than is left, or no candidate has a metric that is a number.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    falling = metric in FALLING
    study = optuna.create_study(direction="minimize" if falling else "maximize", pruner=BestThird())
    axes: dict[str, optuna.distributions.BaseDistribution] = {
        key: optuna.distributions.CategoricalDistribution(
            list(dict.fromkeys(p.candidate.settings[key] for p in pilots))
        )
        for key in pilots[0].candidate.settings
    }
    for pilot in pilots:
        study.enqueue_trial(dict(pilot.candidate.settings))
    live = [(study.ask(axes), pilot) for pilot in pilots]
    for number, rung in enumerate(rungs, start=1):
        began = time.monotonic()
        for done, (trial, pilot) in enumerate(live, start=1):
            _play(pilot, rung, pilots, budget, metric, network)
            trial.report(pilot.value, rung)
            left = (time.monotonic() - began) / done * (len(live) - done)
            log.info(
                "rung %d of %d, candidate %d of %d: %s, %s %s after %d rounds; about %s left of it",
                number, len(rungs), done, len(live), label(pilot.candidate.settings), metric,
                format_metric(pilot.value), pilot.until(rung), duration(left),
            )  # fmt: skip
        live = _promoted(study, live, last=rung == rungs[-1])
    if all(math.isnan(pilot.value) for pilot in pilots):
        raise FedllmError(f"no candidate's {metric} is a number; a lower client.lr may help")
    sign = 1 if falling else -1
    return sorted(pilots, key=lambda p: (math.isnan(p.value), -p.rung, sign * p.value))


Live = list[tuple[optuna.Trial, Pilot]]


def _promoted(study: optuna.Study, live: Live, last: bool) -> Live:
    """Close the trials that end with this rung and return the rest."""
    kept: Live = []
    for (trial, pilot), prune in zip(live, [t.should_prune() for t, _ in live], strict=True):
        if math.isnan(pilot.value):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif last:
            study.tell(trial, pilot.value)
        elif prune:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            kept.append((trial, pilot))
    return kept


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
        folder = run_local(pilot.config.model_copy(update={"run": run}))
        value = _value_at(folder, rounds, metric)
    costs = measured(folder, network)
    pilot.rung, pilot.value, pilot.played = rung, value, costs.rounds
    pilot.spent = {name: float(each.sum()) for name, each in budget.used(costs).items()}


def _value_at(folder: Path, round_: int, metric: str) -> float:
    """Return the metric after a round, NaN where there is none."""
    if not (folder / "metrics.jsonl").is_file():
        return math.nan
    found = [v for record, v in read_run(folder).evaluations(metric) if record["round"] == round_]
    return found[-1] if found else math.nan
