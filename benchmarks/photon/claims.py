"""The claims on federated pre-training, held against the rows by rules that the document states."""

from math import sqrt

from benchmarks.reproduce.claims import PENDING, Verdict
from benchmarks.study_kit.claims import Claim, Points, beyond, gap, judge

DENSE, HEADLINE = "diloco-k4-h16", "sparse-down-k4-h16"
UP, DOWN = 200, 8  # times fewer bytes than dense float32

CLAIMS = (
    Claim(f"DiLoCo's perplexity within 1 % at {UP} times fewer bytes up, {DOWN} down",
          "our goal", HEADLINE, DENSE, 1.0, UP, DOWN),
    Claim("Averaging is as good as data-parallel training, at equal tokens and steps (within 1 %)",
          "Photon", "photon-k4-h16", "centralized-steps", 1.0),
    Claim("At equal sequential steps, 4 clients end below 1 (H = 16)",
          "Photon", "photon-k4-h16", "photon-k1-h16-steps"),
    Claim("At equal sequential steps, 8 clients end below 4 (H = 16)",
          "Photon", "photon-k8-h16-steps", "photon-k4-h16"),
    Claim("H = 16 ends below H = 256 (K = 4)", "Photon", "photon-k4-h16", "photon-k4-h256"),
    Claim("A device that keeps AdamW's state ends below one that starts it anew (H = 16)",
          "ours", "photon-k4-h16", "photon-reset-k4-h16"),
    Claim("One source for each client costs Photon at most 1 %",
          "Photon", "photon-sources", "photon-k4-h16", 1.0),
    Claim("One source for each client costs DiLoCo at most 1 %",
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
    Claim("sparse-diloco at 1/32 with q2 ends below dense DiLoCo",
          "SparseLoCo", "sparse-u32-q2", "diloco-k4-h16"),
    Claim("The residual helps", "SparseLoCo", "sparse-k4-h16", "sparse-no-residual"),
    Claim("q2 is as good as q4 at 1/64 (within 1 %)",
          "SparseLoCo", "sparse-k4-h16", "sparse-u64-q4", 1.0),
    Claim("The mean over senders ends below the mean over the cohort",
          "SparseLoCo", "sparse-k4-h16", "sparse-cohort"),
)  # fmt: skip


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
    return [*(judge(claim, points) for claim in CLAIMS), by_size(points)]
