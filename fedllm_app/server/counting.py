"""How the replies of a round count: weighed, bounded, and combined."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedllm_app.core.state import RunState
from fedllm_app.run.ledger import Ledger
from fedllm_app.server.asked import Asked
from fedllm_app.server.clip import Clip
from fedllm_app.server.guard import Guard
from fedllm_app.server.intake import Intake
from fedllm_app.server.pacing.base import Pacing
from fedllm_app.server.planning import Planned
from fedllm_app.server.weights import WeightBy, Weights


@dataclass(frozen=True)
class Counting:
    """What one reply is worth, and what it can do at most.

    Attributes
    ----------
    weights : how much a reply counts.
    most_units : the most units that a job on so many examples can see.
    guard : how replies are bounded and combined.
    """

    weights: WeightBy = "uniform"
    most_units: Callable[[int], int] = int
    guard: Guard = field(default_factory=Guard)

    def intake(
        self,
        state: RunState,
        planned: Planned,
        pacing: Pacing,
        open: Sequence[Asked],
        counts: Mapping[str, int],
        asked: int,
        ledger: Ledger,
    ) -> Intake:
        """Return what takes the replies of the next round, with a mean for each vector.

        Parameters
        ----------
        open : jobs that are open already.
        counts : examples of each client that may answer.
        asked : how many are asked beside those.
        """
        replies = pacing.most(asked + len(open))
        among = replies if pacing.refills else None
        weights = Weights(self.weights, counts, self.most_units, among, pacing.fresh)
        plans = (planned.plan.groups[name] for name in {*planned.plan.group_of.values()})
        names = {name for plan in plans for name in plan.beside_up}
        names |= {name for job in open for name in job.vectors}
        P, most = planned.inputs.layout.size, weights.total * pacing.fresh
        return Intake(
            state.round + 1,
            open,
            self.guard.means(P, names, replies, planned.plan.mean, most),
            lambda job, metrics: weights.of(job, metrics) * pacing.weight(state, job),
            ledger,
            Clip(self.guard.bound, state.norms, planned.plan.mirrored),
            lambda job, metrics: weights.of(job, metrics) * pacing.fresh,
            state.given + 1 if pacing.refills else None,
        )
