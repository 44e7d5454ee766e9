"""Which settings to take for a fleet and a goal, from runs that were measured, and how sure.

A choice is a setting and the evaluation at which to stop. The guide takes the cheapest whose
perplexity is within a margin of the best that was seen, or, where a limit is given, the best that
the limit pays for. It says what it cannot tell apart, and what nobody has measured.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log, sqrt
from statistics import fmean

from fedllm_app.core.errors import DataError
from fedllm_app.core.settings import Scalar
from fedllm_app.study.grouped import Setting, grouped, spread
from fedllm_app.study.observed import Observed, perplexity
from fedllm_app.study.on_fleet import GOALS, OnFleet

WITHIN = 5.0  # percent of perplexity above the best
SIZES = 4.0  # how many times larger or smaller a model may be than those measured
SURE = 2.0  # standard deviations of a difference
NAMED = 6  # settings of a doubt


@dataclass(frozen=True)
class Choice:
    """A setting, stopped after some round.

    Attributes
    ----------
    setting : that was played.
    round, of : when to stop, and the rounds that its schedule is made for.
    loss : held-out, the mean over seeds; infinite where one of them diverged.
    costs : by goal: seconds, joules, FLOPs, bytes.
    """

    setting: Setting
    round: int
    of: int
    loss: float
    costs: Mapping[str, float]

    @property
    def perplexity(self) -> float:
        """Of the held-out text."""
        return perplexity(self.loss)


@dataclass(frozen=True)
class Neighbour:
    """A setting that differs from the advice in one knob.

    Attributes
    ----------
    knob, before, after : what differs.
    percent : of perplexity at the same limit: above 0 is worse than the advice, infinite where it
        diverged.
    times : what it costs to its end, beside the advice to its own end.
    """

    knob: str
    before: Scalar | None
    after: Scalar | None
    percent: float
    times: float


@dataclass(frozen=True)
class Advice:
    """What to take, and how sure that is.

    Attributes
    ----------
    goal : one of GOALS.
    choice : what to take.
    best : the lowest loss that was seen.
    within : percent of perplexity that `choice` may be above it; None where a limit was given.
    most : the limit; None where `within` was given.
    sigma : standard deviation of a loss over seeds; None where no setting was repeated.
    rivals : other settings that meet the goal as well, as far as seeds can tell, cheapest first.
    neighbours : by knob.
    doubts : what the guide does not know, a sentence each.
    """

    goal: str
    choice: Choice
    best: Choice
    within: float | None
    most: float | None
    sigma: float | None
    rivals: Sequence[Choice]
    neighbours: Sequence[Neighbour]
    doubts: Sequence[str]


def choices(runs: Iterable[Observed], fleet: OnFleet) -> list[Choice]:
    """Return every setting at each of its evaluations, with what it costs on a fleet.

    A seed that ended before costs what it had spent.
    """
    found = []
    for setting in grouped(runs):
        spent = [fleet.spent(run) for run in setting.runs]
        for t, loss in setting.curve.items():
            by_goal = {g: [getattr(one, g) for one in spent] for g in GOALS}
            costs = {g: fmean(float(of[:t][-1]) for of in all_) for g, all_ in by_goal.items()}
            found.append(Choice(setting, t, setting.asked, loss, costs))
    return found


def front(found: Iterable[Choice], goal: str) -> list[Choice]:
    """Return what nothing cheaper is as good as, the cheapest first."""
    kept: list[Choice] = []
    finite = [c for c in found if isfinite(c.loss)]
    for one in sorted(finite, key=lambda c: (c.costs[goal], c.loss)):
        if not kept or one.loss < kept[-1].loss:
            kept.append(one)
    return kept


def advise(
    runs: Sequence[Observed], fleet: OnFleet, goal: str, within: float = WITHIN, most: float = 0.0
) -> Advice:
    """Return which settings to take.

    Parameters
    ----------
    within : percent of perplexity above the best that was seen.
    most : the most that may be spent of the goal; 0 for no limit, and then `within` rules.

    Raises
    ------
    DataError
        If nothing fits into the limit, or all settings diverged.
    """
    found = choices(runs, fleet)
    good = [c for c in found if isfinite(c.loss)]
    if not good:
        raise DataError(
            "every setting diverged in some seed, so there is nothing to advise; expected runs of "
            "a smaller client.lr or server.lr"
        )
    best, sigma = min(good, key=lambda c: c.loss), spread(grouped(runs))
    if most:
        allowed = [c for c in good if c.costs[goal] <= most]
        if not allowed:
            least = min(c.costs[goal] for c in good)
            raise DataError(
                f"nothing that was measured costs at most {most:g} {GOALS[goal]} of {goal}; the "
                f"cheapest evaluation costs {least:.3g}"
            )
        choice = min(allowed, key=lambda c: c.loss)
    else:
        allowed = [c for c in good if c.loss <= best.loss + log(1 + within / 100)]
        choice = min(allowed, key=lambda c: (c.costs[goal], c.loss))
    rivals = list(_rivals(good, choice, goal, sigma, None if most else best.loss, within, most))
    doubts = list(_doubts(runs, fleet, choice, sigma))
    return Advice(
        goal, choice, best, None if most else within, most or None, sigma, rivals,
        _neighbours(found, choice, goal), doubts,
    )  # fmt: skip


def _rivals(
    found: Sequence[Choice], choice: Choice, goal: str, sigma: float | None,
    best: float | None, within: float, most: float,
) -> Iterator[Choice]:  # fmt: skip
    """Yield the cheapest evaluation of other settings that seeds cannot tell from meeting the goal.

    With a margin these cost no more than a tenth above the advice; with a limit they are as good.
    """
    noise = SURE * sqrt(2) * (sigma or 0.0)
    if best is not None:
        limit = best + log(1 + within / 100) + noise
        near = [c for c in found if c.loss <= limit and c.costs[goal] <= 1.1 * choice.costs[goal]]
    else:
        near = [c for c in found if c.costs[goal] <= most and c.loss <= choice.loss + noise]
    seen = {id(choice.setting)}
    for one in sorted(near, key=lambda c: (c.costs[goal], c.loss)):
        if id(one.setting) not in seen:
            seen.add(id(one.setting))
            yield one


def _neighbours(found: Sequence[Choice], choice: Choice, goal: str) -> list[Neighbour]:
    """Return the settings that differ in one knob, at their end beside the advice at its end."""
    ends = {id(c.setting): c for c in found if c.round == list(c.setting.curve)[-1]}
    own, near = ends[id(choice.setting)], []
    for other in ends.values():
        knobs = other.setting.knobs
        differ = [k for k, value in choice.setting.knobs.items() if knobs[k] != value]
        # What only one of the two reads comes with the key that it follows from.
        more = [k for k in differ if None in (knobs[k], choice.setting.knobs[k])]
        if len(differ) - len(more) == 1:
            knob = next(k for k in differ if k not in more)
            percent, times = _beside(other.loss, own.loss), other.costs[goal] / own.costs[goal]
            before, after = choice.setting.knobs[knob], knobs[knob]
            if came := [f"{k} = {knobs[k]}" for k in more if knobs[k] is not None]:
                after = f"{after} ({', '.join(came)})"
            near.append(Neighbour(knob, before, after, percent, times))
    return sorted(near, key=lambda n: (n.knob, str(n.after).zfill(12)))


def _beside(loss: float, own: float) -> float:
    """Return the percent of perplexity by which a loss is above another."""
    return 100 * (perplexity(loss - own) - 1)


def edges(runs: Sequence[Observed], choice: Choice) -> list[str]:
    """Return knobs whose value is the lowest or highest of those played beside the advice."""
    ends = []
    for knob, value in choice.setting.knobs.items():
        others = [
            other.knobs[knob]
            for other in grouped(runs)
            if all(other.knobs[k] == v for k, v in choice.setting.knobs.items() if k != knob)
        ]
        numbers = [v for v in others if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) > 1 and isinstance(value, int | float) and value in (
            min(numbers), max(numbers),
        ):  # fmt: skip
            if value == 1 and isinstance(value, int) and value == min(numbers):
                continue  # below one client, row or step there is nothing
            side = "lowest" if value == min(numbers) else "highest"
            ends.append(f"{knob}={value:g} is the {side} that was tried; beyond it may be better")
    return ends


def _doubts(
    runs: Sequence[Observed], fleet: OnFleet, choice: Choice, sigma: float | None
) -> Iterator[str]:
    """Yield what the guide does not know."""
    if len(choice.setting.runs) == 1:
        told = "" if sigma is None else f"; settings with more seeds spread by {100 * sigma:.1f} %"
        yield f"the advice was played with one seed{told}"
    if sigma is None:
        yield "no setting was played with two seeds, so nothing can be said about chance"
    yield from edges(runs, choice)
    if bad := [setting for setting in grouped(runs) if setting.diverged]:
        named = "; ".join(f"{s.words} ({s.diverged} of {len(s.runs)})" for s in bad[:NAMED])
        more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        yield f"settings of which a seed diverged are not advised: {named}{more}"
    if choice.round < choice.of:
        yield (
            f"it stops after round {choice.round} of {choice.of}, before its learning rate has "
            "fallen; a schedule made for the shorter run was not tried"
        )
    sizes, tokens = {run.parameters for run in runs}, max(run.tokens for run in runs)
    size = fleet.scale * fmean(sizes)
    if not min(sizes) / SIZES <= size <= max(sizes) * SIZES:
        yield (
            f"a model of {size:,.0f} parameters is more than {SIZES:g} times smaller or larger "
            f"than those measured ({min(sizes):,} to {max(sizes):,}): its best rates and batches "
            "are unknown"
        )
    elif fleet.scale != 1:
        yield (
            "costs are those measured, scaled by parameters; perplexities are those of "
            f"{fmean(sizes):,.0f} parameters, and only their order is taken over"
        )
    counts = ", ".join(f"{count:,}" for count in sorted({run.population for run in runs}))
    yield f"the runs were of {counts} clients; with many more or fewer, nothing was tried"
    yield (
        "all devices are taken to be there at any time, and a job to fit into their memory "
        "(`fedllm devices check` counts it)"
    )
    if tokens:
        yield f"no run saw more than {tokens:,} tokens; longer runs may prefer other settings"
    if fleet.assumed:
        yield "figures that nobody measured: " + "; ".join(fleet.assumed)
