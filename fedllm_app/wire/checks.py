"""What an update must be before it is written, and what a payload must be beside well-formed.

Shapes: P flat trainable parameters, K coordinates sent.
"""

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.core.region import Where
from fedllm_app.wire import positions as where
from fedllm_app.wire.header import (
    ALL,
    BITMAP,
    BLOCKS,
    DERIVED,
    MARKED,
    MODES,
    MOST_P,
    RICE,
    SLICED,
    Header,
)
from fedllm_app.wire.quantize import ALL_TYPES


def check_arguments(
    values_K: np.ndarray,
    positions: np.ndarray | None,
    P: int,
    value_type: str,
    block: int,
    derived: bool,
) -> None:
    """Raise WireError if an update cannot be written: its receiver would refuse it."""
    if value_type not in ALL_TYPES or block not in BLOCKS:
        raise WireError(
            f"value type {value_type!r}, block {block!r}; expected one of {ALL_TYPES} and a "
            "power of two from 16 to 65536"
        )
    if values_K.ndim != 1 or not 1 <= P <= MOST_P or values_K.size > P:
        raise WireError(f"values have shape {values_K.shape}; expected at most P={P} in a row")
    if positions is not None:
        where.check_positions(positions, P)
        if positions.size != values_K.size:
            raise WireError(f"{values_K.size} values for {positions.size} positions")
    elif not derived and values_K.size != P:
        raise WireError(f"{values_K.size} values without positions; expected all P={P}")


def check_expected(
    header: Header,
    expect: str,
    count: int | None,
    derived: Where,
    value_type: str | None,
) -> None:
    """Raise WireError if the support or the value type is not what the plan asked for."""
    # Explicit positions of all P coordinates are written as mode "all".
    accepted = {
        "any": range(len(MODES)),
        "all": (ALL,),
        "explicit": (ALL, BITMAP, RICE, MARKED, SLICED),
        "derived": (DERIVED,),
    }[expect]
    if header.mode not in accepted:
        raise WireError(f"mode is {MODES[header.mode]!r}; expected {expect} positions")
    if header.mode == DERIVED:
        if derived is None:
            raise WireError("payload has derived positions; this receiver has none to derive")
        if header.K != derived.size:
            raise WireError(f"K is {header.K}; the derived support has {derived.size} positions")
    if count is not None and header.K != count:
        raise WireError(f"K is {header.K}; expected {count} coordinates")
    if value_type is not None and header.value_type != value_type:
        raise WireError(
            f"value type is {header.value_type!r}; expected {value_type!r} (wire.up-values, "
            "wire.down-values)"
        )
