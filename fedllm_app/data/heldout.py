"""Which examples are kept from training and which are evaluated, and in which order.

Both depend on the data alone, not on the run's seed: runs that differ in their seed are measured on
the same examples.
"""

import numpy as np

from fedllm_app.core.errors import DataError
from fedllm_app.core.seeds import generator
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.table import Rows, Table


def hold_out(train: Table, data: DataSettings, no_test: bool) -> tuple[Rows, Rows]:
    """Return the rows to evaluate on and the rows to train on, where train has to serve both.

    Whole texts are held out, not blocks of them. A validation share is taken beside the share that
    stands in for a missing test set, so that tuning never sees the latter.

    Parameters
    ----------
    train : prepared rows with the text each came from in source_row.
    data : holdout and evaluate_on.
    no_test : whether train has to stand in for a missing test set.

    Raises
    ------
    DataError
        If nothing is left to train on.
    """
    validate = data.evaluate_on == "validation"
    if not (no_test or validate):
        return np.zeros(0, np.int64), np.arange(len(train))
    texts, text_of_row = np.unique(train.numbers("source_row"), return_inverse=True)
    size = max(1, round(len(texts) * data.holdout))
    order = generator("held-out examples").permutation(len(texts))
    test, validation = (size if no_test else 0), (size if validate else 0)
    part = np.full(len(texts), 2)
    part[order[: test + validation]] = 0
    if test and validation:
        part[order[:test]] = 1  # neither trained on nor, this time, evaluated on
    kept = np.flatnonzero(part[text_of_row] == 2)
    if not len(kept):
        raise DataError(
            f"data.holdout={data.holdout!r} leaves no training example of {len(texts)}; expected "
            "a smaller share"
        )
    return np.flatnonzero(part[text_of_row] == 0), kept


def evaluation_order(dataset: Table, rows: Rows, data: DataSettings) -> Rows:
    """Return a fixed subset of the rows, of `data.eval_examples`, shortest text first."""
    if 0 < data.eval_examples < len(rows):
        rows = generator("evaluated examples").choice(rows, data.eval_examples, replace=False)
    rows = np.sort(rows)
    if "input_ids" in dataset.column_names:
        rows = rows[np.argsort(dataset.numbers("input_ids")[rows], kind="stable")]
    return rows
