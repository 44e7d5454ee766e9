"""What is said of settings for devices, held against the rows by rules that docs/guide.md states.

A claim is about the best value of one knob, the others chosen best, on one side and on another. It
counts only where the other side's value would be worse by more than chance.
"""

from collections.abc import Callable, Sequence
from math import exp, sqrt
from statistics import fmean, stdev

from benchmarks.devices.cells import BETA2, CENTRE, half_life
from benchmarks.reproduce.claims import PENDING, Verdict
from fedllm_app.study.grouped import grouped, spread
from fedllm_app.study.observed import Row, observed

UNKNOWN = "not known"
LEAST = 0.5  # percent of perplexity; two runs nearer than this are never told apart
Select = Callable[[Row], bool]
LR, BATCH, CLIENTS, STEPS = "client.lr", "client.batch", "round.clients", "client.steps"


def noise(rows: Sequence[Row]) -> float:
    """Return the percent of perplexity by which two runs have to differ to be told apart."""
    sigma = spread(grouped(map(observed, rows)))
    return max(LEAST, 200 * sqrt(2) * (sigma or 0.0))


def lowest(rows: Sequence[Row], select: Select) -> Row | None:
    """Return the run of the lowest loss among those of seed 0 that are selected."""
    found = [row for row in rows if row["seed"] == 0 and select(row)]
    return min(found, key=lambda row: float(row["loss"]), default=None)


def plain(row: Row) -> bool:
    """Say whether a row is federated, and plain but for batch, clients, steps, rate and beta2."""
    s = row["settings"]
    return (
        row["population"] > 8
        and not balanced(row)
        and s["strategy.name"] == "photon"
        and s["client.schedule"] == "cosine"
        and not s["client.keep-optimizer"]
    )


def fixed(row: Row) -> bool:
    """Say whether beta2 is the same as at every batch."""
    return bool(row["settings"]["client.beta2"] == BETA2)


def half(row: Row) -> bool:
    """Say whether beta2 has the half-life in tokens that the centre has."""
    s = row["settings"]
    return bool(abs(s["client.beta2"] - half_life(s[BATCH])) < 1e-9)


def at(**fixed_: float) -> Select:
    """Return what selects rows by values of batch, n and H; those not given are the centre's."""
    keys = {"n": CLIENTS, "H": STEPS}
    want = {keys[k]: fixed_.get(k, CENTRE[k]) for k in keys}
    return lambda row: plain(row) and all(row["settings"][k] == v for k, v in want.items())


def central(row: Row) -> bool:
    """Say whether a row is centralized."""
    return bool(row["population"] == 1)


def moved(
    words: str, rows: Sequence[Row], ours: Select, theirs: Select, key: str, larger: bool
) -> Verdict:
    """Judge "the best value of `key` is larger (or smaller) on our side than on theirs"."""
    a, b = lowest(rows, ours), lowest(rows, theirs)
    if a is None or b is None:
        return words, PENDING, PENDING
    va, vb = a["settings"][key], b["settings"][key]
    if va == vb and (end := _end(va, key, rows, ours) or _end(vb, key, rows, theirs)):
        return words, f"the best is {va:g} on both sides, the {end} that was tried", UNKNOWN
    if va == vb:
        return words, f"the best is {va:g} on both sides", "does not hold"
    other = lowest(rows, lambda row: ours(row) and row["settings"][key] == vb)
    if other is None:
        return words, f"{va:g} against {vb:g}, which was not played here", "cannot be told apart"
    worse, chance = 100 * (exp(other["loss"] - a["loss"]) - 1), noise(rows)
    here = f"{va:g} against {vb:g}, which would be {worse:.1f} % worse (chance {chance:.1f})"
    if worse <= chance:
        return words, here, "cannot be told apart"
    return words, here, "confirmed" if (va > vb) == larger else "contradicted"


def _end(value: float, key: str, rows: Sequence[Row], side: Select) -> str:
    """Return which end of what was tried on a side a value is, "" for neither."""
    tried = {row["settings"][key] for row in rows if row["seed"] == 0 and side(row)}
    return "lowest" if value == min(tried) else "highest" if value == max(tried) else ""


