"""Rewrite the tables of docs/reproducing-floss.md and of the README; the prose is by hand.

A table stands between `<!-- NAME -->` and `<!-- end -->`.
"""

from collections.abc import Iterable, Sequence
from statistics import mean, stdev

from benchmarks.markers import fill, printed
from benchmarks.record import ROOT
from benchmarks.reproduce.cells import COMPARED, DENSITIES, OTHERS, RANKS, TASKS, Entry, Rates
from benchmarks.reproduce.claims import PENDING, verdicts
from benchmarks.reproduce.figures import FOLDER, TITLES, densities, group_of, option_of
from benchmarks.reproduce.results import UP_MBPS, Row, scores

Table = list[list[str]]


DOCUMENT, README = ROOT / "docs" / "reproducing-floss.md", ROOT / "README.md"


def write_documents(rows: dict[str, list[Row]], entries: Sequence[Entry], rates: Rates) -> None:
    """Write every table into its place."""
    tables = {
        "claims": [["claim of the thesis", "here", "verdict"], *map(list, verdicts(rows))],
        "rates": rate_table(rows["tuning"], rates),
        "5.1": method_table(rows["5.1"]),
        "5.2": method_table(rows["5.2"]),
        "5.3": grid_table(rows["5.3"]),
        "5.4": link_table(rows["5.4"]),
        "options": option_table(rows["options"]),
    }
    texts = {name: printed(table) + picture(name) for name, table in tables.items()}
    texts["missing"] = missing(rows, entries)
    fill(DOCUMENT, texts)
    fill(README, {"methods": printed(readme_table(rows))})


def picture(figure: str) -> str:
    """Return the line that shows a figure, if there is one."""
    name = f"{figure.replace('.', '-')}.png"
    shown = (FOLDER / name).exists()
    return f"\n\n![Figure {figure}](figures/{name})" if shown else ""


def rate_table(rows: list[Row], rates: Rates) -> Table:
    """Return the chosen rates of each method and how many trials are played."""
    table = [["method", "trials played", "client lr", "server lr", "best on validation"]]
    for method in COMPARED + OTHERS:
        own = [row["score"] for row in rows if row["method"] == method]
        found = rates.get(method)
        chosen = (
            [f"{found[key]:g}" for key in ("client.lr", "server.lr")] if found else [PENDING] * 2
        )
        table.append([method, f"{len(own)} of 6", *chosen, f"{max(own):.3f}" if found else PENDING])
    return table


def method_table(rows: list[Row]) -> Table:
    """Return the table of figure 5.1 or 5.2: score, spread, seeds and communication by task."""
    table = [["method", *(f"{TITLES[task]}: {TASKS[task].metric()}" for task in TASKS),
              *(f"{TITLES[task]}: communication" for task in TASKS)]]  # fmt: skip
    for method in COMPARED + OTHERS:
        values, costs = [], []
        for task in TASKS:
            own = [row for row in rows if (row["task"], row["method"]) == (task, method)]
            values.append(with_spread([row["score"] for row in own]))
            cost = [row["communication"] for row in own if "communication" in row]
            costs.append(f"{mean(cost):.3f}" if cost else PENDING)
        table.append([method, *values, *costs])
    return table


def readme_table(rows: dict[str, list[Row]]) -> Table:
    """Return the methods on bench-S: accuracy of both partitions, bytes of the second."""
    table = [["method", "IID", "Dirichlet 0.1", "up, MB", "times less", "down, MB", "times less"]]
    bench = {f: [r for r in rows[f] if r["task"] == "20newsgroups"] for f in ("5.1", "5.2")}
    dense = [row for row in bench["5.2"] if row["method"] == "dense"]
    for method in COMPARED + OTHERS:
        own = {f: [row for row in bench[f] if row["method"] == method] for f in bench}
        line = [with_spread(scores(rows[f], "20newsgroups", method)) for f in bench]
        for way in ("up-bytes", "down-bytes"):
            line += sent(own["5.2"], dense, way)
        table.append([method, *line])
    return table


