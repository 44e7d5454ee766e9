"""A plan travels as words of JSON, and hostile words are refused with one kind of error."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.core.plan import Beside, ClientPlan, TopK, Work
from fedllm_app.core.support import All, Derived, Minus, Positions, Sent, Union

IDX = np.array([1, 4, 9])
SUPPORTS = st.sampled_from([All(), Derived("rank-slices", {"rank": 2}), Positions(IDX)])


@given(
    down=SUPPORTS,
    fill=st.sampled_from(["zero", "initial"]),
    train=SUPPORTS,
    up=SUPPORTS | st.builds(TopK, st.floats(0.01, 1), SUPPORTS),
    work=st.builds(Work, st.integers(0, 3), st.integers(0, 9), st.integers(0, 64)),
    keeps=st.frozensets(st.sampled_from(["optimizer", "residual"])),
)
def test_words_there_and_back(down, fill, train, up, work, keeps):
    plan = ClientPlan(down, fill, train, up, work, keeps)
    speaks = [train, up.within if isinstance(up, TopK) else up]
    if not isinstance(down, Positions) and any(isinstance(s, Positions) for s in speaks):
        with pytest.raises(ValueError, match="travel only in the payload down"):
            plan.to_json()
        return
    words = json.loads(json.dumps(plan.to_json()))
    back = ClientPlan.from_json(words)
    assert back.to_json() == words
    for mine, theirs in ((plan.down, back.down), (plan.train, back.train)):
        assert theirs == (Sent() if isinstance(mine, Positions) else mine)
    assert (back.fill, back.work, back.keeps) == (fill, work, keeps)
    assert type(back.up) is (Sent if isinstance(up, Positions) else type(up))


def test_a_plan_in_words():
    down = Positions(IDX)
    plan = ClientPlan(down=down, up=TopK(0.25, Positions(IDX.copy())), work=Work(steps=7))
    assert plan.to_json() == {
        "down": "sent",
        "fill": "zero",
        "train": "all",
        "up": {"top": 0.25, "within": "sent"},
        "work": [0, 7, 0],
        "keeps": [],
        "beside-down": {},
        "beside-up": {},
        "down-as": "values",
        "decay": 1.0,
        "rounding": "random",
        "mixing": 0.0,
    }


def test_positions_never_travel_twice():
    plan = ClientPlan(down=Positions(IDX), up=Positions(IDX[:2]))
    with pytest.raises(ValueError, match="or Derived"):
        plan.to_json()


def test_words_of_positions_need_a_payload_with_positions():
    words = ClientPlan(down=Positions(IDX), train=Positions(IDX)).to_json()
    with pytest.raises(WireError, match=r"expected ClientPlan\.to_json"):
        ClientPlan.from_json(words | {"down": "all"})


def test_vectors_beside_the_parameters_travel_as_words():
    head = Derived("tensors", {"without": ["*lora*"]}, ())
    plan = ClientPlan(
        beside_down={"control": Beside(head, "int8")}, beside_up={"control": Beside()}
    )
    words = json.loads(json.dumps(plan.to_json()))
    assert words["beside-up"] == {"control": ["all", ""]}
    assert ClientPlan.from_json(words) == plan


def test_supports_combine_in_words():
    head = Derived("tensors", {"without": ["*lora*"]})
    plan = ClientPlan(train=Union((head, Minus(All(), head))))
    assert ClientPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
GOOD = ClientPlan(up=TopK(0.5)).to_json()


@given(JSON)
def test_hostile_words(words):
    with pytest.raises(WireError):
        ClientPlan.from_json(words)


@given(st.sampled_from(sorted(GOOD)), JSON)
@example("work", [float("inf")])
@example("up", {"top": 10**400, "within": "all"})
def test_one_hostile_word(key, word):
    try:
        plan = ClientPlan.from_json(GOOD | {key: word})
    except WireError:
        return
    assert plan.fill in ("zero", "initial")
    assert all(isinstance(n, int) for n in vars(plan.work).values())
