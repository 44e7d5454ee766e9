"""SCAFFOLD and MimeLite where replies are lost and servers are killed, against lines of numpy.

The toy's gradient is slope + bend * values, so that control variates change from round to round.
"""

import numpy as np
import pytest
from toys import PARAMS, P, Scripted, bits, toy_device, toy_loop

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.job import Reply

SLOPES = {"a": 1.0, "b": 3.0, "c": 0.5}
BEND, LR, BETA = 0.25, 0.1, 0.5


def lost(round_):
    """Return what loses a reply of one round, after its device has trained."""

    def edit(reply):
        return [Reply(reply.job, reply.client, error="lost")] if reply.job == round_ else [reply]

    return edit


def played(folder, name, rounds=4, edits=None, die_in=0):
    slopes = {c: np.full(P, slope, np.float32) for c, slope in SLOPES.items()}
    device = toy_device(slopes, folder / "kept", bend=BEND, lr=LR, epochs=2, rule=name)
    transport = Scripted(device, dict.fromkeys(SLOPES, 1), edits or {}, die_in=die_in)
    loop = toy_loop(
        folder, transport, method=name, rounds=rounds, clients=3, evaluate=None, clip="off",
        server={"lr": 1.0}, strategy={"momentum": BETA}, checkpoint_every=2,
    )  # fmt: skip
    loop.play()
    return loop


def scaffold(drops):
    """Return x and c after four rounds in which these (round, client) are lost."""
    x, c, own = PARAMS.astype(np.float64), np.zeros(P), dict.fromkeys(SLOPES, np.zeros(P))
    for t in range(1, 5):
        deltas, changes = [], []
        for client, slope in SLOPES.items():
            y = x.copy()
            for _ in range(2):
                y = y - LR * (slope + BEND * y - own[client] + c)
            new = own[client] - c + (x - y) / (2 * LR)
            if (t, client) not in drops:
                deltas.append(x - y)
                changes.append(new - own[client])
                own = own | {client: new}
        x = x - sum(deltas) / len(deltas)
        c = c + sum(changes) / len(SLOPES)
    return x, c


@pytest.mark.parametrize("drops", [set(), {(2, "b"), (3, "a")}])
def test_a_lost_reply_leaves_both_control_variates_as_they_were(tmp_path, drops):
    loop = played(tmp_path, "scaffold", edits={client: lost(t) for t, client in drops})
    x, c = scaffold(drops)
    np.testing.assert_allclose(loop.optimizer.params, x, rtol=0, atol=1e-5)
    np.testing.assert_allclose(loop.state.method["control"], c, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["scaffold", "mimelite"])
def test_a_killed_server_goes_on_to_the_same_bits(tmp_path, name):
    whole = played(tmp_path / "whole", name)
    with pytest.raises(KeyboardInterrupt):
        played(tmp_path / "killed", name, die_in=4)
    again = played(tmp_path / "killed", name)
    assert bits(again.optimizer.params) == bits(whole.optimizer.params)
    for key, vector in whole.state.method.items():
        assert bits(again.state.method[key]) == bits(vector)
        assert vector.any()
    for file in ("metrics.jsonl", "ledger.jsonl"):
        ours, theirs = ((tmp_path / n / file).read_bytes() for n in ("killed", "whole"))
        assert ours == theirs


SCAFFOLD, MIMELITE = (
    {"strategy.name": "scaffold", "run.name": "x"},
    {"strategy.name": "mimelite", "client.momentum": 0.0},
)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"strategy.name": "scaffold"}, "whose client.rule is 'scaffold', which keeps state, with"),
        (SCAFFOLD | {"client.rule": "fedprox"}, "is defined with 'scaffold'; leave it ''"),
        (
            {"strategy.name": "floss", "client.rule": "mimelite", "client.momentum": 0.0},
            "needs the vectors momentum, gradient of all coordinates beside the parameters",
        ),
        (SCAFFOLD | {"round.weights": "examples"}, "expected 'uniform' and 'mean'"),
        (SCAFFOLD | {"round.pacing": "async"}, "of the model of the same round"),
        (
            SCAFFOLD | {"wire.down-values": "grid", "strategy.down": "change"},
            "which is no change from a start",
        ),
        (MIMELITE | {"client.momentum": 0.9}, "expected 'sgd', 0 and 0"),
        (MIMELITE | {"client.reading": "stream", "client.steps": 2}, "expected 'epochs'"),
        ({"client.rule": "fedprox", "client.rule-args": "mu=-1"}, "mu"),
        ({"strategy.momentum": 0.5}, "expected 0.9, or one of mimelite"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(keys, said):
    with pytest.raises(ConfigError) as error:
        RunConfig.parse(keys)
    (line,) = str(error.value).splitlines()
    assert said in line


def test_what_goes_with_sparsity_is_taken():
    sparse = {"strategy.name": "floss", "run.name": "x"}
    for optimizer in ("fedadam", "fedyogi", "fedadagrad"):
        RunConfig.parse(sparse | {"server.optimizer": optimizer})
    asked = {
        "client.rule": "fedprox",
        "client.rule-args": "mu=0.1",
        "strategy.error-feedback": True,
    }
    assert RunConfig.parse(sparse | asked).local.rule == "fedprox"
    assert RunConfig.parse(SCAFFOLD).local.rule == RunConfig.parse(SCAFFOLD).resolved().client.rule
