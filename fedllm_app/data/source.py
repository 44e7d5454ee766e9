"""Where examples come from: a file, a folder, the hub, or the texts every installation has.

A `Source` can say what it is (`identity`, for the cache key) without being read, so that a worker
whose data is prepared opens nothing but the prepared files.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fedllm_app.core.errors import DataError, FedllmError
from fedllm_app.core.extend import load
from fedllm_app.data.formats import LEGAL, SUFFIXES, suffix_of
from fedllm_app.data.loading import SAVED, Raw, cause_of, from_hub, read, read_folders
from fedllm_app.data.own import built_in, is_own, own_identity
from fedllm_app.data.settings import NODE, TEXTS, DataSettings

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Source:
    """One split of one data set.

    Attributes
    ----------
    key : the setting that named it, for error messages.
    place : "embedded", absolute path, hub name, or MODULE:NAME of a function.
    split : split wanted, where the place has several; a function is asked for "train" or "test".
    config : configuration of a hub data set.
    optional : whether it may turn out not to exist.
    settings : what a function is handed, and how files of text are read.
    beside : whether these are the test examples of the place that the training examples come from.
    """

    key: str
    place: str
    split: str = "train"
    config: str = ""
    optional: bool = False
    settings: DataSettings = field(default_factory=DataSettings)
    beside: bool = False

    def __str__(self) -> str:
        by_split = self.key == "data.test" and not suffix_of(Path(self.place))
        named = f", test split {self.split!r}" if self.beside or by_split else ""
        return f"{self.key}={self.place!r}{named}"

    def files(self) -> list[Path]:
        """Return the files to read, or nothing where the place is not a path.

        Raises
        ------
        DataError
            If the path does not exist, is of no known type, or lacks the split.
        """
        path = Path(self.place)
        if not path.is_absolute():
            return []
        if not path.exists():
            raise DataError(f"{self}: there is no such file or folder")
        if path.is_file():
            if not suffix_of(path):
                raise DataError(f"{self} ends in {path.suffix!r}; expected {LEGAL}, or a folder")
            return [path]
        found = self._inside(path)
        if not found and not self.optional:
            raise DataError(
                f"{self}: the folder has no split {self.split!r}; expected a folder saved by "
                f"datasets' save_to_disk, or {self.split} in it as {LEGAL}. "
                f"It holds {sorted(p.name for p in path.iterdir())[:10]}"
            )
        return found

    def identity(self) -> list[str | int]:
        """Return what tells this source from another without reading it; [] if it is missing."""
        if self.place in TEXTS:
            return [self.place, *self._texts().identity()]
        if is_own(self.place):
            return [*own_identity(self.place), self.split, self.settings.model_dump_json()]
        if not Path(self.place).is_absolute():
            return ["hub", self.place, self.config, self.split]
        found: list[str | int] = []
        for file in self.files():
            status = file.stat()
            found += [str(file), status.st_size, status.st_mtime_ns]
        return found

    def load(self, task: str, scratch: Path, cache: Path) -> "Raw | None":
        """Return the rows as they are, or None if the source is optional and missing.

        Parameters
        ----------
        task : task name; the embedded texts depend on it.
        scratch : folder for intermediate files, needed as long as the result is.
        cache : folder where the embedded texts are kept.

        Raises
        ------
        DataError
            If it cannot be read, or holds no rows.
        """
        if self.place in TEXTS:
            return Raw(self._texts().rows(task, cache))
        files = self.files()
        if Path(self.place).is_absolute() and not files:
            return None
        try:
            if is_own(self.place):
                raw = self._call()
            elif files:
                reader = read_folders if self._in_folders(files[0]) else read
                raw = reader(files, self.key, self.settings, scratch)
            else:
                raw = from_hub(self.place, self.config, self.split, self.optional)
        except FedllmError:
            raise
        except Exception as error:  # each reader has its own exceptions
            hub = "" if files or is_own(self.place) else "; expected a data set of the hub"
            raise DataError(f"{self} cannot be read: {cause_of(error)}{hub}") from error
        if raw is not None and len(raw.rows) == 0:
            said = f" that can be read: {raw.dropped}" if raw.dropped.total else ""
            raise DataError(f"{self} holds no rows{said}")
        return raw

    def _texts(self) -> "Texts":
        texts: Texts = built_in(self.key, self.place, TEXTS[self.place])
        return texts

    def _call(self) -> "Raw | None":
        """Return the rows that a function of your own gives."""
        import datasets

        rows = dataset_function(self.key, self.place)(self.settings, self.split)
        if rows is None and self.optional:
            return None
        if not isinstance(rows, datasets.Dataset):
            raise DataError(
                f"{self} gives a {type(rows).__name__} for {self.split!r}; expected a "
                "datasets.Dataset, or for 'test' beside data.train None"
            )
        return Raw(rows)

    def _in_folders(self, file: Path) -> bool:
        """Return whether a file lies in a folder of its own, one for each source."""
        own = file.name != SAVED and file.parent.name != "data"
        return own and file.parent.parent == Path(self.place)

    def _inside(self, folder: Path) -> list[Path]:
        """Return the files of this split in a folder; a saved data set is known by its state."""
        for saved in (folder, folder / self.split):
            if (saved / SAVED).exists():
                # A data set saved alone has no splits: it is the training data.
                return [] if saved == folder and self.beside else [saved / SAVED]
        # In the folder or in its folder "data"; else in folders of their own, one for each source.
        for places in (("", "data/"), ("*/",)):
            for suffix in SUFFIXES:
                for name in (f"{self.split}{suffix}", f"{self.split}-*{suffix}"):
                    if found := sorted(f for place in places for f in folder.glob(place + name)):
                        return found
        return []


class Texts(Protocol):
    """Text of ours, as a source sees it."""

    def identity(self) -> list[str]:
        """Return what tells the texts of one installation from those of another."""

    def rows(self, task: str, cache: Path) -> "Dataset":
        """Return the rows of a task; DataError if it has none."""


def dataset_function(key: str, value: str) -> Any:
    """Return the function (settings, split) -> datasets.Dataset | None that MODULE:NAME names.

    Raises
    ------
    ConfigError
        If it cannot be imported, or is no function.
    """
    return load(key, value, callable, (*TEXTS, NODE, "an absolute path", "a hub name"))


def require_column(rows: "Dataset", key: str, column: str, source: Source) -> None:
    """Raise DataError if a column is missing, naming those there are."""
    if column not in rows.column_names:
        raise DataError(f"{key} is {column!r}, but {source} has the columns {rows.column_names}")
