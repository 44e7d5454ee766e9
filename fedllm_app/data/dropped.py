"""What is left out of a data set, counted by cause, with the first places of each."""

from collections.abc import Iterable
from dataclasses import dataclass, field

SHOWN = 3


@dataclass
class Dropped:
    """Rows that cannot be used.

    Attributes
    ----------
    counts : number of rows by cause, such as "no label".
    first : for each cause its first three places, such as "row 4".
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, cause: str, places: Iterable[int], unit: str = "row") -> None:
        """Count rows of one cause.

        Parameters
        ----------
        cause : why they cannot be used.
        places : their numbers; rows count from 0, lines of a file from 1.
        unit : "row" or "line".
        """
        for place in places:
            self.counts[cause] = self.counts.get(cause, 0) + 1
            shown = self.first.setdefault(cause, [])
            if len(shown) < SHOWN:
                shown.append(f"{unit} {place}")

    def join(self, other: "Dropped") -> None:
        """Count what was left out of more rows, whose places are in another file."""
        for cause, count in other.counts.items():
            self.counts[cause] = self.counts.get(cause, 0) + count
            shown = self.first.setdefault(cause, [])
            shown += other.first[cause][: SHOWN - len(shown)]

    def copy(self) -> "Dropped":
        """Return a copy to count on in."""
        return Dropped(dict(self.counts), {cause: list(p) for cause, p in self.first.items()})

    @property
    def total(self) -> int:
        """Number of rows of all causes."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        return "; ".join(
            f"{count} with {cause} ({_places(self.first[cause])}{', ...' * (count > SHOWN)})"
            for cause, count in self.counts.items()
        )


def _places(shown: list[str]) -> str:
    """Return "rows 4, 9" of ["row 4", "row 9"]."""
    if len(shown) == 1:
        return shown[0]
    unit = shown[0].split()[0]
    return f"{unit}s {', '.join(place.split()[-1] for place in shown)}"
