"""One method walked by hand through the real client code, intake and optimizer of a toy loop."""

from types import SimpleNamespace

from toys import LAYOUT, P, Scripted, toy_device, toy_loop

from fedllm_app.client.answer import answer
from fedllm_app.core.region import positions_of
from fedllm_app.server.asked import asked_for
from fedllm_app.server.clip import OFF, Bound
from fedllm_app.server.counting import Counting
from fedllm_app.server.guard import Guard
from fedllm_app.server.methods.base import Method
from fedllm_app.wire.codec import decode, size_of


class Walk:
    """Rounds of one method; `play` returns what could be seen of a round.

    Seen are, by client: copies (what it started from), trained, updates (position to value, as
    decoded), down (its payload), up (the sizes of its update); and before, params, momentum, plan.
    """

    def __init__(self, tmp_path, plan, slopes, server=None, strategy=None, **client):
        self.slopes = slopes
        self.device = toy_device(slopes, tmp_path / "kept", **client)
        self.loop = toy_loop(
            tmp_path, Scripted(self.device, dict.fromkeys(slopes, 1)),
            method=plan if isinstance(plan, str) else Method(plan, "", ""), strategy=strategy,
            server=server or {"lr": 1.0}, evaluate=None, clients=len(slopes),
        )  # fmt: skip
        self.loop.counting = Counting(guard=Guard(Bound(OFF)))  # sums are worked out by hand
        self.t, self.held = 0, {}

    def play(self):
        self.t += 1
        seen = SimpleNamespace(
            copies={}, trained={}, updates={}, down={}, up={}, before=self.params
        )
        clients = self.loop.transport.clients()
        opened = self.loop.open_round(sorted(self.slopes), clients)
        planner, ids = self.loop.planner, dict.fromkeys(self.slopes, self.t)
        requests, opened.downloads = planner.requests(self.loop.state, opened.planned, ids)
        for request in requests:
            plan = opened.planned.plan.groups[request.group]
            opened.intake.add(asked_for(request, plan, LAYOUT, planner.seed, planner.wire))
            for job in request.jobs:
                (reply,) = answer(self.device, with_job(request, job))
                assert reply.error == ""
                model, client = self.device.model, job.client
                seen.copies[client] = model.copies[-1]
                seen.trained[client] = model.whole()
                self.held[client] = model.flat.numel()
                seen.down[client], seen.up[client] = (
                    request.vectors["params"],
                    size_of(reply.vectors["params"]),
                )
                seen.updates[client] = self.decoded(opened, job, reply)
                opened.intake.take(reply)
        opened.intake.close()
        assert not opened.intake.dropped
        self.loop.close_round(opened)
        seen.plan, seen.params, seen.momentum = opened.planned.plan, self.params, self.momentum
        return seen

    def decoded(self, opened, job, reply):
        asked = opened.intake.open[job.id, job.client]
        derived = None if asked.vectors["params"].chosen else asked.vectors["params"].within
        update = decode(reply.vectors["params"], asked.origin, derived=derived)
        where = positions_of(update.positions, P).tolist()
        return dict(zip(where, update.values.tolist(), strict=True))

    @property
    def params(self):
        return self.loop.optimizer.params.copy()

    @property
    def momentum(self):
        tensors = self.loop.optimizer.tensors()
        return {k: t.numpy().copy() for k, t in tensors.items() if t.ndim and k != "params"}


def with_job(request, job):
    return request.__class__(**(vars(request) | {"jobs": (job,)}))
