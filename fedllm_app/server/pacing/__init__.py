"""When the server steps: who is asked, which reply still counts, when it is time."""

from collections.abc import Callable

from fedllm_app.devices.available import Present, everybody
from fedllm_app.run.settings import RoundSettings
from fedllm_app.server.pacing.base import Pacing
from fedllm_app.server.pacing.buffered import Buffered
from fedllm_app.server.pacing.deadline import Deadline
from fedllm_app.server.pacing.sync import Sync

PACINGS: dict[str, Callable[[RoundSettings, int, Present], Pacing]] = {
    "sync": lambda s, seed, there: Sync(asked=s.cohort, seed=seed, present=there),
    "deadline": lambda s, seed, there: Deadline(
        clients=s.cohort, asked=s.at_once, seed=seed, present=there, lasts_s=s.deadline_s
    ),
    "async": lambda s, seed, there: Buffered(s.concurrency, s.goal, s.most_stale, seed, there),
}


def pacing_of(settings: RoundSettings, seed: int, present: Present = everybody) -> Pacing:
    """Return the policy of a run; `present` says which clients are there in a round."""
    resolved = settings.resolved("")
    return PACINGS[resolved.pacing](resolved, seed, present)
