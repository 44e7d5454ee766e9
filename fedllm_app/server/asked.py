"""What one client was asked for: its job, its plan, and what each of its vectors may hold.

A reply is held against this alone, whatever round it comes in, so that a policy may wait for it
longer than a round.

Shapes: P trainable parameters, K coordinates sent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedllm_app.core.job import Job, Request
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import PARAMS, ClientPlan, TopK
from fedllm_app.core.region import Where, positions_of, size_of
from fedllm_app.core.state import Open
from fedllm_app.core.support import Draw, Sent, Support, expand
from fedllm_app.wire.codec import WireSettings, decode, max_bytes
from fedllm_app.wire.select import top_count, without
from fedllm_app.wire.slices import Origin, origin_of, slices_of
from fedllm_app.wire.tiles import block_count, candidates_of
from fedllm_app.wire.uniform import stretches_of

Key = tuple[int, str]  # job id and client


@dataclass(frozen=True, eq=False)
class Expected:
    """What one vector of a reply may hold.

    Attributes
    ----------
    within : the coordinates that may be sent.
    always : positions that must be among them; None for no such demand.
    count : how many are sent.
    chosen : the device chooses which of `within`; else it sends all of them.
    value_type : of the values.
    most_bytes : the longest payload that the plan allows.
    """

    within: Where
    always: np.ndarray | None
    count: int
    chosen: bool
    value_type: str
    most_bytes: int


@dataclass(frozen=True, eq=False)
class Asked:
    """One open job.

    Attributes
    ----------
    job, group, plan : what the client does.
    round : that the plan was made for.
    origin : layout and base that its reply must name.
    vectors : what may come back, by name.
    down_bytes : length of the vectors that went down.
    steps : local steps that it takes at most.
    trains : the coordinates that its device trains.
    amount : what it computes (`Network.amount`).
    rows : examples of the client's stream that it uses up, 0 where the device says.
    start_s : simulated second in which it began.
    request : what asks for it again after a resume, None where nobody will.
    """

    job: Job
    group: str
    plan: ClientPlan
    round: int
    origin: Origin
    vectors: Mapping[str, Expected]
    down_bytes: int
    steps: int = 0
    trains: Where = None
    amount: float = 0.0
    rows: int = 0
    start_s: float = 0.0
    request: Request | None = None

    @property
    def key(self) -> Key:
        """What tells it from every other open job."""
        return self.job.id, self.job.client

    @property
    def most_bytes(self) -> int:
        """The most bytes that its reply's vectors have together."""
        return sum(vector.most_bytes for vector in self.vectors.values())


def asked_for(
    request: Request,
    plan: ClientPlan,
    layout: ParamLayout,
    seed: int,
    wire: WireSettings,
    sent: Where = None,
) -> list[Asked]:
    """Return what each job of a request was asked for.

    Parameters
    ----------
    sent : the positions that went down, where the plan is one that was read from JSON.
    """
    found, origin = [], origin_of(layout, request.fingerprint)
    down = sum(payload.size for payload in request.vectors.values())
    for job in request.jobs:
        draw = Draw(seed, request.round, request.group, job.client, sent)
        vectors = expected_vectors(plan, layout, draw, wire)
        trains = expand(plan.train, layout, draw)
        found.append(
            Asked(job, request.group, plan, request.round, origin, vectors, down, trains=trains)
        )
    return found


def asked_again(
    request: Request, layout: ParamLayout, seed: int, wire: WireSettings
) -> list[Asked]:
    """Return what each job of a request was asked for, by what a checkpoint holds of it."""
    plan, sent = ClientPlan.from_json(request.plan), None
    if isinstance(plan.down, Sent):
        origin = origin_of(layout, request.fingerprint)
        sent = decode(request.vectors[PARAMS], origin, derived=None).positions
        sent = np.arange(layout.size) if sent is None else sent  # a mask of all has no positions
    return asked_for(request, plan, layout, seed, wire, sent)


def still_open(asked: Iterable[Asked]) -> tuple[Open, ...]:
    """Return the jobs that a resumed run plays again, those of one download together."""
    found: dict[tuple[int, str, int], list[Asked]] = {}
    for one in sorted(asked, key=lambda one: one.key):
        if one.request is not None:
            found.setdefault((one.round, one.group, one.request.held), []).append(one)
    return tuple(
        Open(replace(first, jobs=tuple(a.job for a in jobs)), tuple(a.start_s for a in jobs))
        for jobs in found.values()
        if (first := jobs[0].request) is not None
    )


def expected_vectors(
    plan: ClientPlan, layout: ParamLayout, draw: Draw, wire: WireSettings
) -> dict[str, Expected]:
    """Return what may come back by a plan, by name of the vector."""
    vectors = {PARAMS: expected(plan.up, layout, draw, wire.up_values, wire.block)}
    for name, vector in plan.beside_up.items():
        value_type = vector.value_type or wire.up_values
        vectors[name] = expected(vector.support, layout, draw, value_type, wire.block)
    return vectors


def expected(
    up: Support | TopK, layout: ParamLayout, draw: Draw, value_type: str, block: int
) -> Expected:
    """Return what one vector of a reply may hold by its plan."""
    P, always = layout.size, None
    if not isinstance(up, TopK):
        within = expand(up, layout, draw)
        count = size_of(within, P)
    else:
        within = expand(up.within, layout, draw)
        if up.always is not None:
            always = positions_of(expand(up.always, layout, draw), P)
        if up.side:
            free_P = candidates_of(within, always, P)
            count = block_count(up.density, up.side, layout, free_P)
        else:
            candidates = None if within is None else positions_of(within, P)
            free = without(P, candidates, always)
            count = top_count(P if free is None else free.size, up.density)
        count += 0 if always is None else always.size
    chosen = isinstance(up, TopK)
    # What a device chooses may lie in any tensor; what it is told lies in those of the set.
    tensors = stretches_of(None if chosen else within, slices_of(layout)).size
    most = max_bytes(count, P, value_type, block, chosen, tensors=tensors)
    return Expected(within, always, count, chosen, value_type, most)