def sent(own: list[Row], dense: list[Row], way: str) -> list[str]:
    """Return the mean megabytes of a method's runs one way, and how many times less than dense."""
    if not own or not dense:
        return [PENDING] * 2
    ours, theirs = (mean(row[way][str(row["rounds"])] for row in rows) for rows in (own, dense))
    return [f"{ours / 1e6:.1f}", f"{theirs / ours:.2f}"]


def with_spread(values: Sequence[float]) -> str:
    """Return a mean with its spread and the number of seeds."""
    if not values:
        return PENDING
    if len(values) == 1:
        return f"{values[0]:.3f} (1 seed)"
    return f"{mean(values):.3f} ± {stdev(values):.3f} ({len(values)} seeds)"


def grid_table(rows: list[Row]) -> Table:
    """Return the table of figure 5.3: accuracy and communication by density and rank."""
    table = [["density, both ways", *(f"rank {rank}" for rank in RANKS)]]
    for density in DENSITIES.values():
        line = [f"{density:.4g}"]
        for rank in RANKS:
            own = [
                row for row in rows
                if row["settings"]["lora.rank"] == rank
                and row["settings"].get("strategy.d-up", 1.0) == density
            ]  # fmt: skip
            line.append(cost_of(own[0]) if own else PENDING)
        table.append(line)
    return table


def cost_of(row: Row) -> str:
    """Return a run's score with its communication, where dense is measured too."""
    cost = f" at {row['communication']:.3f}" if "communication" in row else ""
    return f"{row['score']:.3f}{cost}"


def link_table(rows: list[Row]) -> Table:
    """Return the table of figure 5.4: what each run reaches within the budget, and how soon."""
    table = [["run", *(f"{mbps:g} Mbps up" for mbps in UP_MBPS.values())]]
    for row in rows:
        words = []
        for name in UP_MBPS:
            reached = row.get("budget", {}).get(name)
            if not reached:
                words.append(PENDING)
                continue
            short = "" if reached["used-up"] else ", budget not used up"
            soon = reached["seconds-to-dense"]
            if row["method"] == "dense":
                good = f"after {reached['seconds']:.2g} s"
            else:
                good = f"as good as dense after {soon:.2g} s" if soon else "never as good as dense"
            words.append(f"{reached['score']:.3f} (round {reached['evaluated']}{short}); {good}")
        table.append([densities(row), *words])
    return table if len(table) > 1 else [*table, [PENDING, *("" for _ in UP_MBPS)]]


def option_table(rows: list[Row]) -> Table:
    """Return what error feedback and the mean over senders change, by upload density."""
    options = ("as it is", "error feedback", "senders")
    table = [["clients", "density up", *options, "feedback changes", "senders changes"]]
    for clients, name in ((350, "4"), (350, "16"), (350, "64"), (20, "16"), (20, "64")):
        score = {
            option_of(row): row["score"]
            for row in rows
            if group_of(row) == (clients, DENSITIES[name])
        }
        values = [f"{score[o]:.3f}" if o in score else PENDING for o in options]
        changes = [
            f"{100 * (score[o] - score['as it is']):+.1f} points"
            if o in score and "as it is" in score else PENDING
            for o in options[1:]
        ]  # fmt: skip
        table.append([str(clients), f"1/{name}", *values, *changes])
    return table


def missing(rows: dict[str, list[Row]], entries: Iterable[Entry]) -> str:
    """Return the list of runs that are not yet measured, by figure."""
    lines = []
    for figure, measured in rows.items():
        have = {row["run"] for row in measured}
        own = [entry.name for entry in entries if entry.figure == figure]
        absent = [name for name in own if name not in have]
        words = ", ".join(f"`{name}`" for name in absent) or "none"
        lines.append(
            f"- {figure}: {len(own) - len(absent)} of {len(own)} measured; missing: {words}"
        )
    return "\n".join(lines)
