"""What a run may cost, and the round that would cost more is not begun."""

from collections.abc import Iterable
from dataclasses import dataclass

from fedllm_app.run.settings import RoundSettings


@dataclass(frozen=True)
class Cost:
    """Bytes and seconds so far, or an upper bound of what a round adds.

    Attributes
    ----------
    seconds : wall-clock.
    simulated_s : over the links of `network`; 0 without a clock.
    energy_j : joules of simulated devices; 0 without any.
    """

    up_bytes: int
    down_bytes: int
    seconds: float
    simulated_s: float = 0.0
    energy_j: float = 0.0


def over_budget(settings: RoundSettings, spent: Cost, next_round: Cost) -> str:
    """Return why the next round is not begun, or "" when every budget holds it."""
    limit_s, spent_s, more_s = settings.max_simulated_s, spent.simulated_s, next_round.simulated_s
    rows: Iterable[tuple[str, float, float, float]] = (
        ("max-up-bytes", settings.max_up_bytes, spent.up_bytes, next_round.up_bytes),
        ("max-down-bytes", settings.max_down_bytes, spent.down_bytes, next_round.down_bytes),
        ("max-seconds", settings.max_seconds, spent.seconds, next_round.seconds),
        ("max-simulated-s", limit_s, spent_s, more_s),
        ("max-energy-j", settings.max_energy_j, spent.energy_j, next_round.energy_j),
    )
    for key, limit, used, more in rows:
        if limit and used + more > limit:
            digits = 0 if key.endswith("bytes") else 2
            return (
                f"budget round.{key} = {limit:g}: {used:,.{digits}f} used, the next may add "
                f"{more:,.{digits}f}"
            )
    return ""
