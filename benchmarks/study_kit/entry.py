"""One run of a study, as data: its place in the tables, its settings, whose rates it takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedllm_app.study.sweep import Cell

Settings = dict[str, Any]
Rates = Mapping[str, Settings]
Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One run's place in the tables.

    Attributes
    ----------
    figure : the table or plot that shows it; of a trial, what its rates are for.
    stage : when it is played.
    name : of the run.
    settings : places and rates left out.
    tuned_as : whose rates it takes; "" are its own.
    tries : the rates that a trial is played with.
    needs : runs whose model it begins with.
    """

    figure: str
    stage: str
    name: str
    settings: Settings = field(default_factory=dict)
    tuned_as: str = ""
    tries: Settings = field(default_factory=dict, kw_only=True)
    needs: tuple[str, ...] = field(default=(), kw_only=True)

    def cell(self, rates: Rates, places: Settings) -> Cell | None:
        """Return the run, None while its rates are not known.

        Parameters
        ----------
        rates : settings by who was tuned.
        places : what this machine has in the place of a value that names a place.
        """
        if self.tuned_as and self.tuned_as not in rates:
            return None
        settings = self.settings | rates.get(self.tuned_as, {}) | self.tries
        placed = {key: places.get(str(value), value) for key, value in settings.items()}
        return Cell(self.name, self.made(placed))

    def made(self, settings: Settings) -> Settings:
        """Return the settings that are played: those of the entry as they are."""
        return settings
