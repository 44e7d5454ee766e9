"""What a run may cost, and the round that would cost more is not begun."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fedllm_app.core.derive import chosen_from, expand
from fedllm_app.core.job import Job, Request
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import ClientPlan, RoundPlan, TopK
from fedllm_app.run.settings import RoundSettings
from fedllm_app.wire.codec import WireSettings, max_bytes
from fedllm_app.wire.select import kept, without


@dataclass(frozen=True)
class Cost:
    """Bytes and seconds so far, or an upper bound of what a round adds.

    Attributes
    ----------
    seconds : wall-clock.
    simulated_s : over the links of `network`; 0 without a clock.
    """

    up_bytes: int
    down_bytes: int
    seconds: float
    simulated_s: float = 0.0


def upload_support(
    plan: ClientPlan, layout: ParamLayout, job: Job, seed: int
) -> tuple[np.ndarray | None, np.ndarray | None, int]:
    """Return the coordinates that an update may hold (None: all), must hold, and how many."""
    up, P = plan.up, layout.size
    if not isinstance(up, TopK):
        within = expand(up, layout, seed, job.id, job.client)
        return within, None, P if within is None else within.size
    within, always = chosen_from(up, layout, seed, job.id, job.client)
    free = without(P, within, always)
    whole = 0 if always is None else always.size
    return within, always, whole + kept(P if free is None else free.size, up.density)


def upload_bound(
    plan: ClientPlan, layout: ParamLayout, job: Job, seed: int, wire: WireSettings
) -> int:
    """Return the most bytes that one client's update can have under its plan."""
    _, _, count = upload_support(plan, layout, job, seed)
    explicit = isinstance(plan.up, TopK)
    return max_bytes(count, layout.size, wire.up_values, wire.block, explicit=explicit)


def most_traffic(
    plan: RoundPlan,
    requests: Sequence[Request],
    layout: ParamLayout,
    seed: int,
    wire: WireSettings,
) -> dict[str, tuple[int, int]]:
    """Return the bytes that go down to each client, and the most that can come up."""
    return {
        job.client: (
            request.payload.size,
            upload_bound(plan.groups[request.group], layout, job, seed, wire),
        )
        for request in requests
        for job in request.jobs
    }


def over_budget(settings: RoundSettings, spent: Cost, next_round: Cost) -> str:
    """Return why the next round is not begun, or "" when every budget holds it."""
    limit_s, spent_s, more_s = settings.max_simulated_s, spent.simulated_s, next_round.simulated_s
    rows: Iterable[tuple[str, float, float, float]] = (
        ("max-up-bytes", settings.max_up_bytes, spent.up_bytes, next_round.up_bytes),
        ("max-down-bytes", settings.max_down_bytes, spent.down_bytes, next_round.down_bytes),
        ("max-seconds", settings.max_seconds, spent.seconds, next_round.seconds),
        ("max-simulated-s", limit_s, spent_s, more_s),
    )
    for key, limit, used, more in rows:
        if limit and used + more > limit:
            digits = 0 if key.endswith("bytes") else 2
            return (
                f"budget round.{key} = {limit:g}: {used:,.{digits}f} used, the next may add "
                f"{more:,.{digits}f}"
            )
    return ""
