"""What a job computes: its local steps, its batches and the examples in them."""

from typing import NamedTuple


class Effort(NamedTuple):
    """What one job computes at most.

    Attributes
    ----------
    steps : local steps.
    batches : with those that a rule computes before them, such as MimeLite's gradient at the start.
    rows : examples in these batches: the last batch of an epoch may be a short one.
    """

    steps: int
    batches: int
    rows: int
