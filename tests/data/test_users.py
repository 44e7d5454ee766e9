"""Who is measured on what: texts whole, one left to train on, and clients that never train."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import DataError
from fedllm_app.data.partition import Partition
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.users import SEEN, TRAIN, UNSEEN, set_apart


def dealt(sizes, blocks=1):
    """Return clients with so many texts of so many rows each, rows in another order than dealt."""
    starts = np.concatenate([[0], np.cumsum(sizes)]) * blocks
    order = np.arange(starts[-1])[::-1].copy()
    text_of_row = np.arange(starts[-1]) // blocks
    return Partition([f"c{i}" for i in range(len(sizes))], order, starts), text_of_row


def rows(part):
    return {name: part.rows(i).tolist() for i, name in enumerate(part.clients)}


def test_a_fifth_of_every_clients_texts_and_a_quarter_of_the_clients():
    made, texts = dealt([10, 5, 1, 4, 0], blocks=2)
    parts = set_apart(made, texts, DataSettings(client_holdout=0.2, unseen_clients=0.25))
    (away,) = parts[UNSEEN].clients
    own = rows(made)
    assert rows(parts[UNSEEN]) == {away: own[away]}
    train, seen = rows(parts[TRAIN]), rows(parts[SEEN])
    assert train.keys() == seen.keys() == own.keys() - {away}
    for name, expected in {"c0": 2, "c1": 1, "c2": 0, "c3": 1, "c4": 0}.items():
        if name != away:
            assert len(seen[name]) == 2 * expected
            assert sorted(train[name] + seen[name]) == sorted(own[name])
            assert not {texts[r] for r in train[name]} & {texts[r] for r in seen[name]}


@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=9).filter(lambda s: sum(map(bool, s)) > 1),
    st.floats(0.01, 0.99),
    st.integers(1, 3),
)
def test_nobody_loses_a_row_and_everybody_trains(sizes, share, blocks):
    made, texts = dealt(sizes, blocks)
    parts = set_apart(made, texts, DataSettings(client_holdout=share))
    train, seen = rows(parts[TRAIN]), rows(parts[SEEN])
    assert not parts[UNSEEN].clients
    for name, own in rows(made).items():
        assert sorted(train[name] + seen[name]) == sorted(own)
        assert bool(train[name]) == bool(own)
        assert bool(seen[name]) == (len(own) > blocks)


def test_a_share_of_all_clients_is_refused():
    made, texts = dealt([2, 2])
    with pytest.raises(DataError, match="leaves nobody of 2 clients to train"):
        set_apart(made, texts, DataSettings(unseen_clients=0.9))
