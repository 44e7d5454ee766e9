"""Claims on perplexities, held against the rows by rules that the documents state.

A claim has one form: the perplexity of one point is at most so many percent above that of another,
with so many times fewer bytes. A margin counts only beyond the spread of the difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from benchmarks.reproduce.claims import PENDING, Verdict
from benchmarks.study_kit.entry import Row

Points = Mapping[str, Sequence[Row]]
LEAST = 0.5  # percent; two runs nearer than this are never told apart


@dataclass(frozen=True)
class Claim:
    """The perplexity of `ours` is at most `limit` percent above that of `theirs`.

    Attributes
    ----------
    words : as the document has it.
    source : who says so.
    up, down : how many times fewer bytes each way are claimed; 0 claims none.
    """

    words: str
    source: str
    ours: str
    theirs: str
    limit: float = 0.0
    up: float = 0.0
    down: float = 0.0


def noise(points: Points) -> float:
    """Return the standard deviation of a run over seeds, in percent, from all points with some."""
    relative = [
        100 * stdev(values) / fmean(values)
        for rows in points.values()
        if len(values := [row["perplexity"] for row in rows]) > 1
    ]
    return sqrt(fmean(x * x for x in relative)) if relative else 0.0


def gap(points: Points, ours: str, theirs: str) -> tuple[float, float, int] | None:
    """Return (gap, spread, seeds): percent of perplexity over the seeds that both have.

    With three seeds the spread is that of the paired differences; with one it is two standard
    errors of a difference, taken from the points that have three.
    """
    own, other = by_seed(points.get(ours, ())), by_seed(points.get(theirs, ()))
    gaps = [100 * (own[seed] / other[seed] - 1) for seed in own if seed in other]
    if not gaps:
        return None
    spread = stdev(gaps) if len(gaps) > 1 else 2 * sqrt(2) * noise(points)
    return fmean(gaps), max(LEAST, spread), len(gaps)


def by_seed(rows: Sequence[Row]) -> dict[int, float]:
    """Return perplexities by seed."""
    return {row["settings"].get("run.seed", 0): row["perplexity"] for row in rows}


def judge(claim: Claim, points: Points) -> Verdict:
    """Return (claim, here, verdict)."""
    found = gap(points, claim.ours, claim.theirs)
    words = f"{claim.words} ({claim.source})"
    if found is None:
        return words, PENDING, PENDING
    here, verdict = told(*found), beyond(found[0], found[1], claim.limit)
    claimed = {"up-bytes": claim.up, "down-bytes": claim.down}
    fewer = {key: times(points, claim, key) for key, least in claimed.items() if least}
    if fewer:
        here += f" at {' and '.join(f'{found:.1f}' for found in fewer.values())} times fewer bytes"
    if any(found < claimed[key] for key, found in fewer.items()):
        verdict = "does not hold"
    return words, here, verdict


def times(points: Points, claim: Claim, key: str) -> float:
    """Return how many times fewer bytes a claim's first point has."""
    return float(points[claim.theirs][0][key] / points[claim.ours][0][key])


def beyond(distance: float, spread: float, limit: float) -> str:
    """Return the verdict on "at most `limit`"."""
    if distance + spread <= limit:
        return "confirmed"
    return "does not hold" if distance - spread > limit else "cannot be told apart"


def told(distance: float, spread: float, seeds: int) -> str:
    """Return a gap in words."""
    return f"{distance:+.1f} % ± {spread:.1f} ({seeds} seed{'s' * (seeds > 1)})"
