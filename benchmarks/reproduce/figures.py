"""Draw figures 5.1 to 5.4 and the options from the rows; what is not measured stays empty."""

from statistics import mean, stdev
from typing import Any

from benchmarks.record import ROOT
from benchmarks.reproduce.cells import COMPARED, OTHERS, RANKS, TASKS
from benchmarks.reproduce.results import UP_MBPS, Row, scores

FOLDER = ROOT / "docs" / "figures"
COLOURS = {
    "dense": "0.35", "floss": "tab:blue", "rank-4": "tab:orange", "sparse-adapter": "tab:green",
    "adapter-lth": "tab:red", "fed-select": "tab:purple", "ffa-lora": "tab:brown",
    "hetlora": "tab:pink", "floss-tiers": "tab:cyan",
}  # fmt: skip
TITLES = {"20newsgroups": "20 Newsgroups", "cifar10": "CIFAR-10", "shakespeare": "Shakespeare"}


def draw(rows: dict[str, list[Row]]) -> None:
    """Write the figures that have at least one row."""
    import matplotlib

    matplotlib.use("Agg")
    for figure in ("5.1", "5.2"):
        if rows[figure]:
            save(draw_methods(rows[figure], figure), figure)
    if rows["5.2"]:
        save(draw_uploads(rows), "upload")
    for figure, drawn in (("5.3", draw_grid), ("5.4", draw_links), ("options", draw_options)):
        if rows[figure]:
            save(drawn(rows[figure]), figure)


def save(drawing: Any, figure: str) -> None:
    """Write one figure and forget it."""
    import matplotlib.pyplot as plt

    FOLDER.mkdir(parents=True, exist_ok=True)
    drawing.tight_layout()
    drawing.savefig(FOLDER / f"{figure.replace('.', '-')}.png", dpi=100)
    plt.close(drawing)


def panels(number: int, rows: int = 1, **shared: Any) -> tuple[Any, list[Any]]:
    """Return a figure with rows of so many panels, and the panels row by row."""
    import matplotlib.pyplot as plt

    size = (4.4 * number, 4.0 * rows)
    drawing, axes = plt.subplots(rows, number, figsize=size, squeeze=False, **shared)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return drawing, list(axes.flat)


def draw_methods(rows: list[Row], figure: str) -> Any:
    """Draw the methods of figure 5.1 or 5.2, a panel per task; bars are means over seeds."""
    drawing, axes = panels(len(TASKS))
    for axis, task in zip(axes, TASKS, strict=True):
        methods = [m for m in COMPARED + OTHERS if scores(rows, task, m)]
        for at, method in enumerate(methods):
            values = scores(rows, task, method)
            spread = stdev(values) if len(values) > 1 else None
            axis.bar(at, mean(values), yerr=spread, color=COLOURS[method], capsize=4, alpha=0.8)
            axis.plot([at] * len(values), values, "k.", markersize=4)
        if "dense" in methods:
            axis.axhline(mean(scores(rows, task, "dense")), color="0.35", lw=0.8, ls="--")
        axis.set_xticks(range(len(methods)), methods, rotation=50, ha="right", fontsize=8)
        partition = "IID" if figure == "5.1" else TASKS[task].unlike
        axis.set(title=f"{TITLES[task]}, {partition}", ylabel=TASKS[task].metric())
        if not methods:
            axis.text(0.5, 0.5, "not yet measured", ha="center", transform=axis.transAxes)
    return drawing


def draw_uploads(rows: dict[str, list[Row]]) -> Any:
    """Draw accuracy on bench-S (Dirichlet, seed 0) against rounds and against measured upload."""
    drawing, axes = panels(2, sharey=True)
    bench = [r for r in rows["5.2"] if (r["task"], r["seed"]) == ("20newsgroups", 0)]
    sparser = [r for r in rows["options"] if option_of(r) == "as it is" and group_of(r)[0] == 350]
    curves = {row["run"]: row for row in bench + sparser}
    for row in curves.values():
        rounds = [t for t in row["accuracy"] if t in row["up-bytes"]]
        x = [int(t) for t in rounds], [row["up-bytes"][t] / 1e6 for t in rounds]
        y = [row["accuracy"][t] for t in rounds]
        ours = row["method"] == "floss"
        style = {
            "color": COLOURS[row["method"]], "label": densities(row) if ours else row["method"],
            "marker": {1 / 16: "s", 1 / 64: "^"}.get(row["settings"].get("strategy.d-up"), "."),
            "lw": 1.8 if ours else 1.2, "markersize": 5 if ours else 4,
        }  # fmt: skip
        for axis, values in zip(axes, x, strict=True):
            axis.plot(values, y, **style)
    axes[0].set(xlabel="round", ylabel="accuracy")
    axes[1].set(xlabel="MB sent up by all clients", xscale="log")
    axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    drawing.set_size_inches(10.4, 4.2)
    return drawing


