"""Supports that both sides expand alike, on a layout small enough to list (toys.LAYOUT)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import LAYOUT, P

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.lora import lora_rank_axis, with_rank
from fedllm_app.core.rules import RULES
from fedllm_app.core.support import All, Derived, Draw, Positions, expand

HEADS = {"rows": ["attention.q*"], "columns": ["attention.o*"], "heads": 1, "of": 2}


BOTH = ("round", "client")


def positions(rule, client="a", job=1, seed=0, **args):
    region = expand(Derived(rule, args, BOTH), LAYOUT, Draw(seed, job, "all", client))
    return region.positions().tolist()


def test_all_is_none_and_positions_are_themselves():
    idx = np.array([3, 5])
    assert expand(All(), LAYOUT, Draw(0)) is None
    assert expand(Positions(idx), LAYOUT, Draw(0)) is idx


def test_tensors_leaves_out_what_matches():
    assert positions("tensors", without=["*lora_A*"]) == list(range(6, 20))
    assert positions("tensors", without=["*lora_?.*", "head*"]) == list(range(12, 20))
    assert positions("tensors") == list(range(20))
    assert positions("tensors", without=["*"]) == []


def test_rank_slices_are_rows_of_a_and_columns_of_b():
    others = list(range(10, 20))
    assert positions("rank-slices", rank=1) == [0, 1, 2, 6, 8, *others]
    assert positions("rank-slices", rank=2) == list(range(20))


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("x.lora_A.weight", 0),
        ("x.lora_B.weight", 1),
        # PEFT's adapters of embeddings are (R, V) and (D, R), named without ".weight".
        ("x.lora_embedding_A", 0),
        ("x.lora_embedding_B", 1),
        ("head.weight", None),
    ],
)
def test_the_axis_of_the_rank(name, axis):
    assert lora_rank_axis(name) == axis


def test_head_slices_are_rows_of_q_and_columns_of_o():
    head_0, head_1 = [12, 13, 16, 17], [14, 15, 18, 19]
    drawn = [positions("head-slices", client=str(i), only=True, **HEADS) for i in range(20)]
    assert {tuple(d) for d in drawn} == {tuple(head_0), tuple(head_1)}
    both = positions("head-slices", **(HEADS | {"heads": 2}))
    assert both == list(range(20))
    rest = positions("head-slices", **HEADS)
    assert rest[:12] == list(range(12))
    assert rest[12:] in (head_0, head_1)


def test_random_tensors_are_whole_and_within_the_share():
    spans = [set(range(LAYOUT.span(n).start, LAYOUT.span(n).stop)) for n in LAYOUT.names]
    drawn = [set(positions("random-tensors", client=str(i), share=0.5)) for i in range(30)]
    for chosen in drawn:
        assert all(span <= chosen or not span & chosen for span in spans)
        assert 0 < len(chosen) <= P / 2
    assert len({frozenset(chosen) for chosen in drawn}) > 5
    # At least one tensor, and all of them.
    assert set(positions("random-tensors", share=0.0)) in spans
    assert positions("random-tensors", share=1.0) == list(range(20))


def test_what_is_always_trained_counts_towards_the_share():
    # The head is 10 and 11, two of 20; half of all leaves eight, and no other tensor has more.
    head, rest = {10, 11}, set(range(20)) - {10, 11}
    how = {"share": 0.5, "always": ["head*"]}
    drawn = [set(positions("random-tensors", client=str(i), **how)) for i in range(30)]
    assert all(head < chosen and len(chosen) <= 10 for chosen in drawn)
    assert set().union(*drawn) == head | rest
    # One other tensor is trained whatever the share is.
    small = set(positions("random-tensors", share=0.05, always=["head*"]))
    assert head < small
    assert small - head in [set(range(a, b)) for a, b in ((0, 6), (6, 10), (12, 16), (16, 20))]
    assert set(positions("random-tensors", share=0.05, always=["*"])) == set(range(20))


def test_fragments_are_every_so_manieth_layer_and_together_all():
    layout = ParamLayout(
        ("embed", "layers.0.w", "layers.1.w", "layers.2.w", "layers.2.b", "norm"),
        ((2,), (2, 2), (2, 2), (2, 2), (1,), (1,)),
    )

    def part(number):
        support = Derived("fragment", {"of": 2, "number": number}, ())
        return expand(support, layout, Draw(0)).positions().tolist()

    assert part(0) == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]
    assert part(1) == [6, 7, 8, 9]


@given(st.sampled_from(sorted(RULES)), st.integers(0, 99), st.integers(0, 99), st.text(max_size=3))
def test_both_sides_expand_alike(rule, seed, job, client):
    args = {"without": ["head*"], "rank": 1, "share": 0.4, "number": 0} | HEADS
    support, draw = Derived(rule, args, BOTH), Draw(seed, job, "all", client)
    mine = expand(support, LAYOUT, draw).positions()
    assert mine.dtype == np.int64
    assert (np.diff(mine) > 0).all()
    assert np.array_equal(mine, expand(support, LAYOUT, draw).positions())


def test_the_draw_depends_on_seed_job_and_client():
    def drawn(**who):
        return [
            positions("random-tensors", share=0.5, **({"client": "a"} | who | {"job": j}))
            for j in range(8)
        ]

    assert drawn() == drawn()
    assert drawn() != drawn(seed=1)
    assert drawn() != drawn(client="b")
    assert len({str(d) for d in drawn()}) > 1


def test_an_unknown_rule_lists_the_known():
    with pytest.raises(ConfigError, match=r"'tensor'; expected one of .*rank-slices.*tensors"):
        positions("tensor")


def test_another_rank_changes_adapters_alone():
    other = with_rank(LAYOUT, 5)
    assert dict(zip(other.names, other.shapes, strict=True)) == dict(
        zip(LAYOUT.names, LAYOUT.shapes, strict=True)
    ) | {"q.lora_A.weight": (5, 3), "q.lora_B.weight": (2, 5)}
    assert with_rank(other, 2) == LAYOUT
