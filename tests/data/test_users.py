"""Who is measured on what: texts whole, one left to train on, and clients that never train."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import DataError
from fedllm_app.data.partition import Partition
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.users import (
    SEEN,
    TRAIN,
    UNSEEN,
    Measured,
    drawn,
    in_order,
    is_unseen,
    own_rows,
    set_apart,
)


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


def test_a_client_has_the_same_split_alone_and_among_others():
    made, texts = dealt([10, 5, 1, 4, 0], blocks=2)
    parts = set_apart(made, texts, DataSettings(client_holdout=0.3))
    for i, name in enumerate(made.clients):
        own = np.sort(made.rows(i))  # a file has its texts in their order
        train, held = own_rows(name, texts[own], DataSettings(client_holdout=0.3))
        assert sorted(parts[TRAIN].rows(i)) == own[train].tolist()
        assert sorted(parts[SEEN].rows(i)) == own[held].tolist()


def test_who_is_held_out_is_pinned():
    # Runs of this version hold out the same on every machine and after every upgrade.
    _, held = own_rows("alice", np.arange(10), DataSettings(client_holdout=0.3))
    assert held.tolist() == [0, 7, 9]
    assert is_unseen("alice", DataSettings(unseen_clients=0.17))
    assert not is_unseen("alice", DataSettings(unseen_clients=0.16))


def test_every_text_is_held_out_as_often():
    names = [f"c{i}" for i in range(2000)]
    held = [own_rows(n, np.arange(5), DataSettings(client_holdout=0.4))[1] for n in names]
    counts = np.bincount(np.concatenate(held), minlength=5)
    assert counts.sum() == 4000
    assert np.all(np.abs(counts - 800) < 5 * np.sqrt(2000 * 0.4 * 0.6))  # five standard deviations
    assert abs(drawn("any", names).mean() - 0.5) < 0.05


def test_those_who_are_measured_stay_when_others_come_and_go():
    names = [f"c{i}" for i in range(9)]
    order = [names[i] for i in in_order(names)]
    fewer = [name for name in names if name != order[2]]
    assert [fewer[i] for i in in_order(fewer)] == order[:2] + order[3:]
    made, _ = dealt([3] * 9)
    chosen = [client for client, _ in Measured(None, made).chosen(4)]
    assert chosen == sorted(order[:4])
