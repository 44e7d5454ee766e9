"""The claims on federated pre-training, held against the rows by rules that the document states.

Every claim but one has one form: the perplexity of one point is at most so many percent above that
of another. A margin counts only beyond the spread of the difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from benchmarks.reproduce.claims import PENDING, Verdict

Row = dict[str, Any]
Points = Mapping[str, Sequence[Row]]
LEAST = 0.5  # percent; two runs nearer than this are never told apart
DENSE, HEADLINE = "diloco-k4-h16", "sparse-down-k4-h16"
UP, DOWN = 200, 8  # times fewer bytes than dense float32


@dataclass(frozen=True)
class Claim:
    """The perplexity of `ours` is at most `limit` percent above that of `theirs`.

    Attributes
    ----------
    words : as the document has it.
    source : who says so.
    """

    words: str
    source: str
    ours: str
    theirs: str
    limit: float = 0.0


CLAIMS = (
    Claim("Averaging is as good as data-parallel training, at equal tokens and steps (within 1 %)",
          "Photon", "photon-k4-h16", "centralized-steps", 1.0),
    Claim("At equal sequential steps, 4 clients end below 1 (H = 16)",
          "Photon", "photon-k4-h16", "photon-k1-h16-steps"),
    Claim("At equal sequential steps, 8 clients end below 4 (H = 16)",
          "Photon", "photon-k8-h16-steps", "photon-k4-h16"),
    Claim("H = 16 ends below H = 256 (K = 4)", "Photon", "photon-k4-h16", "photon-k4-h256"),
    Claim("A device that keeps AdamW's state ends below one that starts it anew (H = 16)",
          "ours", "photon-k4-h16", "photon-reset-k4-h16"),
    Claim("One source for each client costs at most 1 % (Photon)",
          "Photon", "photon-sources", "photon-k4-h16", 1.0),
    Claim("One source for each client costs at most 1 % (DiLoCo)",
          "DiLoCo", "diloco-sources", "diloco-k4-h16", 1.0),
    Claim("4 of 8 clients a round cost at most 1 %, at equal tokens",
          "Photon", "photon-4-of-8", "photon-k8-h16", 1.0),
    Claim("2 of 8 clients a round cost at most 1 %, at equal tokens",
          "Photon", "photon-2-of-8", "photon-k8-h16", 1.0),
    Claim("Half of the replies dropped costs at most 2.1 %, at equal rounds",
          "DiLoCo", "diloco-half-dropped", "diloco-k8-h16", 2.1),
    Claim("DiLoCo with a tuned outer rate ends below Photon's averaging",
          "DiLoCo", "diloco-k4-h16", "photon-k4-h16"),
    Claim("One client with outer Nesterov is no worse than plain training",
          "DiLoCo", "diloco-k1-h16", "photon-k1-h16"),
    Claim("sparse-diloco at 1/64 with q2 ends below dense DiLoCo",
          "SparseLoCo", "sparse-k4-h16", "diloco-k4-h16"),
    Claim("The residual helps", "SparseLoCo", "sparse-k4-h16", "sparse-no-residual"),
    Claim("q2 is as good as q4 at 1/64 (within 1 %)",
          "SparseLoCo", "sparse-k4-h16", "sparse-u64-q4", 1.0),
    Claim("The mean over senders ends below the mean over the cohort",
          "SparseLoCo", "sparse-k4-h16", "sparse-cohort"),
)  # fmt: skip


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
    return words, told(*found), beyond(found[0], found[1], claim.limit)


def beyond(distance: float, spread: float, limit: float) -> str:
    """Return the verdict on "at most `limit`"."""
    if distance + spread <= limit:
        return "confirmed"
    return "does not hold" if distance - spread > limit else "cannot be told apart"


def told(distance: float, spread: float, seeds: int) -> str:
    """Return a gap in words."""
    return f"{distance:+.1f} % ± {spread:.1f} ({seeds} seed{'s' * (seeds > 1)})"


def headline(points: Points) -> Verdict:
    """Judge "DiLoCo's perplexity within 1 % with 200 times fewer bytes up and 8 down"."""
    words = f"DiLoCo's perplexity within 1 % at {UP} times fewer bytes up, {DOWN} down (our goal)"
    found = gap(points, HEADLINE, DENSE)
    if found is None:
        return words, PENDING, PENDING
    ours, dense = points[HEADLINE][0], points[DENSE][0]
    up, down = (dense[key] / ours[key] for key in ("up-bytes", "down-bytes"))
    verdict = beyond(found[0], found[1], 1.0)
    if up < UP or down < DOWN:
        verdict = "does not hold"
    return words, f"{told(*found)} at {up:.0f} and {down:.0f} times", verdict


def by_size(points: Points) -> Verdict:
    """Judge "the gap of H = 256 to H = 16 is smaller for the larger model"."""
    words = "Larger models need less frequent communication: the gap of H = 256 to H = 16 (Photon)"
    names = ("photon-k4", "photon-small-k4")
    found = [gap(points, f"{name}-h256", f"{name}-h16") for name in names]
    small, large = found
    if small is None or large is None:
        return words, PENDING, PENDING
    spread = sqrt(small[1] ** 2 + large[1] ** 2)
    here = f"{large[0]:+.1f} % of 8M against {small[0]:+.1f} % of 2M (1 seed)"
    return words, here, beyond(large[0] - small[0], spread, 0.0)


def verdicts(points: Points) -> list[Verdict]:
    """Return the verdict on every claim, in the order of the document."""
    return [headline(points), *(judge(claim, points) for claim in CLAIMS), by_size(points)]
