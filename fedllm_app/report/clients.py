"""How a metric is spread over the clients that were measured one by one."""

import math
from typing import Any

from fedllm_app.core.units import format_metric, words
from fedllm_app.report import drawing, palette
from fedllm_app.report.curves import number
from fedllm_app.report.drawing import Plot, Series
from fedllm_app.report.run import Run
from fedllm_app.report.tables import Cell, Row, Table
from fedllm_app.report.xaxis import ROUNDS, XAxis
from fedllm_app.run.metrics import Record
from fedllm_app.tasks import TASKS

KINDS = {
    "seen": Series("clients that may train", palette.BLUE, "o", "-"),
    "unseen": Series("clients that never train", palette.VERMILION, "s", "-"),
    "domain": Series("domains", palette.GREEN, "^", "-"),
}
SPREAD = {"mean": "Mean", "weighted": "Weighted mean", "p10": "10th percentile"}
SPREAD |= {"p90": "90th percentile"}


def client_plots(run: Run, x: XAxis = ROUNDS) -> list[Plot]:
    """Draw the headline by client; [] where no client was measured by itself."""
    found = _records(run)
    if not found:
        return []
    metric = _names(run)[0]
    title = f"{words(metric)} by client"
    with drawing.figure(len(KINDS)) as (figure, axes):
        for kind, look in KINDS.items():
            having = [r for r in found if metric in r["by-client"].get(kind, {})]
            ats = [x.of(r) for r in having]
            low, mean, high = (
                [number(r["by-client"][kind][metric].get(word)) for r in having]
                for word in ("p10", "weighted", "p90")
            )
            if not any(math.isfinite(value) for value in mean):
                continue
            axes.fill_between(ats, low, high, color=look.colour, alpha=0.15, linewidth=0)
            drawing.line(axes, look, ats, mean, look.label)
        x.finish(axes)
        axes.set_ylabel(words(metric).lower())
        axes.margins(y=0.08)
        drawing.legend(figure, axes)
        svg = drawing.to_svg(figure, title)
    about = (
        "Line: all examples of these clients. Band: from the 10th to the 90th percentile of them."
    )
    return [Plot(title, about, svg)]


def client_table(run: Run) -> Table | None:
    """Return the spread of every metric after the last such evaluation; None without any."""
    found = _records(run)
    if not found:
        return None
    last: dict[str, dict[str, Any]] = found[-1]["by-client"]
    rows = [
        Row(
            [
                Cell(f"{words(metric)}, {KINDS[kind].label} ({spread['clients']:,})"),
                *(Cell(format_metric(spread[metric].get(word))) for word in SPREAD),
            ]
        )
        for metric in _names(run)
        for kind, spread in last.items()
        if kind in KINDS and metric in spread
    ]
    note = f"After round {found[-1]['round']}. Rows by client are in clients.jsonl."
    if missing := found[-1].get("not-measured"):
        note += f" {sum(missing.values()):,} devices gave no answer that counts: "
        note += ", ".join(f"{count:,} {reason}" for reason, count in sorted(missing.items())) + "."
    return Table("By client", ["Metric", *SPREAD.values()], rows, note)


def _names(run: Run) -> list[str]:
    """Return names of metrics, the headline first; the server may have evaluated none."""
    if names := run.evaluation_names():
        return names
    last = _records(run)[-1]["by-client"]
    found = {name for spread in last.values() for name in spread if name != "clients"}
    kind = TASKS.get(str(run.settings.get("task.name", "")))
    return sorted(found, key=lambda name: (kind is None or name != kind.headline, name))


def _records(run: Run) -> list[Record]:
    return [record for record in run.metrics if record.get("by-client")]
