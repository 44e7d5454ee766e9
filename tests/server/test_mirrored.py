"""SCAFFOLD's c stays the mean of what the devices keep, whoever is bounded, lies or forgets.

The toy's gradient is slope + bend * values, so that control variates change from round to round.
"""

from dataclasses import replace

import numpy as np
import pytest
from toys import BASE, LAYOUT, P, Scripted, toy_device, toy_loop

from fedllm_app.core.tensorfile import load_tensors
from fedllm_app.run.metrics import read_lines
from fedllm_app.server.clip import Bound, Clip
from fedllm_app.wire.codec import encode
from fedllm_app.wire.slices import Origin

CLIENTS = [f"c{n:02d}" for n in range(60)]
SLOPES = {c: np.full(P, 3 + 0.1 * n, np.float32) for n, c in enumerate(CLIENTS)}


def loop_of(folder, rounds, asked=6, edits=None, **how):
    device = toy_device(SLOPES, folder / "kept", bend=0.05, lr=0.02, epochs=4, rule="scaffold")
    transport = Scripted(device, dict.fromkeys(SLOPES, 1), edits or {})
    return toy_loop(
        folder, transport, method="scaffold", rounds=rounds, clients=asked, evaluate=None,
        server={"lr": 1.0}, **how,
    )  # fmt: skip


def mean_kept(folder):
    """Return the mean of the control variates that the devices keep, zero where one has none."""
    total = np.zeros(P)
    for own in (folder / "kept").iterdir():
        newest = max(own.glob("job-*.safetensors"))
        total += load_tensors(newest)[0]["rule.control"].numpy()
    return total / len(CLIENTS)


def test_what_a_device_sends_first_is_not_cut_for_what_others_send_later(tmp_path):
    loop = loop_of(tmp_path, rounds=40)
    loop.play()
    np.testing.assert_allclose(loop.state.method["control"], mean_kept(tmp_path), atol=1e-4)
    rounds = [line for line in read_lines(tmp_path / "metrics.jsonl") if line["round"]]
    assert sum(line["clipped"] for line in rounds) == 0
    assert not any(line.get("dropped") for line in rounds)


def hostile(reply):
    """Send a control variate that is thousands of times too large."""
    payload = encode(
        np.full(P, 1e4, np.float32), None, Origin(P, LAYOUT.hash, BASE), value_type="fp32",
        block=256,
    )  # fmt: skip
    return [replace(reply, vectors=reply.vectors | {"control": payload})]


def test_a_control_variate_above_the_bound_costs_its_reply_and_moves_nothing(tmp_path):
    loop = loop_of(tmp_path, rounds=6, edits={CLIENTS[0]: hostile})
    loop.play()
    dropped = [line.get("dropped", {}) for line in read_lines(tmp_path / "metrics.jsonl")]
    assert sum(d.get("too-large", 0) for d in dropped) >= 1
    assert np.abs(loop.state.method["control"]).max() < 10


def test_a_device_that_lost_its_control_variate_is_not_counted_twice(tmp_path):
    one = loop_of(tmp_path, rounds=2, asked=len(CLIENTS), clip="off")
    one.play()
    server_P, lost = one.state.method["control"].copy(), 20
    for own in sorted((tmp_path / "kept").iterdir())[:lost]:
        for file in own.iterdir():
            file.unlink()
    loop = loop_of(tmp_path, rounds=3, asked=len(CLIENTS), clip="off")
    loop.play()
    after_P, true_P = loop.state.method["control"], mean_kept(tmp_path)
    # Counted twice, the c_i of a third of all devices would add a third to c.
    assert np.abs(after_P - true_P).max() < 0.1 * np.abs(server_P).max()


@pytest.mark.parametrize("waiting", [True, False])
def test_later_changes_lower_no_bound_of_first_ones(waiting):
    clip = Clip(Bound(), {} if waiting else {"control": ((8.0,) * 6,)}, ("control",))
    replies = [({"control": norm}, first) for norm, first in ((9.0, True), (0.1, False)) * 3]
    assert clip.waits(["control"]) == waiting
    if waiting:
        clip.close(replies)
    for number, (norms, first) in enumerate(replies):
        assert clip.scales((1, f"{number}"), norms, first) == {"control": 1.0}
    assert not clip.dropped
    assert min(clip.norms()["control"][-1]) >= 8.0


def test_a_bound_still_follows_changes_that_grow():
    norms = {"control": ((1.0,) * 6,)}
    for round_ in range(60):
        clip = Clip(Bound(), norms, ("control",))
        for number in range(6):
            clip.scales((round_, f"{number}"), {"control": 20.0}, first=False)
        norms = clip.norms()
    assert not clip.dropped
