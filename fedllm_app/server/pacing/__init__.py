"""When the server steps: who is asked, which reply still counts, when it is time."""

from collections.abc import Callable

from fedllm_app.run.settings import RoundSettings
from fedllm_app.server.pacing.base import Pacing
from fedllm_app.server.pacing.buffered import Buffered
from fedllm_app.server.pacing.deadline import Deadline
from fedllm_app.server.pacing.sync import Sync

PACINGS: dict[str, Callable[[RoundSettings, int], Pacing]] = {
    "sync": lambda s, seed: Sync(asked=s.cohort, seed=seed),
    "deadline": lambda s, seed: Deadline(
        clients=s.cohort, asked=s.at_once, seed=seed, lasts_s=s.deadline_s
    ),
    "async": lambda s, seed: Buffered(s.concurrency, s.goal, s.most_stale, seed),
}


def pacing_of(settings: RoundSettings, seed: int) -> Pacing:
    """Return the policy of a run."""
    resolved = settings.resolved("")
    return PACINGS[resolved.pacing](resolved, seed)
