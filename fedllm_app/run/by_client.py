"""clients.jsonl of a run: one line for each client that was measured, after each evaluation.

There is no such file where no client is measured. A round that is evaluated again, because a run
was killed between its last evaluation and its last checkpoint, takes the place of itself.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedllm_app.run.metrics import JsonLines, iterate_lines

FILE = "clients.jsonl"


class ByClient:
    """The file, and what the round that is open adds to it.

    Parameters
    ----------
    folder : of the run.
    after : round of the checkpoint that the run goes on from, -1 without one.
    """

    def __init__(self, folder: Path, after: int) -> None:
        self._path = folder / FILE
        self._file: JsonLines | None = None
        self._last = -1
        if self._path.exists():
            self._file = JsonLines(self._path)
            self._file.cut_back(after)
            self._last = max((r["round"] for r in iterate_lines(self._path)), default=-1)
        self._open: tuple[Sequence[Mapping[str, Any]], dict[str, Any]] | None = None

    def measured(
        self,
        rows: Sequence[Mapping[str, Any]],
        spread: Mapping[str, Any],
        dropped: Mapping[str, int],
    ) -> None:
        """Take the rows of an evaluation, how their metrics are spread, and who is missing.

        Parameters
        ----------
        dropped : the count of clients that were asked and gave no answer to count, by reason.
        """
        words = {"by-client": dict(spread), "not-measured": dict(dropped)}
        self._open = rows, {name: value for name, value in words.items() if value}

    def close(self, round: int) -> dict[str, Any]:
        """Write the rows of the latest evaluation as those of a round; return what a record says.

        {} where nothing was measured since the last call.
        """
        if self._open is None:
            return {}
        (rows, words), self._open = self._open, None
        self._file = self._file or JsonLines(self._path)
        if self._last >= round:
            self._file.cut_back(round - 1)
        self._file.extend([{"round": round, **row} for row in rows])
        self._last = round
        return words

    def sync(self) -> None:
        """Return when every line is on the disk."""
        if self._file is not None:
            self._file.sync()
