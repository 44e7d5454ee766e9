"""A policy of pacing is a file: here the first K replies step the server, late ones count less.

Buffered asynchronous averaging (Nguyen et al. 2022, arXiv 2106.06639), as small as it can be. It
shows that open jobs outlive a round with their own plan, base and bounds.
"""

from dataclasses import dataclass

import numpy as np
from toys import PARAMS, P, Scripted, toy_device, toy_loop

from fedllm_app.core.plan import ClientPlan, TopK
from fedllm_app.server.methods.base import Method, one_group


@dataclass(frozen=True)
class FirstK:
    """Ask every idle client; step once K replies are in; halve what is older than its round."""

    k: int
    fresh: int = 2
    waits_on: bool = True
    refills: bool = False
    ordered: bool = True
    lasts_s: float = 0.0
    about: str = ""

    def ask(self, state, clients, open, failed=()):
        return sorted(clients.keys() - open)

    def weight(self, state, asked):
        return 2 if asked.round == state.round + 1 else 1

    def most(self, asked):
        return self.k

    def wanted(self, intake):
        return self.k - len(intake.accepted)


SLOPES = {c: np.full(P, s, np.float32) for c, s in (("a", 1), ("b", 2), ("c", 6))}


@dataclass
class Slow(Scripted):
    """Client c answers a round late."""

    def submit(self, requests, timeout_s):
        late, self.held = getattr(self, "held", []), []
        super().submit(requests, timeout_s)
        self.held = [r for r in self._coming if r.client == "c"]
        self._coming = late + [r for r in self._coming if r.client != "c"]


def played(tmp_path, rounds, method="dense", **how):
    transport = Slow(toy_device(SLOPES, tmp_path / "kept"), dict.fromkeys(SLOPES, 1))
    loop = toy_loop(tmp_path, transport, method=method, rounds=rounds, server={"lr": 1.0},
                    pacing=FirstK(2), evaluate=None, clip="off", **how)  # fmt: skip
    loop.play()
    return loop


def test_the_server_steps_on_the_first_replies_and_the_others_stay_open(tmp_path):
    loop = played(tmp_path, 1)
    # The mean of 1 and 2; c's job is still open.
    assert (PARAMS - loop.optimizer.params).tolist() == [1.5] * P
    assert list(loop.waiting) == [(1, "c")]
    assert loop.state.accepted == {"a": 1, "b": 1}


def test_a_late_reply_counts_less_in_a_later_step(tmp_path):
    loop = played(tmp_path, 2)
    # In round 2 the reply of c to job 1 comes first, with weight 1 of 2 beside a's 2 of 2. It moves
    # the mean half as far, and a no further: (6 * 1 + 1 * 2) / 4.
    moved = (PARAMS - loop.optimizer.params - 1.5).tolist()
    assert np.allclose(moved, 2)
    assert loop.state.accepted == {"a": 2, "b": 1, "c": 1}


def test_a_late_reply_is_held_against_the_plan_of_its_own_round(tmp_path):
    def halves(inputs, state):
        plan = ClientPlan(up=TopK(0.5)) if inputs.job == 1 else ClientPlan()
        return one_group(plan, inputs.cohort), state

    loop = played(tmp_path, 2, method=Method(halves, "", ""))
    assert loop.state.accepted["c"] == 1
