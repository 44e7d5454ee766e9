"""A support names one set wherever it is used, and a set is slices, not one number a coordinate."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import LAYOUT, PARAMS, P

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.region import Region, put, region_of, size_of, take
from fedllm_app.core.support import All, Derived, Draw, Minus, Positions, Sent, Union, expand

# Rank slices, heads and whole tensors of the toy layout; see toys.LAYOUT.
HEAD = Derived("tensors", {"without": ["*lora*", "attention*"]})
ONE_RANK = Derived("rank-slices", {"rank": 1})
O_COLUMNS = {"rows": [], "columns": ["attention.o*"], "heads": 2, "of": 4, "only": True}
TWO_HEADS = Derived("head-slices", O_COLUMNS, ("client",))
EVERYWHERE = Draw(0, 3, "all", "a")
SETS = st.sampled_from([HEAD, ONE_RANK, TWO_HEADS])


@given(SETS, st.sampled_from("abcdef"))
def test_values_are_taken_and_put_in_ascending_order(support, client):
    region = expand(support, LAYOUT, Draw(0, 3, "all", client))
    positions = region.positions()
    assert take(PARAMS, region).tolist() == PARAMS[positions].tolist()
    written = np.zeros(P, np.float32)
    put(written, region, take(PARAMS, region))
    assert np.flatnonzero(written).tolist() == positions.tolist()
    assert region.size == size_of(region, P) == len(positions)
    views = torch.cat([view.reshape(-1) for view in region.views(torch.from_numpy(PARAMS))])
    assert sorted(views.tolist()) == PARAMS[positions].tolist()


@given(SETS, st.integers(0, 20), st.integers(0, 20))
def test_a_part_of_a_region_is_that_part_of_its_positions(support, a, b):
    region = expand(support, LAYOUT, EVERYWHERE)
    part = slice(min(a, b), min(max(a, b), region.size))
    assert region.part(part).tolist() == region.positions()[part].tolist()


def test_a_region_of_a_large_layout_takes_no_memory_for_each_coordinate():
    layout = ParamLayout(("q.lora_B.weight", "o.weight"), ((10**6, 64), (10**4, 10**4)))
    region = expand(ONE_RANK, layout, Draw(0))
    assert region.size == 10**6 + 10**8
    assert len(region.pieces) == 2
    assert region.part(slice(10**6 - 1, 10**6 + 1)).tolist() == [64 * (10**6 - 1), 64 * 10**6]


def test_views_share_the_memory_of_the_vector():
    flat = torch.zeros(P)
    for view in expand(ONE_RANK, LAYOUT, Draw(0)).views(flat):
        view += 1
    assert flat.nonzero().reshape(-1).tolist() == [0, 1, 2, 6, 8, *range(10, 20)]


@pytest.mark.parametrize(
    ("per", "fixed", "changed"),
    [
        ((), {"round": 9, "client": "b", "group": "x"}, {"seed": 1}),
        (("round",), {"client": "b", "group": "x"}, {"round": 4}),
        (("client",), {"round": 9, "group": "x"}, {"client": "b"}),
        (("group", "round"), {"client": "b"}, {"group": "x"}),
    ],
)
def test_a_support_is_drawn_by_its_own_keys_alone(per, fixed, changed):
    layout = ParamLayout(tuple(f"t{i}" for i in range(64)), ((2,),) * 64)
    support = Derived("random-tensors", {"share": 0.5}, per)

    def drawn(**who):
        known = {"seed": 0, "round": 3, "group": "all", "client": "a"} | who
        return expand(support, layout, Draw(**known))

    assert drawn() == drawn(**fixed)
    assert drawn() != drawn(**changed)


def test_a_key_that_the_place_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="drawn per client, and is used where no client is known"):
        expand(TWO_HEADS, LAYOUT, Draw(0, 3, "all"))


def test_supports_combine():
    # The head is 10 and 11, rank 0 of the adapters 0-2, 6 and 8.
    adapters = Derived("tensors", {"without": ["head*", "attention*"]})
    both = expand(Union((HEAD, adapters)), LAYOUT, Draw(0))
    assert isinstance(both, Region)
    assert both.positions().tolist() == list(range(12))
    rest = expand(Minus(All(), HEAD), LAYOUT, Draw(0))
    assert rest.tolist() == [*range(10), *range(12, 20)]
    assert expand(Minus(Union((HEAD, adapters)), HEAD), LAYOUT, Draw(0)).positions().tolist() == (
        list(range(10))
    )
    assert expand(Union((HEAD, All())), LAYOUT, Draw(0)) is None
    mixed = expand(Union((HEAD, Positions(np.array([3, 10])))), LAYOUT, Draw(0))
    assert mixed.tolist() == [3, 10, 11]


def test_what_was_sent_is_what_came():
    came = np.array([1, 4])
    assert expand(Sent(), LAYOUT, Draw(0, sent=came)) is came


def test_the_same_set_is_known_as_such():
    a, b = (expand(HEAD, LAYOUT, Draw(seed)) for seed in (0, 1))
    assert a == b
    assert a != expand(ONE_RANK, LAYOUT, Draw(0))


@pytest.mark.parametrize(
    ("axes", "found"),
    [
        ((), range(6)),
        ((slice(0, 1),), range(3)),
        ((slice(0, 1), slice(None)), range(3)),
        ((slice(None), slice(1, 2)), [1, 4]),
        ((slice(0, 0),), []),
        ((slice(-1, None),), [3, 4, 5]),
    ],
)
def test_slices_of_a_tensor(axes, found):
    layout = ParamLayout(("a",), ((2, 3),))
    region = region_of(layout, [("a", axes)])
    assert region.positions().tolist() == list(found)
    assert region.take(np.arange(6, dtype=np.float32)).tolist() == list(found)


@pytest.mark.parametrize(
    "axes", [(slice(0, 1), slice(0, 1)), (slice(0, 2, 2),), (slice(0, 1),) * 3]
)
def test_slices_that_are_no_run_along_one_axis_are_refused(axes):
    with pytest.raises(ConfigError, match="expected one axis cut"):
        region_of(ParamLayout(("a",), ((2, 3),)), [("a", axes)])
