"""From finished runs to rows: what is measured, what is kept from before, what is left to play."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import kept_rows, write_result
from benchmarks.study_kit.entry import Entry, Rates, Row, Settings
from fedllm_app.core.errors import FedllmError
from fedllm_app.run.metrics import read_lines
from fedllm_app.study.sweep import Cell, finished

SPENT = ("tokens", "up-bytes", "down-bytes", "simulated-s")


def row_there_is(
    cell: Cell, settings: Settings, home: Path, known: Mapping[str, Row],
    read: Callable[[Path], Row],
) -> Row | None:  # fmt: skip
    """Return what a finished run measured; where its folder is not here, the row known.

    Parameters
    ----------
    settings : that a known row must have, since one of other settings is of another run.
    read : makes the row from the folder of a run.
    """
    folder = home / "runs" / cell.name
    if not folder.exists():
        row = known.get(cell.name)
        return row if row and row["settings"] == settings else None
    try:
        return read(folder) if finished(cell, home) else None
    except FedllmError as error:
        print(f"left out: {error}")
        return None


@dataclass(frozen=True)
class Study:
    """A table of runs, and where its rows go.

    Attributes
    ----------
    name : of the results file.
    stages : in the order in which they are played.
    trials : entries whose figure is what their rates are for.
    entries : all the others.
    write : puts the rows into the document.
    more : what else a row holds, from the folder of its run.
    """

    name: str
    stages: tuple[str, ...]
    trials: tuple[Entry, ...]
    entries: tuple[Entry, ...]
    write: Callable[[Sequence[Row]], None]
    more: Callable[[Path], Row] = lambda folder: {}

    @property
    def every(self) -> tuple[Entry, ...]:
        """All runs, trials first."""
        return (*self.trials, *self.entries)

    def kept(self) -> dict[str, Row]:
        """Return the rows of the results file by run, {} if there is none."""
        return {row["run"]: row for row in kept_rows(self.name)}

    def best_rates(self, home: Path) -> Rates:
        """Return the rates of the best trials; who has trials to come is left out.

        A trial that takes the rates of another adds its own to them.
        """
        rates: dict[str, Settings] = {}
        known = self.kept()
        for tuned in dict.fromkeys(entry.figure for entry in self.trials):
            own = [entry for entry in self.trials if entry.figure == tuned]
            rows = [self.measured(entry, rates, home, known) for entry in own]
            if all(rows):
                best = min((row for row in rows if row), key=lambda row: float(row["loss"]))
                chosen = next(entry for entry in own if entry.name == best["run"])
                rates[tuned] = rates.get(chosen.tuned_as, {}) | chosen.tries
        return rates

    def measured(
        self, entry: Entry, rates: Rates, home: Path, known: Mapping[str, Row]
    ) -> Row | None:
        """Return what a finished run measured; where its folder is not here, the row known."""
        cell = entry.cell(rates, {})
        if cell is None:
            return None
        settings = dict(cell.settings)
        return row_there_is(cell, settings, home, known, lambda run: self._read(entry, cell, run))

    def _read(self, entry: Entry, cell: Cell, folder: Path) -> Row:
        """Return the row of a finished run."""
        records = read_lines(folder / "metrics.jsonl")
        evaluated = [r for r in records if r.get("evaluation")]
        last = records[-1] if "up-bytes" in records[-1] else records[-2]
        return {
            "run": entry.name, "figure": entry.figure, "settings": dict(cell.settings),
            "loss": evaluated[-1]["evaluation"]["loss"],
            "perplexity": evaluated[-1]["evaluation"]["perplexity"],
            "curve": {str(r["round"]): r["evaluation"]["loss"] for r in evaluated},
            **{key: last.get(key, 0) for key in SPENT},
            **self.more(folder),
        }  # fmt: skip

    def left(self, stage: str, places: Settings, home: Path) -> list[Cell]:
        """Return the runs of a stage to play: rates known, and no row of the same settings kept.

        A run that has a row is played again where its model is not here and another needs it.
        """
        rates, known = self.best_rates(home), self.kept()
        missing = [e for e in self.every if self.measured(e, rates, home, known) is None]
        needed = {name for entry in missing for name in entry.needs}
        needed = {name for name in needed if not (home / "runs" / name / "model").is_dir()}
        to_play = {entry.name for entry in missing} | needed
        return [
            cell
            for entry in self.every
            if entry.stage == stage
            and entry.name in to_play
            and (cell := entry.cell(rates, places)) is not None
        ]

    def collect(self, home: Path) -> list[Row]:
        """Return all rows there are, and write them."""
        rates, known = self.best_rates(home), self.kept()
        rows = [row for e in self.every if (row := self.measured(e, rates, home, known))]
        if rows:
            write_result(self.name, {"rates": {n: dict(own) for n, own in rates.items()}}, rows)
            self.write(rows)
        return rows
