"""Where the training and the test examples of a run are, by the settings."""

from pathlib import Path

from fedllm_app.core.errors import DataError
from fedllm_app.data.formats import stem_of, suffix_of
from fedllm_app.data.own import is_own
from fedllm_app.data.settings import NODE, TEST, TEXTS, DataSettings
from fedllm_app.data.source import Source


def source_of_train(settings: DataSettings) -> Source:
    """Return where the training examples are."""
    if is_own(settings.train):
        return Source("data.train", settings.train, "train", settings=settings)
    return Source(
        "data.train", settings.train, settings.train_split, settings.config, settings=settings
    )


def source_of_test(settings: DataSettings) -> Source | None:
    """Return where test examples are or may be; None if a share has to be held out.

    Raises
    ------
    DataError
        If a split is named that the training examples have nowhere beside them.
    """
    if is_own(settings.test):
        return Source("data.test", settings.test, TEST, settings=settings)
    if settings.test:
        return Source(
            "data.test", settings.test, settings.test_split, settings.config, settings=settings
        )
    if settings.train in (*TEXTS, NODE):
        return None
    if is_own(settings.train):
        return Source("data.train", settings.train, TEST, "", True, settings, beside=True)
    # A split that is named must be there; the usual one may be missing.
    optional, path = settings.test_split == TEST, Path(settings.train)
    if path.is_file():
        # Only beside a file that is named like the split: any other neighbour may be unrelated.
        beside = path.with_name(settings.test_split + suffix_of(path))
        if stem_of(path) == settings.train_split and beside != path and beside.is_file():
            place, split = str(beside), settings.test_split
            return Source("data.train", place, split, settings=settings, beside=True)
        if not optional:
            raise DataError(
                f"data.test-split is {settings.test_split!r}, and beside data.train = "
                f"{settings.train!r} there is no {beside.name}; name a file in data.test, or leave "
                "data.test-split out to hold out data.holdout of the training examples"
            )
        return None
    return Source(
        "data.train", settings.train, settings.test_split, settings.config, optional, settings,
        beside=True,
    )  # fmt: skip
