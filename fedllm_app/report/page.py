"""Write report.html: what a run reached and what it cost, on one page that needs no network.

A run's page and a comparison are the same page with other tables. Everything shown comes from
the folders of the runs, so a page can be written again at any time, also while a run goes on.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.files import replacing
from fedllm_app.report import drawing, palette, tables
from fedllm_app.report.answers import answers_tables
from fedllm_app.report.clients import client_table
from fedllm_app.report.equal import equal_tables
from fedllm_app.report.plots import all_plots
from fedllm_app.report.progress import progress
from fedllm_app.report.run import Run, read_run
from fedllm_app.report.settings import Unread, grouped, settings_table
from fedllm_app.report.template import PAGE, STYLE, TABLE
from fedllm_app.report.xaxis import x_axis
from fedllm_app.run.metrics import versions

REPORT = "report.html"


def write_report(run_folder: Path, x: str = "rounds") -> Path:
    """Write report.html into a run's folder and return its path.

    Parameters
    ----------
    x : what figures over rounds have on their horizontal axis: "rounds", "simulated" seconds,
        "compute" or "energy".

    Raises
    ------
    ConfigError
        If jinja2 is not installed, or no clock ran for the axis asked for.
    DataError
        If the folder is not that of a run.
    """
    run = read_run(run_folder)
    shown = [tables.traffic_table(run), tables.evaluation_table(run)]
    shown += [one for one in (client_table(run), tables.classes_table(run)) if one]
    shown += answers_tables(run.folder)
    shown += [tables.dropped_table([run]), tables.guard_table(run)]
    text = _render(
        kind="fedllm run",
        title=run.name,
        about=tables.about(run),
        progress=progress(run),
        share=run.last_round / run.asked if run.asked else 1.0,
        tiles=tables.tiles(run),
        tables=shown,
        plots=all_plots([run], drawing.series([run.name]), x_axis(x, [run])),
        settings_title="Settings",
        settings=grouped(run.settings),
        footer=_footer([run]),
    )
    return _write(run.folder / REPORT, text)


def write_comparison(
    run_folders: Sequence[Path],
    out: Path,
    x: str = "rounds",
    unread: Unread = lambda settings: frozenset(),
) -> Path:
    """Write one page that compares several runs, in the order given, and return its path.

    Parameters
    ----------
    x : see `write_report`.
    unread : returns the keys that a run of these settings does not read.

    Raises
    ------
    ConfigError
        If no folder is given, jinja2 is not installed, or a run lacks the axis asked for.
    DataError
        If a folder is not that of a run.
    """
    if not run_folders:
        raise ConfigError("no run to compare; expected at least one name or folder of a run")
    runs = [read_run(folder) for folder in run_folders]
    looks = drawing.series(_labels(runs))
    shared = dict(runs[0].settings)
    for key in [k for k in shared if len({repr(run.settings.get(k)) for run in runs}) > 1]:
        shared.pop(key, None)
    shared.pop("run.name", None)
    text = _render(
        kind="fedllm comparison",
        title=f"{len(runs)} runs" if len(runs) > 1 else runs[0].name,
        about=tables.about(runs[0]) if len(runs) == 1 else _shared_about(runs),
        progress=" ".join(f"{run.name}: {far}" for run in runs if (far := progress(run))),
        share=0.0,
        tiles=[],
        tables=[
            tables.runs_table(runs, looks),
            *equal_tables(runs, looks),
            settings_table(runs, looks, unread),
            tables.dropped_table(runs),
        ],
        plots=all_plots(runs, looks, x_axis(x, runs)),
        settings_title="Settings that all runs share",
        settings=grouped(shared),
        footer=_footer(runs),
    )
    return _write(out, text)


def summary_rows(run_folder: Path) -> list[tuple[str, str]]:
    """Return (name, value) rows that sum up a run."""
    run = read_run(run_folder)
    return tables.summary(run, run.folder / REPORT)


def print_summary(run_folder: Path) -> None:
    """Print a small table that sums up a run."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    shown.add_column(style="dim", no_wrap=True)
    shown.add_column(no_wrap=True)
    rows = summary_rows(run_folder)
    for name, value in rows:
        # As text: what stands in square brackets would be taken for markup.
        shown.add_row(Text(name), Text(value))
    # A path cut in two can't be copied: let the terminal wrap it.
    width = max(len(name) for name, _ in rows) + max(len(value) for _, value in rows) + 4
    Console(width=max(width, Console().width)).print(shown)


def _render(**values: Any) -> str:
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise ConfigError(
            "report.html needs jinja2, which is not installed: pip install jinja2"
        ) from None
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    table = environment.from_string(TABLE)
    table.globals["themed"] = palette.themed

    def show(shown: tables.Table) -> Markup:
        return Markup(table.render(table=shown))

    return environment.from_string(PAGE).render(
        style=Markup(STYLE + palette.palette_css()), show=show, **values
    )


def _write(path: Path, text: str) -> Path:
    """Write in one step: a page that is open in a browser is never half there."""
    with replacing(path) as file:
        file.write(text.encode())
    return path


def _labels(runs: Sequence[Run]) -> list[str]:
    """Return a label per run; runs of the same name get a number."""
    counts: Counter[str] = Counter()
    labels = []
    for run in runs:
        counts[run.name] += 1
        again = f" ({counts[run.name]})" if counts[run.name] > 1 else ""
        labels.append(drawing.short(run.name) + again)
    return labels


def _shared_about(runs: Sequence[Run]) -> str:
    """Return the parts of the runs' own lines that all of them share."""
    lines = [tables.about(run).split(" · ") for run in runs]
    return " · ".join(part for part in lines[0] if all(part in line for line in lines))


def _footer(runs: Sequence[Run]) -> str:
    noted = [run.versions for run in runs if run.versions]
    found, when = (noted[0], "Ran with") if noted else (versions(), "Page written with")
    if any(other != found for other in noted):
        when = f"{runs[0].name} ran with (other runs differ)"
    return f"{when} " + ", ".join(f"{name} {version}" for name, version in found.items()) + "."
