"""docs/guide.md, from the rows that there are: claims, tables, advice, and the held-out check."""

from collections.abc import Iterable, Sequence
from itertools import product

from benchmarks.devices.cells import (
    BATCHES,
    BEST_LR,
    CENTRAL_BATCHES,
    CLIENTS,
    FLEETS,
    HELD_FLEET,
    LOCAL_STEPS,
    LOW,
    LRS,
    SHARES,
)
from benchmarks.devices.claims import (
    Select,
    all_take_part,
    at,
    balanced,
    central,
    fixed,
    half,
    lowest,
    noise,
    option,
    verdicts,
)
from benchmarks.devices.results import advices, federated_of
from benchmarks.markers import fill, printed
from benchmarks.record import ROOT
from fedllm_app.core.units import format_bytes, format_flops, format_joules, format_seconds
from fedllm_app.study.guide import WITHIN, Advice, advise, choices
from fedllm_app.study.guide_words import SHOWN, amount, draw_front, neighbours, sentences, taken
from fedllm_app.study.observed import Observed, Row
from fedllm_app.study.on_fleet import GOALS, OnFleet

DOCUMENT = ROOT / "docs" / "guide.md"
FIGURES = ROOT / "docs" / "figures"


def write(rows: Sequence[Row], held: Sequence[Row]) -> None:
    """Write what there is into the document, and draw the fronts."""
    runs = federated_of(rows)
    if not runs:
        return
    chance = f"Two runs of one seed each are told apart beyond {noise(rows):.1f} % of perplexity."
    texts = {
        "guide-claims": printed([["claim", "here", "verdict"], *(list(v) for v in verdicts(rows))])
        + f"\n\n{chance} {len(rows)} runs are in.",
        "guide-batches": batches(rows),
        "guide-clients": clients(rows),
        "guide-steps": steps(rows),
        "guide-options": options(rows),
        "guide-uneven": uneven(rows),
        "guide-held-out": held_out(rows, held),
    }
    for name, fleet in FLEETS.items():
        on = OnFleet(fleet)
        found = [advise(runs, on, goal) for goal in GOALS]
        texts[f"guide-advice-{name}"] = "\n\n".join(advice_of(a, fleet) for a in alike(found))
        chosen = [a.choice for a in found]
        draw_front(choices(runs, on), chosen, list(GOALS), FIGURES / f"guide-{name}.png", fleet)
    fill(DOCUMENT, texts)


def alike(found: Iterable[Advice]) -> list[list[Advice]]:
    """Return advice in groups that take the same setting and stop at the same round."""
    groups: dict[tuple[str, int], list[Advice]] = {}
    for one in found:
        groups.setdefault((one.choice.setting.words, one.choice.round), []).append(one)
    return [*groups.values()]


def advice_of(group: Sequence[Advice], fleet: str) -> str:
    """Return the advice of some goals, which is the same for all of them, in Markdown."""
    first = group[0]
    _, take, seen, *_ = sentences(first, fleet)
    lines = [take, seen]
    if rivals := {taken(c): c for one in group for c in one.rivals}:
        told = [f"{words} (perplexity {c.perplexity:.1f})" for words, c in rivals.items()]
        lines.append(f"Cannot be told apart from it: {'; '.join(told[:SHOWN])}.")
    lines += [f"Not known: {doubt}." for doubt in first.doubts]
    said = "\n".join(f"- {words}" for words in lines)
    tables = [neighbours(one) for one in group]
    rows = [[*row, *(table[at][-1] for table in tables[1:])] for at, row in enumerate(tables[0])]
    near_ = f"\n\n{printed(rows)}" if len(rows) > 1 else ""
    goals = ", ".join(one.goal for one in group)
    return f"**For the least {goals}.**\n\n{said}{near_}"


def _perplexity(row: Row | None) -> str:
    return "" if row is None else f"{row['perplexity']:.1f}"


def batches(rows: Sequence[Row]) -> str:
    """Return batches against rates, federated and centralized, with both rules for beta2."""
    tables, rates = [], LOW + LRS
    for rule, name in ((fixed, "beta2 fixed"), (half, "its half-life in tokens fixed")):
        for side, select, sizes in (
            ("8 clients, local batch", at(), BATCHES),
            ("centralized, batch", central, CENTRAL_BATCHES),
        ):
            body = [
                [str(B), *(_perplexity(lowest(rows, _cell(select, rule, B, lr))) for lr in rates)]
                for B in sizes
            ]
            if any(any(cells[1:]) for cells in body):
                head = [f"{side}; {name}", *(f"lr {lr:g}" for lr in rates)]
                tables.append(printed([head, *body]))
    return "\n\n".join(tables)


def _cell(select: Select, rule: Select, B: int, lr: float) -> Select:
    return lambda row: (
        select(row)
        and rule(row)
        and (row["settings"]["client.batch"], row["settings"]["client.lr"]) == (B, lr)
    )


def clients(rows: Sequence[Row]) -> str:
    """Return clients of a round against batch and rate."""
    rates = LOW[1:] + LRS
    head = ["clients of a round", "local batch", *(f"lr {lr:g}" for lr in rates)]
    body = []
    for n in CLIENTS:
        for B in (1, 4):
            found = [lowest(rows, _cell(at(n=n), fixed, B, lr)) for lr in rates]
            body.append([str(n), str(B), *map(_perplexity, found)])
    return printed([head, *body])


