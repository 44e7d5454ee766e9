"""Marks: any part of their positions, whatever their density, as a list would give it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.region import Piece, Region
from fedllm_app.wire import marks
from fedllm_app.wire.marks import Marks, listed, mask_of


@given(st.integers(1, 300), st.sampled_from([0, 0.01, 0.3, 1]), st.integers(0, 99), st.data())
def test_every_part_is_that_of_the_list(P, density, seed, data):
    flat = np.random.default_rng(seed).random(P) < density
    positions = np.flatnonzero(flat)
    start = data.draw(st.integers(0, positions.size))
    stop = data.draw(st.integers(start, positions.size + 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marks, "BLOCK", 16)
        found = Marks.of(flat)
        assert found.size == positions.size
        assert found.part(slice(start, stop)).tolist() == positions[start:stop].tolist()
        assert found.positions().tolist() == positions.tolist()
        assert found.part(slice(start, stop)).dtype == found.positions().dtype == np.int64


def test_every_kind_of_set_is_the_same_mask():
    region = Region((Piece(2, 1, 6, 1, ((0, 2), (3, 4))),))
    positions = region.positions()
    for where in (region, positions, Marks.of(mask_of(positions, 9))):
        assert np.flatnonzero(mask_of(where, 9)).tolist() == [2, 3, 5]
    assert mask_of(None, 3).tolist() == [True] * 3
    assert listed(None) is None
    assert listed(Marks.of(mask_of(positions, 9))).tolist() == [2, 3, 5]
