"""Where examples come from: a file, a folder, the hub, or the texts every installation has.

A `Source` can say what it is (`identity`, for the cache key) without being read, so that a worker
whose data is prepared opens nothing but the prepared files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field

from fedllm_app.core.errors import DataError, FedllmError
from fedllm_app.core.extend import load
from fedllm_app.core.settings import Settings
from fedllm_app.data.own import built_in, is_own, own_identity

if TYPE_CHECKING:
    from datasets import Dataset

EMBEDDED = "embedded"
NODE = "node"
TEXTS = {EMBEDDED: "fedllm_app.demo.texts:TEXTS"}  # names that stand for text of ours
SAVED = "state.json"  # what save_to_disk writes last into the folder of one data set
# Suffix -> the constructor of datasets.Dataset that reads it.
READERS = {
    ".parquet": "from_parquet",
    ".jsonl": "from_json",
    ".json": "from_json",
    ".csv": "from_csv",
}


class DataSettings(Settings):
    """Namespace `data`: which examples, which columns, and what the server evaluates on."""

    train: str = Field(
        EMBEDDED,
        min_length=1,
        description='Training examples: "embedded" (the demonstration), a hub name, an '
        "absolute path of a .parquet, .jsonl, .json or .csv file or of a folder, "
        '"node" (each device has its own file), or MODULE:NAME of a function.',
    )
    test: str = Field(
        "",
        description='Test examples, in the same forms as data.train. "" takes the test split, '
        "or the test file beside the training file, or else holds out a share of "
        "the training examples.",
    )
    config: str = Field("", description="Configuration (subset) of a hub data set.")
    train_split: str = Field("train", min_length=1, description="Name of the split to train on.")
    test_split: str = Field("test", min_length=1, description="Name of the split to test on.")
    text_column: str = Field("text", min_length=1, description="Name of the column with the text.")
    label_column: str = Field(
        "label", min_length=1, description="Name of the column with the label."
    )
    image_column: str = Field(
        "image", min_length=1, description="Name of the column with the image."
    )
    user_column: str = Field(
        "user",
        min_length=1,
        description="Name of the column with the user, for natural partitions.",
    )
    labels: str = Field(
        "",
        description='Label set: a number of labels, or their names separated by commas. "" '
        "reads the labels from the training data. Required for classification "
        'with data.train = "node".',
    )
    strip: Literal["none", "headers"] = Field(
        "none",
        description='"headers" removes all text before the first blank line, for example the '
        "headers of Usenet posts.",
    )
    image_side: int = Field(
        0,
        ge=0,
        description="Side in pixels that images are resized to. 0 takes the size of the model.",
    )
    evaluate_on: Literal["test", "validation"] = Field(
        "test",
        description='"validation" evaluates on a share of the training examples that no '
        "client gets. Use it to tune settings.",
    )
    holdout: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of the training examples that is held out where a share is needed.",
    )
    eval_examples: int = Field(
        0,
        ge=0,
        description="Number of test examples to evaluate on, always the same ones. 0 means all.",
    )


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
    settings : what a function is handed.
    """

    key: str
    place: str
    split: str = "train"
    config: str = ""
    optional: bool = False
    settings: DataSettings | None = None

    def __str__(self) -> str:
        return f"{self.key}={self.place!r}"

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
            if path.suffix not in READERS:
                raise DataError(
                    f"{self} ends in {path.suffix!r}; expected one of {', '.join(READERS)} "
                    "or a folder"
                )
            return [path]
        found = self._inside(path)
        if not found and not self.optional:
            raise DataError(
                f"{self}: the folder has no split {self.split!r}; expected a folder saved by "
                f"datasets' save_to_disk, or {self.split}.parquet, .jsonl, .json or .csv in it. "
                f"It holds {sorted(p.name for p in path.iterdir())[:10]}"
            )
        return found

    def identity(self) -> list[str | int]:
        """Return what tells this source from another without reading it; [] if it is missing."""
        if self.place in TEXTS:
            return [self.place, *self._texts().identity()]
        if is_own(self.place) and self.settings is not None:
            return [*own_identity(self.place), self.split, self.settings.model_dump_json()]
        if not Path(self.place).is_absolute():
            return ["hub", self.place, self.config, self.split]
        found: list[str | int] = []
        for file in self.files():
            status = file.stat()
            found += [str(file), status.st_size, status.st_mtime_ns]
        return found

    def load(self, task: str, scratch: Path, cache: Path) -> "Dataset | None":
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
            return self._texts().rows(task, cache)
        files = self.files()
        if Path(self.place).is_absolute() and not files:
            return None
        try:
            rows = self._call() if is_own(self.place) else self._read(files, scratch)
        except FedllmError:
            raise
        except Exception as error:  # each reader has its own exceptions
            raise DataError(f"{self} cannot be read: {type(error).__name__}: {error}") from error
        if rows is not None and len(rows) == 0:
            raise DataError(f"{self} holds no rows")
        return rows

    def _texts(self) -> "Texts":
        texts: Texts = built_in(self.key, self.place, TEXTS[self.place])
        return texts

    def _call(self) -> "Dataset | None":
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
        return rows

    def _read(self, files: list[Path], scratch: Path) -> "Dataset | None":
        import datasets

        if not files:
            try:
                return datasets.load_dataset(
                    self.place, self.config or None, split=self.split, cache_dir=None
                )
            except ValueError as error:
                if self.optional and "split" in str(error).lower():
                    return None
                raise
        if files[0].name == SAVED:
            return datasets.load_from_disk(str(files[0].parent))
        reader = getattr(datasets.Dataset, READERS[files[0].suffix])
        return reader([str(f) for f in files], cache_dir=str(scratch))

    def _inside(self, folder: Path) -> list[Path]:
        """Return the files of this split in a folder; a saved data set is known by its state."""
        for saved in (folder, folder / self.split):
            if (saved / SAVED).exists():
                whole = saved == folder
                # A data set saved alone has no splits: it is the training data.
                return [] if whole and self.optional else [saved / SAVED]
        for suffix in READERS:
            for pattern in (f"{self.split}{suffix}", f"{self.split}-*{suffix}"):
                found = sorted([*folder.glob(pattern), *folder.glob(f"data/{pattern}")])
                if found:
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


def source_of_train(settings: DataSettings) -> Source:
    """Return where the training examples are."""
    if is_own(settings.train):
        return Source("data.train", settings.train, "train", settings=settings)
    return Source("data.train", settings.train, settings.train_split, settings.config)


def source_of_test(settings: DataSettings) -> Source | None:
    """Return where test examples are or may be; None if a share has to be held out."""
    if is_own(settings.test):
        return Source("data.test", settings.test, "test", settings=settings)
    if settings.test:
        return Source("data.test", settings.test, settings.test_split, settings.config)
    if settings.train in (*TEXTS, NODE):
        return None
    if is_own(settings.train):
        return Source("data.train", settings.train, "test", optional=True, settings=settings)
    path = Path(settings.train)
    if path.is_file():
        # Only beside a file that is named like the split: any other neighbour may be unrelated.
        beside = path.with_name(settings.test_split + path.suffix)
        if path.stem != settings.train_split or beside == path or not beside.is_file():
            return None
        return Source("data.train", str(beside), settings.test_split)
    return Source("data.train", settings.train, settings.test_split, settings.config, optional=True)


def require_column(rows: "Dataset", key: str, column: str, source: Source) -> None:
    """Raise DataError if a column is missing, naming those there are."""
    if column not in rows.column_names:
        raise DataError(f"{key} is {column!r}, but {source} has the columns {rows.column_names}")
