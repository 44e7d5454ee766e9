"""The sums that a device says it measured, checked: they come from a machine that may say anything.

Shapes: C labels.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.tasks.base import Tally

TOTAL = "total"  # a number of 0 or more, such as a loss summed over units
COUNT = "count"  # how many of the units, as "units" itself
BY_LABEL = "by label"  # how many of the units, for each of the C labels
MOST_TOTAL = 1e100  # far above any loss, and the sum over all devices stays finite

OF_TOKENS = {"loss_sum": TOTAL, "correct": COUNT, "units": COUNT}
OF_LABELS = OF_TOKENS | {"tp": BY_LABEL, "fp": BY_LABEL, "fn": BY_LABEL}


def checked_sums(
    kinds: Mapping[str, str], sums: Mapping[str, Any], most_units: int, labels: int
) -> Tally:
    """Return the sums of one client as a tally.

    Parameters
    ----------
    kinds : `TaskKind.sums`.
    sums : what came.
    most_units : the most that its examples can have.
    labels : C.

    Raises
    ------
    WireError
        If a sum is missing, unknown or no number, or counts more than the client has.
    """
    if sums.keys() != kinds.keys():
        came = str(sorted(sums))[:200]
        raise WireError(f"the sums {came} came; expected {sorted(kinds)}")
    units: Any = sums.get("units")
    if not _is_count(units, most_units):
        raise WireError(f"units is {str(units)[:40]}; expected 0 to {most_units:,}")
    return {name: _checked(name, kinds[name], value, units, labels) for name, value in sums.items()}


def _checked(name: str, kind: str, value: Any, units: int, labels: int) -> Any:
    """Return one sum as a tally has it; WireError if it is not what its kind says."""
    if kind == TOTAL:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= MOST_TOTAL:
            lost = isinstance(value, float) and not math.isfinite(value)
            reason: Literal["non-finite", "malformed"] = "non-finite" if lost else "malformed"
            raise WireError(f"{name} is {str(value)[:40]}; expected 0 to {MOST_TOTAL:g}", reason)
        return float(value)
    if kind == COUNT:
        if not _is_count(value, units):
            raise WireError(f"{name} is {str(value)[:40]}; expected 0 to {units:,}, its units")
        return value
    if not isinstance(value, list) or len(value) != labels:
        raise WireError(f"{name} is not a list of {labels} counts, one for each label")
    if not all(_is_count(one, units) for one in value) or sum(value) > units:
        raise WireError(f"{name} has more than {units:,} in all, its units, or less than 0")
    return np.array(value, np.int64)


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
