"""Every method of the table "A method is a plan", walked through device, codec, mean and step.

The real client code trains a toy model whose gradients are given, the real intake decodes and
folds, the real optimizer steps. Local SGD takes one step of size 1, so that a client's delta is
its slope wherever its plan lets it train; with a server SGD of 1 a parameter falls by the mean.

Shapes: P = 20 trainable parameters, holding 1 to 20; see toys.LAYOUT for who lies where.
"""

import numpy as np
import pytest
from toys import LAYOUT, PARAMS, P, at
from walk import Walk

from fedllm_app.core.plan import ClientPlan, RoundPlan
from fedllm_app.core.support import All, Derived, Draw, expand
from fedllm_app.wire.codec import HEADER_BYTES, dense_bytes

A, B, HEAD = range(6), range(6, 10), range(10, 12)
SLOPES = {"a": np.full(P, 1, np.float32), "b": np.full(P, 3, np.float32)}


def everyone(plan, **how):
    """Return the plan function of a method with one group and no state."""
    return lambda inputs, state: (
        RoundPlan({"all": plan}, dict.fromkeys(inputs.cohort, "all"), **how),
        state,
    )


def moved(walk):
    return np.flatnonzero(walk.params != walk.before).tolist()


DENSE = {
    "dense LoRA": ({"optimizer": "adam", "lr": 0.5}, {}),
    "FedAvg": ({"lr": 1.0}, {}),
    "Photon": ({"lr": 1.0, "momentum": 0.5, "nesterov": True}, {}),
    "DiLoCo": ({"lr": 0.5, "momentum": 0.5, "nesterov": True}, {"keep_optimizer": True}),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_methods_send_train_and_step_everything(tmp_path, name):
    server, client = DENSE[name]
    walk = Walk(tmp_path, everyone(ClientPlan()), SLOPES, server=server, momentum=0.5, **client)
    one = walk.play()
    for c in SLOPES:
        assert one.copies[c].tolist() == PARAMS.tolist()
        assert one.updates[c] == dict(enumerate(SLOPES[c].tolist()))
        assert one.down[c].size == one.up[c].total == dense_bytes(P) == 64 + 4 * P
    assert moved(one) == list(range(P))
    # The mean slope is 2. Adam's first step is its learning rate; Nesterov's is lr * 1.5 * mean.
    step = {"dense LoRA": 0.5, "FedAvg": 2, "Photon": 3, "DiLoCo": 1.5}[name]
    np.testing.assert_allclose(one.params, PARAMS - step, rtol=0, atol=1e-6)
    # The second delta of a kept momentum of 0.5 is 1.5 slopes; where it is not kept, 1.
    two = walk.play()
    assert two.updates["b"][0] == (4.5 if client else 3)


def test_floss(tmp_path):
    slopes = {
        "a": at({0: -100, 1: 8, 2: 8, 3: 8, 4: 6, 5: 1}),
        "b": at({4: 2, 5: 2, 6: 4, 7: 4, 8: 4, 9: 1}),
    }
    walk = Walk(tmp_path, "floss", slopes)
    one = walk.play()
    # Sent down: the five largest; the rest of the copy is zero, and is trained all the same.
    assert one.copies["a"].tolist() == [0] * 15 + [16, 17, 18, 19, 20]
    assert one.trained["a"][1] == -8
    # Each sends its own five largest changes, measured against the copy it started from.
    assert one.updates["a"] == {0: -100, 1: 8, 2: 8, 3: 8, 4: 6}
    assert one.updates["b"] == {4: 2, 5: 2, 6: 4, 7: 4, 8: 4}
    # The mean is over the cohort of two, also where one sent.
    change = one.before - one.params
    assert change.tolist() == [-50, 4, 4, 4, 4, 1, 2, 2, 2, *[0] * 11]
    # The mask is taken afresh: coordinate 0 is 51 now and pushes 16 out.
    two = walk.play()
    assert two.copies["b"].tolist() == [51, *[0] * 15, 17, 18, 19, 20]


def test_floss_tiers(tmp_path):
    slopes = {c: np.arange(P, 0, -1, dtype=np.float32) for c in "012"}
    # A client's tier is its number modulo the tiers: 0 and 2 are in the first.
    walk = Walk(tmp_path, "floss-tiers", slopes, strategy={"tier_densities": "1/10,1/4"})
    one = walk.play()
    assert np.flatnonzero(one.copies["0"]).tolist() == [18, 19]
    assert np.flatnonzero(one.copies["1"]).tolist() == [15, 16, 17, 18, 19]
    assert one.updates["0"] == {0: 20, 1: 19}
    assert one.updates["1"] == {0: 20, 1: 19, 2: 18, 3: 17, 4: 16}
    # One payload per group, the same bytes for its clients.
    assert one.down["0"] is one.down["2"]
    assert one.down["0"].size < one.down["1"].size
    np.testing.assert_allclose((one.before - one.params)[:6], [20, 19, 6, 17 / 3, 16 / 3, 0])
    # What is evaluated is the dense tier's next copy: 1 - 20 and 2 - 19 are among its largest.
    served = dict(enumerate(walk.loop.served().values.tolist()))
    assert {i: v for i, v in served.items() if v} == {0: -19, 1: -17, 17: 18, 18: 19, 19: 20}


# What a mask keeps of 20 in the two rounds after the dense one, and what becomes of the rest.
MASKS = {
    "fed-select": ({"density": 0.25}, [5, 5], "leave"),
    "adapter-lth": ({"decay": 0.5}, [10, 5], "zero"),
    "sparse-adapter": ({"density": 0.5}, [10, 10], "zero"),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_rule_what_is_sent_trained_and_stepped(tmp_path, name):
    strategy, sizes, outside = MASKS[name]
    server = {"optimizer": "adam", "lr": 0.5}
    walk = Walk(tmp_path, name, SLOPES, server=server, strategy=strategy, momentum=0.5)
    one = walk.play()
    assert moved(one) == list(range(P))
    first, second = walk.play(), walk.play()
    for seen, before in ((first, one), (second, first)):
        mask = seen.plan.step.idx
        rest = np.setdiff1d(np.arange(P), mask)
        for c in SLOPES:
            assert np.flatnonzero(seen.copies[c]).tolist() == mask.tolist()
            # Local training may not move what is outside, and the positions travel down only.
            assert seen.trained[c][rest].tolist() == [0] * rest.size
            assert seen.updates[c] == dict.fromkeys(mask.tolist(), SLOPES[c][0])
            assert (seen.up[c].positions, seen.up[c].values) == (0, 4 * mask.size)
        assert (seen.params[mask] == seen.before[mask]).sum() == 0
        assert set(seen.momentum) == {"optimizer.exp_avg", "optimizer.exp_avg_sq"}
        for now, old in [
            (seen.params, before.params),
            *((seen.momentum[k], before.momentum[k]) for k in seen.momentum),
        ]:
            expected = old[rest] if outside == "leave" else np.zeros(rest.size)
            assert now[rest].tolist() == expected.tolist()
    assert [first.plan.step.idx.size, second.plan.step.idx.size] == sizes


def test_fedselect_takes_its_mask_afresh(tmp_path):
    # The dense round makes coordinate 0 the largest; it comes in, and 15 goes out.
    slopes = {"a": at({0: -100})}
    walk = Walk(tmp_path, "fed-select", slopes)
    walk.play()
    assert walk.play().plan.step.idx.tolist() == [0, 16, 17, 18, 19]


def test_ffa_lora(tmp_path):
    server = {"optimizer": "adamw", "lr": 0.5}
    walk = Walk(tmp_path, "ffa-lora", SLOPES, server=server)
    one = walk.play()
    # The device's A is the one it was built with (-1 to -6), whatever the server holds.
    assert one.copies["a"].tolist() == [-1, -2, -3, -4, -5, -6, *range(7, 21)]
    assert one.trained["a"][A].tolist() == [-1, -2, -3, -4, -5, -6]
    assert sorted(one.updates["a"]) == list(range(6, 20))
    # Nothing says where: both sides derive it.
    assert one.down["a"].size == one.up["a"].total == HEADER_BYTES + 4 * 14
    # Not even the weight decay of adamw moves A.
    assert moved(one) == list(range(6, 20))
    assert one.momentum["optimizer.exp_avg"][A].tolist() == [0] * 6


def test_hetlora(tmp_path):
    slopes = {"0": SLOPES["a"], "1": SLOPES["b"]}
    walk = Walk(tmp_path, "hetlora", slopes, strategy={"tier_ranks": "1,2", "mean": "senders"})
    one = walk.play()
    second = [3, 4, 5, 7, 9]
    assert [i for i in range(10) if one.copies["0"][i] == 0] == second
    assert one.copies["1"].tolist() == PARAMS.tolist()
    assert one.trained["0"][second].tolist() == [0] * 5
    assert sorted(one.updates["0"]) == [i for i in range(P) if i not in second]
    assert one.down["0"].size == HEADER_BYTES + 4 * 15
    # Rank 1 of the adapters is divided by 1 alone, the rest by both.
    change = (one.before - one.params).tolist()
    assert change == [3 if i in second else 2 for i in range(P)]
    # The device of rank 1 held 15 values and no more.
    assert walk.held == {"0": 15, "1": 20}


def test_hetlora_with_the_plain_mean_of_its_authors(tmp_path):
    slopes = {"0": SLOPES["a"], "1": SLOPES["b"]}
    strategy = {"tier_ranks": "1,2", "mean": "cohort"}
    one = Walk(tmp_path, "hetlora", slopes, strategy=strategy).play()
    change = (one.before - one.params).tolist()
    assert change == [1.5 if i in (3, 4, 5, 7, 9) else 2 for i in range(P)]


def test_partial_training(tmp_path):
    mine = Derived("random-tensors", {"share": 0.5}, ("round", "client"))
    plan = ClientPlan(train=mine, up=mine)
    walk = Walk(tmp_path, everyone(plan, mean="senders"), SLOPES)
    drawn = set()
    for t in range(1, 5):
        seen = walk.play()
        sent = {c: expand(mine, LAYOUT, Draw(0, t, "all", c)).positions().tolist() for c in SLOPES}
        drawn.add(str(sent))
        for c in SLOPES:
            assert seen.copies[c].tolist() == seen.before.tolist()
            assert seen.updates[c] == dict.fromkeys(sent[c], SLOPES[c][0])
            assert np.flatnonzero(seen.trained[c] != seen.copies[c]).tolist() == sent[c]
            assert seen.up[c].positions == 0
        for i, change in enumerate((seen.before - seen.params).tolist()):
            who = [SLOPES[c][0] for c in SLOPES if i in sent[c]]
            assert change == (sum(who) / len(who) if who else 0)
    assert len(drawn) > 1


def test_attention_heads(tmp_path):
    args = {"rows": ["attention.q*"], "columns": ["attention.o*"], "heads": 1, "of": 2}
    one_head = Derived("head-slices", args, ("client",))
    slopes = {c: np.full(P, 2, np.float32) for c in "abcdef"}
    walk = Walk(tmp_path, everyone(ClientPlan(train=one_head, up=one_head), mean="senders"), slopes)
    one = walk.play()
    heads = [{12, 13, 16, 17}, {14, 15, 18, 19}]
    chosen = [set(update) - set(range(12)) for update in one.updates.values()]
    assert all(c in heads for c in chosen)
    assert heads[0] in chosen
    assert heads[1] in chosen
    # Whoever sent, the mean of those that did is 2.
    assert (one.before - one.params).tolist() == [2] * P


def test_sent_a_zero_is_not_the_same_as_not_sent(tmp_path):
    # Client a has no gradient in the head. Where it trains the head it sends zeros, which count.
    slopes = {"a": at(dict.fromkeys([*A, *B], 1)), "b": np.full(P, 3, np.float32)}

    def change(a_sends):
        def plan(inputs, state):
            groups = {"a": ClientPlan(train=a_sends, up=a_sends), "b": ClientPlan()}
            return RoundPlan(groups, {c: c for c in inputs.cohort}, mean="senders"), state

        seen = Walk(tmp_path / type(a_sends).__name__, plan, slopes).play()
        assert (10 in seen.updates["a"]) == isinstance(a_sends, All)
        return (seen.before - seen.params)[HEAD].tolist()

    assert change(All()) == [1.5, 1.5]
    assert change(Derived("tensors", {"without": ["head*"]})) == [3, 3]
