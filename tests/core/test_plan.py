"""A plan travels as words of JSON, and hostile words are refused with one kind of error."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.core.plan import All, ClientPlan, Derived, Positions, TopK, Work

IDX = np.array([1, 4, 9])
SUPPORTS = st.sampled_from([All(), Derived("rank-slices", {"rank": 2}), Positions(IDX)])


@given(
    down=SUPPORTS,
    fill=st.sampled_from(["zero", "keep"]),
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
            plan.words()
        return
    words = json.loads(json.dumps(plan.words()))
    back = ClientPlan.from_words(words, IDX)
    assert back.words() == words
    for mine, theirs in ((plan.down, back.down), (plan.train, back.train)):
        assert type(mine) is type(theirs)
        if isinstance(theirs, Positions):
            assert theirs.idx is IDX
    assert (back.fill, back.work, back.keeps) == (fill, work, keeps)
    assert type(back.up) is type(up)


def test_a_plan_in_words():
    down = Positions(IDX)
    plan = ClientPlan(down=down, up=TopK(0.25, Positions(IDX.copy())), work=Work(steps=7))
    assert plan.words() == {
        "down": "sent",
        "fill": "zero",
        "train": "all",
        "up": {"top": 0.25, "within": "sent"},
        "work": [0, 7, 0],
        "keeps": [],
    }


def test_positions_never_travel_twice():
    plan = ClientPlan(down=Positions(IDX), up=Positions(IDX[:2]))
    with pytest.raises(ValueError, match="or Derived"):
        plan.words()


def test_words_of_positions_need_a_payload_with_positions():
    words = ClientPlan(down=Positions(IDX)).words()
    with pytest.raises(WireError, match="positions sent, and the payload has none"):
        ClientPlan.from_words(words, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
GOOD = ClientPlan(up=TopK(0.5)).words()


@given(JSON)
def test_hostile_words(words):
    with pytest.raises(WireError):
        ClientPlan.from_words(words, IDX)


@given(st.sampled_from(sorted(GOOD)), JSON)
@example("work", [float("inf")])
@example("up", {"top": 10**400, "within": "all"})
def test_one_hostile_word(key, word):
    try:
        plan = ClientPlan.from_words(GOOD | {key: word}, IDX)
    except WireError:
        return
    assert plan.fill in ("zero", "keep")
    assert all(isinstance(n, int) for n in vars(plan.work).values())
