"""How far one reply can move the model: the norm of its update is bounded.

A reply of huge values does more than one bad step. Adam's second moment remembers it for 1 /
(1 - beta2) rounds, and meanwhile hardly moves what it touched. So a reply whose norm is above a
bound is scaled down to it, or dropped.

The automatic bound is a factor times the median of the norms that were accepted lately, as in
adaptive clipping (Andrew et al. 2021, arXiv 1905.03871), far enough above it to leave honest
replies as they are. What bounds a round are the rounds before it alone: replies come in any order,
and each is folded in as it comes. Where too few norms are known, as in round 1, replies wait as the
bytes that they came as, and their own median joins in. A norm is noted after it was cut, so that
a client cannot raise the median by more than its vote.

A vector can be the change of what a device keeps (`RoundPlan.mirrored`): all of it at the device's
first job, little at a later one. What devices send first is then the measure of all, and a reply
above the bound is dropped: scaled down, the server's mean would no longer be that of the devices.

Shapes: none; a norm is the Euclidean one over the coordinates that a reply sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from fedllm_app.server.asked import Key

AUTO, OFF = "auto", "off"
# The median is over the latest rounds that hold at least so many norms together.
WINDOW = 100
# With fewer norms than this the replies of a round wait for each other.
ENOUGH = 5

Norms = Mapping[str, tuple[tuple[float, ...], ...]]  # by vector: of each round, oldest first


@dataclass(frozen=True)
class Bound:
    """The settings of a bound.

    Attributes
    ----------
    norm : a fixed bound, `AUTO`, or `OFF`.
    factor : how far above the median the automatic one is.
    drop : a reply above it is dropped, else scaled down to it.
    """

    norm: float | str = AUTO
    factor: float = 4.0
    drop: bool = False


class Clip:
    """The bounds of one round, and what became of its replies.

    Parameters
    ----------
    bound : the settings.
    earlier : norms of the rounds before.
    mirrored : vectors that are changes of what devices keep.

    Attributes
    ----------
    clipped : of each job whose reply was above a bound, how many times above it was.
    dropped : those of them whose reply must not count.
    """

    def __init__(
        self, bound: Bound, earlier: Norms | None = None, mirrored: Sequence[str] = ()
    ) -> None:
        self.bound, self._earlier, self._mirrored = bound, dict(earlier or {}), mirrored
        self.dropped: set[Key] = set()
        self._limits: dict[str, float] = {}
        self._noted: dict[str, dict[Key, float]] = {}
        self.clipped: dict[Key, float] = {}

    def waits(self, names: Sequence[str]) -> bool:
        """Say whether a bound of these vectors is known only when the round closes."""
        return self.bound.norm == AUTO and any(len(self._known(n)) < ENOUGH for n in names)

    def close(self, replies: Sequence[tuple[Mapping[str, float], bool]]) -> None:
        """Set the bounds that were not known, by the norms of the replies that waited.

        Parameters
        ----------
        replies : the norms of each, and whether it is its device's first.
        """
        for name in {name for norms, _ in replies for name in norms}:
            alike = [norms for norms, first in replies if first or name not in self._mirrored]
            own = [norms[name] for norms in alike if norms.get(name)]
            if len(known := self._known(name)) < ENOUGH and (known or own):
                self._limits[name] = self.bound.factor * median_low([*known, *own])

    def limit(self, name: str) -> float | None:
        """Return the bound of a vector's norm, None where there is none."""
        if self.bound.norm == OFF:
            return None
        if isinstance(self.bound.norm, float):
            return self.bound.norm
        if name not in self._limits and len(known := self._known(name)) >= ENOUGH:
            self._limits[name] = self.bound.factor * median_low(known)
        return self._limits.get(name)

    def scales(self, job: Key, norms: Mapping[str, float], first: bool = True) -> dict[str, float]:
        """Return what each vector of a reply is multiplied by, 1 where it is within its bound.

        Parameters
        ----------
        first : whether it is the device's first.
        """
        found, times = dict[str, float](), 1.0
        for name, norm in norms.items():
            limit = self.limit(name)
            above = limit is not None and norm > limit
            found[name] = limit / norm if limit is not None and above else 1.0
            times = max(times, norm / limit if limit is not None and above else 1.0)
            noted = norm * found[name]
            if name in self._mirrored and not first:  # small as it may be, it lowers no bound
                noted = 0.0 if limit is None else max(noted, limit / self.bound.factor)
            self._noted.setdefault(name, {})[job] = noted
        if times > 1:
            self.clipped[job] = times
            if self.bound.drop or any(found.get(name, 1.0) < 1 for name in self._mirrored):
                self.dropped.add(job)
        return found

    def norms(self) -> Norms:
        """Return the norms that bound the rounds to come; a zero is none."""
        if self.bound.norm != AUTO:
            return {}
        after = dict(self._earlier)
        for name, by_job in self._noted.items():
            own = tuple(norm for _, norm in sorted(by_job.items()) if norm)
            rounds = [*after.get(name, ()), own] if own else [*after.get(name, ())]
            while rounds and sum(map(len, rounds[1:])) >= WINDOW:
                del rounds[0]
            after[name] = tuple(rounds)
        return after

    def _known(self, name: str) -> list[float]:
        return [norm for norms in self._earlier.get(name, ()) for norm in norms]
