"""Payloads of whole numbers at fixed positions: their lengths and digests are facts that stay.

A change of any byte would make yesterday's clients foreign; it needs a new wire version.
"""

from hashlib import blake2b

import numpy as np
import pytest

from fedllm_app.core.layout import ParamLayout
from fedllm_app.wire.codec import decode, encode
from fedllm_app.wire.header import MODES, Origin, read_header
from fedllm_app.wire.slices import slices_of

P = 200_000
# One adapter of rank 8 whose ranks differ in density, a bias.
LAYOUT = ParamLayout(
    ("q.lora_A.weight", "q.lora_B.weight", "head.bias"), ((8, 12_000), (12_000, 8), (8_000,))
)
NUMBER_P = np.arange(P, dtype=np.int64)
# Every whole block of 256 holds a 127 and a -127, so that int8 keeps them all and draws nothing.
VALUES_P = (NUMBER_P * 37 % 255 - 127).astype(np.float32)


def spread(part):
    """Return positions of this density, as good as random and the same on every machine."""
    return np.flatnonzero(NUMBER_P * 2654435761 % (1 << 32) < part * (1 << 32))


SUPPORTS = {
    "all": None,
    "half": spread(0.5),
    "a third": spread(0.38),
    "few": spread(0.01),
    "nearly all": np.delete(NUMBER_P, [3, 77_777]),
    "one rank": NUMBER_P[24_000:36_000:2],
}
# (positions, value type, derived) -> mode, bytes, digest
GOLDEN = {
    ("all", "fp32", False): ("all", 800064, "f32d16db5fda204197d9608ef23460ba"),
    ("half", "fp32", False): ("bitmap", 425060, "adfc0a7905d8fd752d4826c03b4edc60"),
    ("a third", "fp32", False): ("rice", 329015, "0e4a9100076c4598062a3630b4efa29d"),
    ("few", "fp32", False): ("rice", 10093, "668b50c0eb35c1fc361fe3ed5a37fa2f"),
    ("nearly all", "fp32", False): ("marked", 800064, "abf0f25fd1e9454d8ee47c7e601c5f2d"),
    ("one rank", "fp32", False): ("sliced", 25578, "85164da61f412b38a7238feded60073c"),
    ("half", "fp32", True): ("derived", 400060, "37d0bb7c68bbb3ceca10b42bd7db9911"),
    ("all", "fp16", False): ("all", 400064, "68cfa374af2a50786f7b8aef228d35dc"),
    ("all", "bf16", False): ("all", 400064, "8e1fb8817abcddd9411f5fdef8359cb4"),
    ("all", "int8", False): ("all", 203192, "761cd249626c2131d134c810026fd087"),
    ("nearly all", "fp16", False): ("marked", 400064, "eb9e2d543bf808ab35d7afae1c57aab5"),
    ("nearly all", "int8", False): ("marked", 203192, "fe7f8ca06153c1a2cba127431d29ebb2"),
    ("few", "bf16", False): ("rice", 6095, "2ca7560e918e2677e7f30f7ad1ae726a"),
}


@pytest.mark.parametrize(("name", "value_type", "derived"), GOLDEN)
def test_bytes(name, value_type, derived):
    positions = SUPPORTS[name]
    values = VALUES_P if positions is None else VALUES_P[positions]
    origin = Origin(P, "ab" * 16, "cd" * 16, slices_of(LAYOUT))
    payload = encode(
        values, positions, origin, value_type=value_type, block=256, derived=derived,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    digest = blake2b(payload.tobytes(), digest_size=16).hexdigest()
    mode = MODES[read_header(payload).mode]
    assert (mode, payload.size, digest) == GOLDEN[name, value_type, derived]
    got = decode(payload, origin, derived=positions)
    assert np.array_equal(got.values, values)
    assert positions is None or np.array_equal(got.positions, positions)
