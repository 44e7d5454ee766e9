"""The order of tensors in one vector, and the name that two sides must share."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.core.layout import ParamLayout

AB = ParamLayout(("a", "b"), ((2, 3), (2,)))


def test_where_each_tensor_lies():
    assert AB.sizes == (6, 2)
    assert AB.offsets == (0, 6)
    assert AB.size == 8
    assert AB.span("b") == slice(6, 8)


def test_which_tensors_positions_miss():
    assert AB.missed(np.array([], np.int64)) == ["a", "b"]
    assert AB.missed(np.array([5])) == ["b"]
    assert AB.missed(np.array([6, 7])) == ["a"]
    assert AB.missed(np.array([0, 7])) == []


def test_a_scalar_tensor_has_one_entry():
    assert ParamLayout(("s",), ((),)).size == 1


def test_flatten_follows_the_layout_and_not_the_dictionary():
    tensors = {"b": torch.tensor([7.0, 8.0]), "a": torch.arange(1.0, 7).view(2, 3)}
    assert AB.flatten(tensors).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_flatten_is_a_float32_copy():
    tensors = {"a": torch.ones(2, 3, dtype=torch.bfloat16), "b": torch.ones(2)}
    flat = AB.flatten(tensors)
    flat[:] = 5
    assert flat.dtype == torch.float32
    assert tensors["b"].tolist() == [1, 1]


def test_unflatten_returns_views():
    flat = torch.arange(8.0)
    parts = AB.unflatten(flat)
    parts["b"][0] = -1
    assert list(parts) == ["a", "b"]
    assert parts["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert flat[6] == -1


@given(st.lists(hnp.array_shapes(max_dims=3, max_side=4), min_size=1, max_size=5))
def test_there_and_back(shapes):
    layout = ParamLayout(tuple(f"t{i}" for i in range(len(shapes))), tuple(shapes))
    flat = torch.arange(float(layout.size))
    assert torch.equal(layout.flatten(layout.unflatten(flat)), flat)
    covered = np.concatenate([np.arange(layout.size)[layout.span(n)] for n in layout.names])
    assert covered.tolist() == list(range(layout.size))


def test_the_hash_tells_names_shapes_and_order_apart():
    others = [
        ParamLayout(("a", "c"), ((2, 3), (2,))),
        ParamLayout(("a", "b"), ((3, 2), (2,))),
        ParamLayout(("b", "a"), ((2,), (2, 3))),
        ParamLayout(("a",), ((2, 3),)),
    ]
    assert len({AB.hash, *(o.hash for o in others)}) == 5
    assert AB.hash == ParamLayout(("a", "b"), ((2, 3), (2,))).hash
    assert len(bytes.fromhex(AB.hash)) == 16


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"a": (3, 2), "b": (2,)}, r"tensor 0 is 'a' \[3, 2\]; expected 'a' \[2, 3\]"),
        ({"a": (2, 3)}, r"tensor 1 'b' \[2\] is missing"),
        ({"b": (2,)}, r"tensor 0 is 'b' \[2\]; expected 'a' \[2, 3\]"),
    ],
)
def test_flatten_names_the_first_difference(tensors, why):
    with pytest.raises(WireError, match=why):
        AB.flatten({name: torch.zeros(shape) for name, shape in tensors.items()})


def test_first_difference_of_a_longer_and_of_the_same_layout():
    longer = ParamLayout(("a", "b", "c"), ((2, 3), (2,), (1,)))
    assert AB.first_difference(longer) == "tensor 2 'c' [1] is not expected"
    assert AB.first_difference(AB) == "the layouts are the same"


def test_unflatten_refuses_another_length():
    with pytest.raises(WireError, match="has 7 entries; expected 8"):
        AB.unflatten(torch.zeros(7))