def better(words: str, rows: Sequence[Row], ours: Select, theirs: Select) -> Verdict:
    """Judge "our side ends with the lower perplexity, each with its best rate"."""
    a, b = lowest(rows, ours), lowest(rows, theirs)
    if a is None or b is None:
        return words, PENDING, PENDING
    gap, chance = 100 * (exp(a["loss"] - b["loss"]) - 1), noise(rows)
    lower, higher = f"{a['perplexity']:.1f}", f"{b['perplexity']:.1f}"
    here = f"{lower} against {higher}: {gap:+.1f} % (chance {chance:.1f})"
    if abs(gap) <= chance:
        return words, here, "cannot be told apart"
    return words, here, "confirmed" if gap < 0 else "contradicted"


def balanced(row: Row) -> bool:
    """Say whether the fast took steps from the slow."""
    return bool(row["settings"].get("devices.balance"))


def robust(rows: Sequence[Row], margin: float = 1.0) -> Verdict:
    """Judge "the same quality where devices differ and steps follow them, at equal tokens"."""
    words = f"An uneven fleet with balanced steps ends within {margin:g} % of an even one"
    centre = option("devices.balance", None)
    even = {r["seed"]: r["loss"] for r in rows if plain(r) and centre(r) and _at_centre(r)}
    uneven = {r["seed"]: r["loss"] for r in rows if balanced(r)}
    gaps = [100 * (exp(uneven[seed] - even[seed]) - 1) for seed in uneven if seed in even]
    if len(gaps) < 2:
        return words, PENDING, PENDING
    gap, spread_ = fmean(gaps), max(LEAST, stdev(gaps))
    here = f"{gap:+.1f} ± {spread_:.1f} % ({len(gaps)} seeds)"
    if abs(gap) + spread_ <= margin:
        return words, here, "confirmed"
    return words, here, "contradicted" if abs(gap) - spread_ > margin else "cannot be told apart"


def _at_centre(row: Row) -> bool:
    return bool(row["settings"][LR] == CENTRE["lr"] and fixed(row))


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Return the verdict on every claim, in the order of the document."""
    found = []
    for rule, name in ((fixed, "beta2 fixed"), (half, "its half-life in tokens fixed")):
        ours = _both(at(), rule)
        theirs = _both(central, rule)
        for key, larger, words in (
            (LR, True, "A larger learning rate than centralized"),
            (BATCH, False, "A smaller batch than centralized"),
        ):
            found.append(moved(f"{words} ({name})", rows, ours, theirs, key, larger))
    few, many = _both(at(n=2), fixed), _both(at(n=32), fixed)
    found += [
        moved("The best rate grows with the clients of a round (32 against 2)",
              rows, many, few, LR, True),
        moved("The best local batch falls with the clients of a round (32 against 2)",
              rows, many, few, BATCH, False),
        better("At equal tokens, few clients of a round end lower (2 against 32)", rows, few, many),
        better("At equal tokens, more rounds end lower (H = 4 against 64)",
               rows, _both(at(H=4), fixed), _both(at(H=64), fixed)),
        better("A schedule that falls ends lower than a constant rate",
               rows, _both(at(), fixed), option("client.schedule", "constant")),
        better("A kept optimizer state ends lower, where all clients take part",
               rows, lambda r: all_take_part(r) and r["settings"]["client.keep-optimizer"],
               lambda r: all_take_part(r) and not r["settings"]["client.keep-optimizer"]),
        robust(rows),
    ]  # fmt: skip
    return found


def option(key: str, value: object) -> Select:
    """Return what selects the centre with another value of one key."""
    return lambda row: (
        row["population"] > 8
        and not balanced(row)
        and row["settings"].get(key) == value
        and row["settings"][BATCH] == CENTRE["B"]
        and row["settings"][CLIENTS] == CENTRE["n"]
        and row["settings"][STEPS] == CENTRE["H"]
    )


def all_take_part(row: Row) -> bool:
    """Say whether every client takes part in every round."""
    return bool(1 < row["population"] == row["clients"])


def _both(first: Select, second: Select) -> Select:
    return lambda row: first(row) and second(row)
