"""The claims of Ro et al. 2022, and our goal, held against the rows by the document's rules."""

from math import exp

from benchmarks.reproduce.claims import PENDING, Verdict
from benchmarks.study_kit.claims import Claim, Points, judge
from benchmarks.study_kit.entry import Row

PAPER, OURS = "Ro et al. 2022", "ours"
LSTM, LITERATURE = "lstm-small-full", "lstm-tiny-full"
TENTH, GOAL = 9.0, 50.0  # times fewer bytes up than the full LSTM; "about a tenth" is 9 or more
NAMES = {"transformer": "Transformer", "conformer": "Conformer"}


def _of_the_paper(family: str, data: str = "", where: str = "") -> tuple[Claim, ...]:
    model = f"{data}{family}-small-combined"
    return (
        Claim(f"The combined {NAMES[family]} is not above the full LSTM, at a tenth of its upload"
              f"{where}", PAPER, model, data + LSTM, up=TENTH),
        Claim(f"The combined {NAMES[family]} is at least 11 % below the full LSTM a quarter as "
              f"large{where}", PAPER, model, data + LITERATURE, -11.0),
    )  # fmt: skip


def _goal(family: str, data: str = "", where: str = "") -> Claim:
    words = f"With the largest 1/4 of the trained part in q4, the {NAMES[family]} is not above the "
    return Claim(
        f"{words}full LSTM, at {GOAL:.0f} times fewer bytes up{where}",
        "our goal", f"{data}{family}-small-floss-4", data + LSTM, up=GOAL,
    )  # fmt: skip


def _techniques(family: str) -> tuple[Claim, ...]:
    model, name = f"{family}-small", NAMES.get(family, "LSTM")
    return (
        Claim(f"{name}: 40 % of the variables cost at most 1 %",
              PAPER, f"{model}-partial-40", f"{model}-full", 1.0),
        Claim(f"{name}: 8 bits up cost at most 1 %",
              PAPER, f"{model}-8-bit", f"{model}-full", 1.0),
        Claim(f"{name}: pre-training on other text ends below",
              PAPER, f"{model}-transfer", f"{model}-full"),
    )  # fmt: skip


CLAIMS = (
    *(claim for family in NAMES for claim in _of_the_paper(family)),
    *(_goal(family) for family in NAMES),
    *(Claim(f"The {NAMES[family]} of the same size, trained in full, is not above the LSTM",
            PAPER, f"{family}-small-full", LSTM) for family in NAMES),
    *(Claim(f"The combined {NAMES[family]} is not above an LSTM with the same pre-training, "
            "trained in full", OURS, f"{family}-small-combined", "lstm-small-transfer", up=TENTH)
      for family in NAMES),
    *(Claim(f"Without pre-training (40 %, 8 bits), the {NAMES[family]} is not above the full LSTM",
            OURS, f"{family}-small-lean", LSTM, up=TENTH) for family in NAMES),
    *(claim for family in ("lstm", *NAMES) for claim in _techniques(family)),
    *(claim for family in NAMES for claim in _of_the_paper(family, "articles-", ", on articles")),
    *(_goal(family, "articles-", ", on articles") for family in NAMES),
)  # fmt: skip


def reached(row: Row, perplexity: float) -> int | None:
    """Return the first evaluated round with at most this perplexity, None if there is none."""
    rounds = sorted((int(number), loss) for number, loss in row["curve"].items())
    return next((number for number, loss in rounds if exp(loss) <= perplexity), None)


def sooner(points: Points, family: str) -> tuple[int, int | None, float] | None:
    """Return rounds of full training, the rounds with transfer to its last perplexity, and that.

    The rounds of full training are those until it is first as low as at its end.
    """
    full, transfer = (points.get(f"{family}-small-{way}") for way in ("full", "transfer"))
    if not full or not transfer:
        return None
    target = float(full[0]["perplexity"])
    # A curve's perplexity is that of its loss, which a rounding may set apart.
    without = reached(full[0], target * (1 + 1e-9))
    return without or 0, reached(transfer[0], target), target


def by_rounds(points: Points, family: str) -> Verdict:
    """Judge "pre-training reaches what full training ends at in fewer rounds"."""
    name = NAMES.get(family, "LSTM")
    words = f"{name}: with pre-training, full training's perplexity is reached sooner ({PAPER})"
    found = sooner(points, family)
    if found is None:
        return words, PENDING, PENDING
    without, with_it, target = found
    if with_it is None:
        return words, f"{target:.1f} was not reached in {without} rounds", "does not hold"
    here = f"{target:.1f} after {with_it} rounds instead of {without} (1 seed)"
    return words, here, "confirmed" if with_it < without else "does not hold"


def verdicts(points: Points) -> list[Verdict]:
    """Return the verdict on every claim, in the order of the document."""
    judged = [judge(claim, points) for claim in CLAIMS]
    return [*judged, *(by_rounds(points, family) for family in ("lstm", *NAMES))]
