"""Measure fedllm against limits and peers: `make bench`, `make bench-quick`.

    make bench ARGS="--data 20newsgroups=DIR --model minilm=DIR smollm2=FILE"
    python -m benchmarks.bench --quick --only kernels      one group, smaller

Every ratio is of two things measured in this run, on this machine. A row whose data or
model is not given is not run, and says so. Results go to benchmarks/results/bench-GROUP.json (a
quick run writes none) and into the tables of docs/performance.md, which explains each row.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.markers import fill, printed
from benchmarks.record import ROOT, kept_rows, write_result
from benchmarks.rows.row import Context, Row
from fedllm_app.core.progress import duration

# Groups in the order of running, with the minutes that each takes on two quiet cores.
GROUPS = {
    "kernels": 0.5,
    "payload": 0.1,
    "memory": 1.5,
    "growth": 0.5,
    "profile": 1.5,
    "training": 10,
    "flower": 4,
    "bench_s": 6,
}
QUICK = ("kernels", "payload", "training", "flower")


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=PATH")
    parser.add_argument("--model", nargs="+", default=[], metavar="NAME=PATH")
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=[])
    parser.add_argument("--home", type=Path, default=Path.home() / ".fedllm" / "bench-s")
    parser.add_argument("--quick", action="store_true", help="about 3 minutes")
    return parser.parse_args()


def main() -> int:
    """Measure group by group, write each as it is done, and print the table."""
    arguments, console = parse(), Console(width=None if sys.stdout.isatty() else 160)
    pairs = (pair.partition("=") for pair in arguments.data + arguments.model)
    places = {name: str(Path(path).absolute()) for name, _, path in pairs}
    chosen = arguments.only or list(QUICK if arguments.quick else GROUPS)
    every: list[Row] = []
    for number, group in enumerate(chosen):
        left = sum(GROUPS[name] for name in chosen[number:]) * (15 if arguments.quick else 60)
        console.print(f"{group} ({number + 1} of {len(chosen)}), about {duration(left)} left")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            home = arguments.home.absolute()
            context = Context(arguments.quick, places, Path(folder), home)
            with said_to(Path(folder) / "log.txt"):
                rows = importlib.import_module(f"benchmarks.rows.{group}").measure(context)
        every += rows
        if not arguments.quick:
            took = {"seconds": round(time.monotonic() - began, 1)}
            write_result(f"bench-{group}", took, [row.record() for row in rows])
    console.print(table(every))
    if not arguments.quick:
        fill(ROOT / "docs" / "performance.md", {g: printed(lines(known(g))) for g in GROUPS})
    return 0


@contextmanager
def said_to(log: Path) -> Iterator[None]:
    """Let this process and those it starts print to a file, whose end is shown if all fails."""
    sys.stdout.flush()
    sys.stderr.flush()
    own = [os.dup(number) for number in (1, 2)]
    failed = True
    try:
        with log.open("ab") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield
        failed = False
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in zip((1, 2), own, strict=True):
            os.dup2(saved, number)
            os.close(saved)
        if failed:
            print(log.read_text("utf-8", "replace")[-4000:])


def known(group: str) -> list[Row]:
    """Return the rows of a group as they were last written."""
    found = kept_rows(f"bench-{group}")
    return [Row(**{k: v for k, v in row.items() if k != "verdict"}) for row in found]


def lines(rows: list[Row]) -> list[list[str]]:
    """Return the cells of a table, its head first."""
    table = [["what", "measured", "limit or peer", "judged", "target", "verdict"]]
    for row in rows:
        if row.skipped:
            table.append([row.what, "", "", "", "", f"not run: {row.skipped}"])
            continue
        theirs = "" if row.theirs is None else f": {row.theirs:,.4g} {row.unit}"
        judged = "" if row.judged is None else f"{row.judged:,.3g} {row.about}"
        target = f"{row.target[0]} {row.target[1]:g}" if row.target else ""
        measured = "" if row.measured is None else f"{row.measured:,.4g} {row.unit}"
        table.append([row.what, measured, row.peer + theirs, judged, target, row.verdict])
    return table


def table(rows: list[Row]) -> Table:
    """Return the rows as a table for a terminal."""
    head, *body = lines(rows)
    shown = Table(*head)
    for cells in body:
        shown.add_row(*cells)
    return shown


if __name__ == "__main__":
    raise SystemExit(main())
