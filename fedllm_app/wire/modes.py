"""How the positions of a payload are written: the choice among the modes, and the way back.

Shapes: P flat trainable parameters, K coordinates sent.
"""

from dataclasses import dataclass

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.core.region import Where
from fedllm_app.wire import positions as where
from fedllm_app.wire.header import ALL, BITMAP, DERIVED, MARKED, RICE, SLICED, Header
from fedllm_app.wire.marks import Sent
from fedllm_app.wire.sliced import decode_sliced, encode_sliced
from fedllm_app.wire.slices import Origin


@dataclass(frozen=True, eq=False)
class Written:
    """The positions of a payload as bytes.

    Attributes
    ----------
    mode : of the payload.
    section : uint8.
    rice : the parameters of mode "rice".
    """

    mode: int
    section: np.ndarray
    rice: where.Rice | None = None


def write_positions(
    positions: np.ndarray | None, origin: Origin, derived: bool, marked: float
) -> Written:
    """Return mode and positions of the smallest payload; the simpler of equal ones.

    Parameters
    ----------
    positions : ascending, shape (K,); None where all are sent or the receiver derives them.
    marked : bytes by which a section that marks what is not sent is longer than one of K values.
    """
    P, nothing = origin.P, np.zeros(0, dtype=np.uint8)
    if positions is None or derived or positions.size == P:
        return Written(DERIVED if derived else ALL, nothing)
    rice, bitmap = where.encode_rice(positions, P), where.bitmap_bytes(P)
    if origin.slices is not None:
        section = encode_sliced(
            positions, origin.slices, P, int(min(marked, bitmap, rice.data.size))
        )
        if section is not None:
            return Written(SLICED, section)
    if rice.data.size < min(marked, bitmap):
        return Written(RICE, rice.data, rice)
    if marked < bitmap:
        return Written(MARKED, nothing)
    return Written(BITMAP, where.encode_bitmap(positions, P))


def read_positions(header: Header, section: np.ndarray, origin: Origin, derived: Where) -> Sent:
    """Return the set that a payload names, in any mode but "marked".

    Raises
    ------
    WireError
        If the section is not what an encoder writes for the header's K of P.
    """
    if header.mode == BITMAP:
        return where.decode_bitmap(section, origin.P, header.K)
    if header.mode == RICE:
        rice = where.Rice(header.rice_k, header.shortened, section)
        return where.decode_rice(rice, origin.P, header.K)
    if header.mode == SLICED:
        if origin.slices is None:
            raise WireError("positions are by slice; this receiver was not told how it is cut")
        return decode_sliced(section, origin.slices, origin.P, header.K)
    return derived if header.mode == DERIVED else None
