"""The header, field by field: each lie is refused under its own name."""

import numpy as np
import pytest

from fedllm_app.core.errors import WireError
from fedllm_app.wire.codec import encode
from fedllm_app.wire.header import BITMAP, Origin, read_header


def payload(positions=(1, 2), P=10):
    return encode(
        np.ones(len(positions), np.float32),
        np.array(positions),
        Origin(P, "ab" * 16, "cd" * 16),
        value_type="fp32",
        block=256,
    )


@pytest.mark.parametrize(
    ("offset", "data", "why"),
    [
        (0, b"ZIP!", "starts with b'ZIP!'"),
        (4, b"\x02", "wire version is 2; expected 1"),
        (5, b"\x06", "mode is 6"),
        (5, b"\x00", "expected P=10"),
        (5, b"\x01", "'derived' has 1 bytes of positions"),
        (6, b"\x18", "value type is 24"),
        (7, b"\x03", "log2 of block is 3"),
        (7, b"\xff", "log2 of block is 255"),
        (8, b"\x00", "P is 0"),
        (8, b"\xff" * 8, "P is 18446744073709551615"),
        (16, b"\x0b", "K is 11; expected at most P=10"),
        (16, b"\xff" * 8, "expected at most P=10"),
        (16, b"\x0a", "expected mode 'all'"),
        (16, b"\x03", "its header says"),
        (56, b"\xff\xff\xff\xff", "its header says"),
        (61, b"\x02", "expected zeros"),
        (62, b"\x01", "has 1 stretches in mode"),
    ],
)
def test_a_lie_is_named(offset, data, why):
    hostile = payload()
    hostile[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
    with pytest.raises(WireError, match=why):
        read_header(hostile)


@pytest.mark.parametrize("offset", [60, 61])
def test_rice_fields_are_zero_in_a_bitmap(offset):
    hostile = payload((0, 2, 5, 7), 8)
    assert read_header(hostile).mode == BITMAP
    hostile[offset] = 1
    with pytest.raises(WireError, match="'bitmap' has Rice parameter"):
        read_header(hostile)


@pytest.mark.parametrize("cut", [0, 10, 63, 64, -1])
def test_a_cut_payload_is_refused(cut):
    with pytest.raises(WireError, match="payload has"):
        read_header(payload()[:cut])


def test_trailing_bytes_are_refused():
    with pytest.raises(WireError, match="its header says"):
        read_header(np.append(payload(), np.uint8(0)))


@pytest.mark.parametrize("array", [np.zeros(80), np.zeros((2, 80), np.uint8)])
def test_only_a_row_of_bytes_is_a_payload(array):
    with pytest.raises(WireError, match="expected uint8 of one dimension"):
        read_header(array)
