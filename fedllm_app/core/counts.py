"""How many examples each client has, and who has any: with many clients, found once for a run."""

from collections.abc import Mapping
from functools import cached_property


class Counts(dict[str, int]):
    """Examples by client, not changed once it is made, so that it is sorted once."""

    @cached_property
    def eligible(self) -> list[str]:
        """The clients with examples, sorted."""
        return sorted(client for client, count in self.items() if count > 0)


def eligible(counts: Mapping[str, int]) -> list[str]:
    """Return the clients with examples, sorted."""
    return (counts if isinstance(counts, Counts) else Counts(counts)).eligible