def draw_grid(rows: list[Row]) -> Any:
    """Draw figure 5.3: accuracy against measured communication, a line per rank."""
    drawing, axes = panels(1)
    for rank in RANKS:
        own = [r for r in rows if r["settings"]["lora.rank"] == rank and "communication" in r]
        own.sort(key=lambda r: r["communication"])
        x, y = [r["communication"] for r in own], [r["score"] for r in own]
        axes[0].plot(x, y, marker="o", label=f"rank {rank}")
        for row in own:
            density = row["settings"].get("strategy.d-up", 1)
            where = (row["communication"], row["score"])
            axes[0].annotate(f"{density:.2g}", where, fontsize=7, xytext=(3, 4),
                             textcoords="offset points")  # fmt: skip
    axes[0].set(xscale="log", xlabel="bytes both ways, relative to dense rank 16",
                ylabel="accuracy", title="ranks and densities")  # fmt: skip
    axes[0].legend(frameon=False)
    return drawing


def draw_links(rows: list[Row]) -> Any:
    """Draw figure 5.4: accuracy against simulated seconds, up to the budget, per asymmetry."""
    drawing, axes = panels(len(UP_MBPS), sharey=True)
    for axis, (name, mbps) in zip(axes, UP_MBPS.items(), strict=True):
        for row in rows:
            budget = row.get("budget", {}).get(name, {"seconds": float("inf")})["seconds"]
            times = {int(t): row["seconds"][name][int(t) - 1] for t in row["accuracy"] if t != "0"}
            inside = [t for t, seconds in times.items() if seconds <= budget]
            axis.plot([times[t] for t in inside], [row["accuracy"][str(t)] for t in inside],
                      marker=".", label=densities(row))  # fmt: skip
        axis.set(xlabel="simulated seconds", title=f"upload {name} slower ({mbps:g} Mbps)")
    axes[0].set_ylabel("accuracy")
    axes[0].legend(frameon=False, fontsize=8)
    return drawing


def draw_options(rows: list[Row]) -> Any:
    """Draw FLoSS as it is, with error feedback and with the mean over senders, by density."""
    drawing, axes = panels(1)
    drawing.set_size_inches(6.6, 4.0)
    groups = sorted({group_of(row) for row in rows}, reverse=True)
    for at, (option, colour) in enumerate(
        (("as it is", "tab:blue"), ("error feedback", "tab:green"), ("senders", "tab:red"))
    ):
        own = [row for row in rows if option_of(row) == option]
        x = [groups.index(group_of(row)) + 0.27 * (at - 1) for row in own]
        axes[0].bar(x, [row["score"] for row in own], 0.25, color=colour, alpha=0.8, label=option)
    words = [f"{clients} clients\n1/{1 / up:.0f} up" for clients, up in groups]
    axes[0].set_xticks(range(len(groups)), words)
    axes[0].set(ylabel="accuracy", title="FLoSS (1/4 down), Dirichlet")
    axes[0].legend(
        frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14)
    )
    return drawing


def group_of(row: Row) -> tuple[int, float]:
    """Return clients and upload density of a row of the options."""
    settings = row["settings"]
    return settings.get("partition.clients", 350), settings["strategy.d-up"]


def option_of(row: Row) -> str:
    """Return which option of FLoSS a row has."""
    if row["settings"].get("strategy.error-feedback"):
        return "error feedback"
    return "senders" if row["settings"].get("strategy.mean") == "senders" else "as it is"


def densities(row: Row) -> str:
    """Return a run of figure 5.4 in words."""
    if row["method"] != "floss":
        return "dense"
    ways = (1 / row["settings"][f"strategy.d-{way}"] for way in ("down", "up"))
    return "FLoSS ({})".format(", ".join(f"1/{x:.0f}" for x in ways))
