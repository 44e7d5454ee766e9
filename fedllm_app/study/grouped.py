"""Which runs are one setting with several seeds, and how far apart seeds are."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt
from statistics import fmean, stdev

from fedllm_app.core.settings import Scalar
from fedllm_app.study.observed import Observed

ROUNDS = "run.rounds"
# Runs that differ in these alone are seeds of one setting.
SEEDS = (
    "run.seed", "run.home", "run.name", "run.verbose", "run.checkpoint-every",
    "round.evaluate-every", "round.give-up-after", "client.threads",
)  # fmt: skip
Values = Mapping[str, Scalar | None]


@dataclass(frozen=True)
class Setting:
    """What was played with some seeds.

    Attributes
    ----------
    knobs : values of the keys that vary in the study, None where its runs do not read one.
    runs : one for each seed.
    beside : values of keys that some runs do not read, and that are the same in all others.
    """

    knobs: Values
    runs: Sequence[Observed]
    beside: Values = field(default_factory=dict)

    @property
    def diverged(self) -> int:
        """How many of its seeds diverged."""
        return sum(run.diverged for run in self.runs)

    @property
    def curve(self) -> dict[int, float]:
        """The mean loss over seeds, by round; at the end alone, and infinite, where one diverged.

        A seed that ended before the others counts with its last loss.
        """
        if self.diverged:
            return {max(run.rounds for run in self.runs): inf}
        found = {}
        for t in sorted({t for run in self.runs for t in run.curve}):
            losses = [loss for run in self.runs if (loss := run.loss_at(t)) is not None]
            if len(losses) == len(self.runs):
                found[t] = fmean(losses)
        return found

    @property
    def loss(self) -> float:
        """The mean loss at the end."""
        return list(self.curve.values())[-1]

    @property
    def asked(self) -> int:
        """Rounds that its schedule was made for."""
        return max(run.asked for run in self.runs)

    @property
    def words(self) -> str:
        """The knobs as KEY=VALUE."""
        return " ".join(f"{k}={value}" for k, value in self.knobs.items() if value is not None)


def grouped(runs: Iterable[Observed]) -> list[Setting]:
    """Return the settings that were played, their seeds together.

    A key whose value differs is a knob. One that the study calls derived is none, as long as it is
    a function of the knobs in these runs.
    """
    every = list(runs)
    keys = dict.fromkeys([*(k for run in every for k in run.settings), ROUNDS])
    asked = [k for k in keys if k not in SEEDS]
    full: list[Values] = [
        {k: run.asked if k == ROUNDS else run.read.get(k) for k in asked} for run in every
    ]
    # What one run reads and another does not follows from a key that differs.
    vary = [k for k in asked if len({values[k] for values in full} - {None}) > 1]
    named = frozenset.intersection(*(run.derived for run in every)) if every else frozenset()
    free = [k for k in vary if k not in named]
    knobs = [k for k in vary if k not in named or not _follows(k, free, full)]
    beside = [k for k in asked if k not in vary and len({values[k] for values in full}) > 1]
    found: dict[tuple[Scalar | None, ...], dict[int, tuple[Observed, Values]]] = {}
    for run, values in zip(every, full, strict=True):
        # Of the same run played twice, the first counts.
        found.setdefault(tuple(values[k] for k in knobs), {}).setdefault(run.seed, (run, values))
    settings = []
    for chosen, by_seed in found.items():
        _, first = next(iter(by_seed.values()))
        own = {k: first[k] for k in beside if first[k] is not None}
        played = [run for run, _ in by_seed.values()]
        settings.append(Setting(dict(zip(knobs, chosen, strict=True)), played, own))
    return settings


def _follows(key: str, knobs: Collection[str], runs: Iterable[Values]) -> bool:
    """Say whether runs that are equal in the knobs are equal in a key."""
    seen: dict[tuple[Scalar | None, ...], Scalar | None] = {}
    return all(
        seen.setdefault(tuple(values[k] for k in knobs), values[key]) == values[key]
        for values in runs
    )


def spread(settings: Iterable[Setting]) -> float | None:
    """Return the standard deviation of a run's loss over seeds, None where no setting has two.

    That of the loss is about the relative one of perplexity. Settings count alike; seeds that
    diverged do not count.
    """
    every = [[run.loss_at(run.rounds) for run in s.runs if not run.diverged] for s in settings]
    ends = [[loss for loss in losses if loss is not None] for losses in every]
    found = [stdev(losses) for losses in ends if len(losses) > 1]
    return sqrt(fmean(x * x for x in found)) if found else None