def steps(rows: Sequence[Row]) -> str:
    """Return rounds against local steps, with what they cost on both fleets."""
    head = ["clients of a round", "local steps", "local batch", "rounds", "best lr"]
    body = []
    for n, H, B in product((1, *CLIENTS[:2]), LOCAL_STEPS, BATCHES):
        if row := lowest(rows, _at(n, H, B)):
            lr = f"{row['settings']['client.lr']:g}"
            cells = [str(n), str(H), str(B), str(row["rounds"]), lr, _perplexity(row)]
            body.append([*cells, *_costs(row)])
    return printed([[*head, "perplexity", *_cost_heads()], *body])


def _at(n: int, H: int, B: int) -> Select:
    select = at(n=n, H=H)
    return lambda row: select(row) and fixed(row) and row["settings"]["client.batch"] == B


def _cost_heads() -> list[str]:
    return ["compute", "both ways", *(f"{name}: {what}" for name in FLEETS for what in
                                      ("time", "energy"))]  # fmt: skip


def _costs(row: Row) -> list[str]:
    cells = [format_flops(row["flops"]), format_bytes(row["up-bytes"] + row["down-bytes"])]
    for name in FLEETS:
        own = row["fleets"][name]
        cells += [format_seconds(own["seconds"]), format_joules(own["joules"])]
    return cells


def options(rows: Sequence[Row]) -> str:
    """Return schedules, the optimizer's state and shares, each with its best rate."""
    kept = "client.keep-optimizer"
    chosen: dict[str, Select] = {
        "the centre: cosine, state made anew": lambda r: at()(r) and _of_centre(r),
        "constant rate": option("client.schedule", "constant"),
        "wsd": option("client.schedule", "wsd"),
        "8 of 64 clients, state kept": option(kept, True),
        "8 of 8 clients, state made anew": lambda r: all_take_part(r) and not r["settings"][kept],
        "8 of 8 clients, state kept": lambda r: all_take_part(r) and r["settings"][kept],
    }
    for share in SHARES:
        chosen[f"{share:g} of the variables"] = option("strategy.train-share", share)
        chosen[f"{share:g} of the heads"] = option("strategy.head-share", share)
    body = []
    for name, select in chosen.items():
        if row := lowest(rows, select):
            lr = f"{row['settings']['client.lr']:g}"
            body.append([name, lr, _perplexity(row), *_costs(row)])
    return printed([["", "best lr", "perplexity", *_cost_heads()], *body])


def uneven(rows: Sequence[Row]) -> str:
    """Return the centre with and without balanced steps on the mixed fleet, a row for each seed."""
    body = []
    for row in rows:
        plainly = at()(row) and fixed(row) and _of_centre(row)
        if balanced(row) or (plainly and row["settings"]["client.lr"] == BEST_LR):
            kind = "steps by device" if balanced(row) else "equal steps"
            costs = [format_seconds(row["simulated-s"]), format_joules(row["energy-j"])]
            body.append([kind, str(row["seed"]), _perplexity(row), *costs])
    return printed([["", "seed", "perplexity", "time", "energy"], *sorted(body)])


def _of_centre(row: Row) -> bool:
    return bool(row["settings"]["client.batch"] == 4)


def held_out(rows: Sequence[Row], held: Sequence[Row]) -> str:
    """Return, by goal, what the advice reaches there beside the best of the grid."""
    if not held:
        return "Not played yet."
    parameters = held[0]["parameters"]
    there, on = federated_of(held), OnFleet(HELD_FLEET)
    found = choices(there, on)
    body = []
    for goal, advice in advices(rows, parameters).items():
        best = advise(there, on, goal).choice
        own = _same(there, advice)
        if own is None:
            body.append([goal, advice.choice.setting.words, "not played yet", "", "", "", ""])
            continue
        share = advice.choice.round / advice.choice.of
        mine = min(
            (c for c in found if any(run is own for run in c.setting.runs)),
            key=lambda c: abs(c.round / c.of - share),
        )
        lowest_there = min(c.perplexity for c in found)
        worse = 100 * (mine.perplexity / lowest_there - 1)
        times = mine.costs[goal] / best.costs[goal]
        good = worse <= WITHIN and times <= 1 + WITHIN / 100
        body.append([
            goal, own.name, amount(goal, mine.costs[goal]), f"{worse:+.1f} %",
            best.setting.runs[0].name, amount(goal, best.costs[goal]), f"{times:.2f}x",
            "yes" if good else "no",
        ])  # fmt: skip
    head = ["goal", "advice", "its cost", "above the lowest perplexity", "cheapest of the grid",
            "its cost", "ratio", f"within {WITHIN:g} %"]  # fmt: skip
    return printed([head, *body])


def _same(there: Sequence[Observed], advice: Advice) -> Observed | None:
    """Return the run of the held-out model with the settings of an advice."""
    for run in there:
        knobs = advice.choice.setting.knobs.items()
        if all(v is None or run.settings.get(k, v) == v for k, v in knobs):
            return run
    return None
