"""Tiers of clients, and densities: of each tier, and one that shrinks from round to round."""

from collections.abc import Callable, Mapping
from fractions import Fraction

from fedllm_app.core.job import Profile
from fedllm_app.core.seeds import derive_seed
from fedllm_app.devices.fleet import Fleet

Tiers = Callable[[str, int], int]  # the tier of a client, of so many


def tier_of(client: str, tiers: int) -> int:
    """Return a client's tier: its number modulo the tiers, that of a digest if it has a name."""
    return (int(client) if client.isdecimal() else derive_seed("tier", client)) % tiers


def tiers_of(fleet: Fleet | None) -> Tiers:
    """Return what says a client's tier: by its device, if classes differ, or by number."""
    return fleet.tier if fleet is not None and len(fleet.order) > 1 else tier_of


def tiers_told(fleet: Fleet) -> Callable[[Mapping[str, Profile]], Tiers] | None:
    """Return what says the tiers of real devices from what they say of themselves.

    One that says no class of the fleet counts among the slowest. None where classes do not differ.
    """
    if len(fleet.order) < 2:
        return None

    def told(profiles: Mapping[str, Profile]) -> Tiers:
        def tier(client: str, tiers: int) -> int:
            name = str(profiles.get(client, {}).get("class", ""))
            return fleet.tier_of(name, tiers) if name in fleet.order else 0

        return tier

    return told


def shrinking(density: float, rounds: int) -> float:
    """Return the q whose powers 0 to `rounds` - 1 have the mean `density`.

    Raises
    ------
    ValueError
        If there is none: the first power alone is 1 / rounds of the mean.
    """
    if not 1 / rounds < density < 1:
        raise ValueError(f"a density above 1 / {rounds} rounds and below 1")
    low, high = 0.0, 1.0
    for _ in range(60):
        q = (low + high) / 2
        above = sum(q**t for t in range(rounds)) > density * rounds
        low, high = (low, q) if above else (q, high)
    return round(low, 9)


def numbers_of(text: str, expected: str = "") -> list[Fraction]:
    """Return numbers with commas between them; a ValueError says what was expected."""
    try:
        return [Fraction(word.strip()) for word in text.split(",")] if text else []
    except (ValueError, ZeroDivisionError):
        raise ValueError(expected) from None
