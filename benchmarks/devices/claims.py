"""What is said of settings for devices, held against the rows by rules that docs/guide.md states.

A claim is about the best value of one knob, the others chosen best, on one side and on another. It
counts only where the other side's value would be worse by more than chance.
"""

from collections.abc import Callable, Sequence
from math import exp, sqrt
from statistics import fmean, stdev

from benchmarks.devices.cells import BATCHES, BEST_LR, BETA2, CENTRE, half_life
from benchmarks.reproduce.claims import PENDING, Verdict
from fedllm_app.study.grouped import grouped, spread
from fedllm_app.study.observed import Row, observed

UNKNOWN = "not known"
MARGIN = 5.0  # percent of perplexity that an uneven fleet may end above an even one
STUDENT_2 = 4.303  # 97.5th percentile of Student's t with two degrees of freedom
CENTRED = (int(CENTRE["B"]), BEST_LR)
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
    words: str, rows: Sequence[Row], chance: float, ours: Select, theirs: Select, key: str,
    larger: bool,
) -> Verdict:  # fmt: skip
    """Judge "the best value of `key` is larger (or smaller) on our side than on theirs".

    Parameters
    ----------
    chance : of `noise`.
    """
    a, b = lowest(rows, ours), lowest(rows, theirs)
    if a is None or b is None:
        return words, PENDING, PENDING
    va, vb = a["settings"][key], b["settings"][key]
    if va == vb and (end := _end(va, key, rows, ours) or _end(vb, key, rows, theirs)):
        return words, f"the best is {va:g} on both sides, the {end} that was tried", UNKNOWN
    if va == vb:
        return words, f"the best is {va:g} on both sides", "does not hold"
    worse = []
    for best, side, value in ((a, ours, vb), (b, theirs, va)):
        other = lowest(rows, _both(side, lambda row, v=value: row["settings"][key] == v))
        if other is None:
            return words, f"{va:g} against {vb:g}, which was not played on both sides", UNKNOWN
        worse.append(100 * (exp(other["loss"] - best["loss"]) - 1))
    here = (
        f"{va:g} against {vb:g}; the other's value is {worse[0]:.1f} % worse here and "
        f"{worse[1]:.1f} % there (chance {chance:.1f})"
    )
    if min(worse) <= chance:
        return words, here, "cannot be told apart"
    return words, here, "confirmed" if (va > vb) == larger else "contradicted"


def _end(value: float, key: str, rows: Sequence[Row], side: Select) -> str:
    """Return which end of what was tried on a side a value is, "" for neither."""
    tried = {row["settings"][key] for row in rows if row["seed"] == 0 and side(row)}
    return "lowest" if value == min(tried) else "highest" if value == max(tried) else ""


def better(words: str, rows: Sequence[Row], chance: float, ours: Select, theirs: Select) -> Verdict:
    """Judge "our side ends with the lower perplexity".

    Each has the best of the batches and rates that both were played with.
    """
    both = _pairs(rows, ours) & _pairs(rows, theirs)
    a, b = (lowest(rows, _both(side, lambda r: _pair(r) in both)) for side in (ours, theirs))
    if a is None or b is None:
        return words, PENDING, PENDING
    gap = 100 * (exp(a["loss"] - b["loss"]) - 1)
    here = f"{_named(a, both)} against {_named(b, both)}: {gap:+.1f} % (chance {chance:.1f})"
    if abs(gap) <= chance:
        return words, here, "cannot be told apart"
    return words, here, "confirmed" if gap < 0 else "contradicted"


def _pair(row: Row) -> tuple[int, float]:
    return row["settings"][BATCH], row["settings"][LR]


def _pairs(rows: Sequence[Row], side: Select) -> set[tuple[int, float]]:
    return {_pair(row) for row in rows if row["seed"] == 0 and side(row)}


def _named(row: Row, among: set[tuple[int, float]]) -> str:
    """Return a perplexity with its batch and rate, and whether no rate beyond was tried."""
    batch, lr = _pair(row)
    rates = {rate for _, rate in among}
    end = {min(rates): ", the lowest tried", max(rates): ", the highest tried"}.get(lr, "")
    return f"{row['perplexity']:.1f} (batch {batch}, rate {lr:g}{end})"


def balanced(row: Row) -> bool:
    """Say whether the fast took steps from the slow."""
    return bool(row["settings"].get("devices.balance"))


def robust(rows: Sequence[Row]) -> Verdict:
    """Judge "no worse where devices differ and steps follow them, at equal tokens".

    The interval is Student's of the mean of paired differences, 95 %.
    """
    words = f"An uneven fleet with balanced steps ends at most {MARGIN:g} % above an even one"
    even = {r["seed"]: r["loss"] for r in rows if at()(r) and fixed(r) and _pair(r) == CENTRED}
    uneven = {r["seed"]: r["loss"] for r in rows if balanced(r) and _pair(r) == CENTRED}
    gaps = [100 * (exp(uneven[seed] - even[seed]) - 1) for seed in uneven if seed in even]
    if len(gaps) < 3:
        return words, PENDING, PENDING
    gap = fmean(gaps)
    reach = STUDENT_2 * stdev(gaps[:3]) / sqrt(3)
    here = f"{gap:+.1f} ± {reach:.1f} % (95 % of {len(gaps)} paired seeds)"
    if gap + reach <= MARGIN:
        return words, here, "confirmed"
    return words, here, "contradicted" if gap - reach > MARGIN else "cannot be told apart"


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Return the verdict on every claim, in the order of the document."""
    found, known = [], (rows, noise(rows))
    for rule, name in ((fixed, "beta2 fixed"), (half, "its half-life in tokens fixed")):
        ours = _both(at(), rule)
        theirs = _both(central, rule)
        for B in BATCHES:
            if B == CENTRE["B"] and rule is half:  # the same runs
                continue
            told = f"A larger learning rate than centralized at batch {B} ({name})"
            sides = (_both(side, lambda row, B=B: row["settings"][BATCH] == B)
                     for side in (ours, theirs))  # fmt: skip
            found.append(moved(told, *known, *sides, LR, True))
        told = f"A smaller batch than centralized ({name})"
        found.append(moved(told, *known, ours, theirs, BATCH, False))
    few, many = _both(at(n=2), fixed), _both(at(n=32), fixed)
    found += [
        moved("The best rate grows with the clients of a round (32 against 2)",
              *known, many, few, LR, True),
        moved("The best local batch falls with the clients of a round (32 against 2)",
              *known, many, few, BATCH, False),
        better("At equal tokens, few clients of a round end lower (2 against 32)",
               *known, few, many),
        better("At equal tokens, more rounds end lower (H = 4 against 64)",
               *known, _both(at(H=4), fixed), _both(at(H=64), fixed)),
        better("A schedule that falls ends lower than a constant rate",
               *known, _both(at(), fixed), option("client.schedule", "constant")),
        better("A kept optimizer state ends lower, where all clients take part",
               *known, lambda r: all_take_part(r) and r["settings"]["client.keep-optimizer"],
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
