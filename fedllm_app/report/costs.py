"""Plot what was spent: bytes by part of the payload, and seconds by part of a round."""

from collections.abc import Mapping, Sequence

from fedllm_app.core.units import format_bytes, format_seconds, format_times
from fedllm_app.report import drawing, palette
from fedllm_app.report.drawing import Plot
from fedllm_app.report.run import PARTS, Run, seconds_by_part
from fedllm_app.report.xaxis import ROUNDS, XAxis

PART_COLOURS = {"values": palette.BLUE, "positions": palette.ORANGE, "header": palette.GREY}
# The order in which parts are stacked; names that are not here come after them.
TIME_COLOURS = {
    "wait": palette.BLUE,
    "evaluate": palette.ORANGE,
    "fold": palette.GREEN,
    "plan": palette.PURPLE,
    "encode": palette.SKY,
    "step": palette.VERMILION,
    "checkpoint": palette.OLIVE,
    "other": palette.GREY,
}
WORDS = {"up": "Upload", "down": "Download"}


def cost_plots(runs: Sequence[Run], x: XAxis = ROUNDS) -> list[Plot]:
    """Return figures of bytes and seconds: over `x` for one run, per round for several."""
    if len(runs) == 1:
        run = runs[0]
        return [
            bytes_by_round(run, "up", x),
            bytes_by_round(run, "down", x),
            time_by_round(run, x),
        ]
    return [bytes_by_run(runs, "up"), bytes_by_run(runs, "down"), time_by_run(runs)]


def bytes_by_round(run: Run, direction: str, x: XAxis = ROUNDS) -> Plot:
    """Draw one run's bytes per round, stacked by part of the payload."""
    title = f"{WORDS[direction]} per round"
    rounds = list(range(1, max(run.traffic, default=0) + 1))
    parts = {
        part: [float(run.part_bytes(direction, part, number)) for number in rounds]
        for part in PARTS
    }
    sent, dense = run.sent(direction)
    if not sent:
        return Plot(title, f"The ledger has no {WORDS[direction].lower()}.")
    caption = f"All clients of a round. Dense: {format_bytes(dense / len(rounds))} a round."
    return _over_rounds(run, x, parts, PART_COLOURS, "B", title, caption)


def bytes_by_run(runs: Sequence[Run], direction: str) -> Plot:
    """Draw mean bytes per round of several runs, stacked by part, beside what dense costs."""
    title = f"{WORDS[direction]} per round"
    counts = [max(1, len(run.rounds)) for run in runs]
    both = list(zip(runs, counts, strict=True))
    parts = {part: [run.part_bytes(direction, part) / n for run, n in both] for part in PARTS}
    if not any(map(sum, parts.values())):
        return Plot(title, f"No ledger has any {WORDS[direction].lower()}.")
    notes = []
    for run, count in both:
        sent, dense = run.sent(direction)
        notes.append(f"{format_bytes(sent / count)} · {format_times(dense, sent)}")
    svg = _per_run(runs, parts, PART_COLOURS, notes, "B", title)
    return Plot(title, "All clients of a round, mean over rounds · times less than dense.", svg)


def time_by_round(run: Run, x: XAxis = ROUNDS) -> Plot:
    """Draw the seconds of each round, stacked by what the server did."""
    title = "Time per round"
    rows = {r["round"]: seconds_by_part(r) for r in run.timing if r["round"] > 0}
    names = _time_parts(list(rows.values()))
    if not names:
        return Plot(title, "No round was timed.")
    rounds = list(range(1, max(rows) + 1))
    parts = {name: [rows.get(n, {}).get(name, 0.0) for n in rounds] for name in names}
    caption = "Wall-clock on the server; during “wait” the clients train."
    return _over_rounds(run, x, parts, TIME_COLOURS, "s", title, caption)


def time_by_run(runs: Sequence[Run]) -> Plot:
    """Draw mean seconds per round of several runs, stacked by what the server did."""
    title = "Time per round"
    rows = [run.mean_seconds() for run in runs]
    names = _time_parts(rows)
    if not names:
        return Plot(title, "No round was timed.")
    parts = {name: [row.get(name, 0.0) for row in rows] for name in names}
    notes = [format_seconds(sum(row.values())) for row in rows]
    svg = _per_run(runs, parts, TIME_COLOURS, notes, "s", title)
    return Plot(title, "Mean over rounds, on the server; during “wait” the clients train.", svg)


def _time_parts(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the parts worth a colour: those above half a percent of the time."""
    sums = dict.fromkeys(TIME_COLOURS, 0.0)
    for row in rows:
        for name, value in row.items():
            sums[name] = sums.get(name, 0.0) + value
    whole = sum(sums.values())
    return [name for name, value in sums.items() if value > 0.005 * whole]


def _over_rounds(
    run: Run,
    x: XAxis,
    parts: dict[str, list[float]],
    colours: Mapping[str, str],
    unit: str,
    title: str,
    caption: str,
) -> Plot:
    with drawing.figure() as (figure, axes):
        edges = x.edges(run, len(next(iter(parts.values()))))
        width = drawing.stairs(axes, edges, parts, colours)
        x.finish(axes)
        drawing.unit_axis(axes, "y", unit)
        drawing.legend(figure, axes)
        steps = f" Each step is the mean of {width} rounds." if width > 1 else ""
        return Plot(title, caption + steps, drawing.to_svg(figure, title))


def _per_run(
    runs: Sequence[Run],
    parts: dict[str, list[float]],
    colours: Mapping[str, str],
    notes: list[str],
    unit: str,
    title: str,
) -> str:
    with drawing.figure(height_in=1.1 + 0.42 * len(runs)) as (figure, axes):
        drawing.bars(axes, [drawing.short(run.name) for run in runs], parts, colours, notes)
        drawing.unit_axis(axes, "x", unit)
        drawing.legend(figure, axes)
        return drawing.to_svg(figure, title)
