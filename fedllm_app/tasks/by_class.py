"""How each class fared in an evaluation, from the sums that its metrics are made of.

Shapes: C labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedllm_app.tasks.base import Tally

NEEDED = ("tp", "fp", "fn")


def by_class(tally: Tally, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return label, examples, correct and predicted of each class that occurs in an evaluation.

    Parameters
    ----------
    tally : of all batches; [] comes of one without int64 arrays tp, fp and fn of shape (C,), which
        tasks of one label per example have.
    labels : names, by number.
    """
    if not labels or not all(
        len(np.atleast_1d(tally.get(key, ()))) == len(labels) for key in NEEDED
    ):
        return []
    rows = zip(labels, *(np.asarray(tally[key]).tolist() for key in NEEDED), strict=True)
    return [
        {"label": str(label), "examples": tp + fn, "correct": tp, "predicted": tp + fp}
        for label, tp, fp, fn in rows
        if tp + fn
    ]
