"""Who trains in a round: uniform without replacement, from (seed, round) and nothing else."""

from collections.abc import Mapping

from fedllm_app.core.counts import eligible
from fedllm_app.core.seeds import generator


def sample_cohort(counts: Mapping[str, int], n: int, seed: int, round_: int) -> list[str]:
    """Return the ids of `n` clients, sorted; all that have data when there are fewer.

    Parameters
    ----------
    counts : examples of each client that is there; a client without any is never sampled.

    Notes
    -----
    The draw depends on the set of clients, not on their order.
    """
    clients = eligible(counts)
    if len(clients) <= n:
        return [*clients]
    rng = generator(seed, "cohort", round_)
    return sorted(clients[i] for i in rng.choice(len(clients), size=n, replace=False))
