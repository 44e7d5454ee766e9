"""The ten lines that a run begins with: what trains, on what, at what cost, and where."""

from collections.abc import Mapping

from fedllm_app.core.support import Draw
from fedllm_app.core.units import format_bytes
from fedllm_app.server.asked import expected_vectors
from fedllm_app.server.loop import Loop
from fedllm_app.wire.codec import dense_bytes, most_of


def opening(loop: Loop, clients: int, known: Mapping[str, str]) -> str:
    """Return the lines, name and value.

    Parameters
    ----------
    clients : asked each round.
    known : lines that the configuration has, by name; put around those of the loop.
    """
    planner, P = loop.planner, loop.planner.layout.size
    down, up = round_bytes(loop, clients)
    dense = format_bytes(clients * dense_bytes(P))
    names = f"{P:,} parameters in {len(planner.layout.names)} tensors"
    values = {
        "trained": names,
        "bytes": f"a round at most {format_bytes(down)} down and {format_bytes(up)} up; dense "
        f"{dense} each way",
    }
    if loop.resumed:
        values["goes on"] = f"after round {loop.state.round}"
    lines = {**known, **values}
    width = max(map(len, lines))
    return "\n".join(["", *(f"  {name:{width}}  {value}" for name, value in lines.items())])


def round_bytes(loop: Loop, clients: int) -> tuple[int, int]:
    """Return the most bytes that a round of so many clients of the served group sends each way."""
    planner = loop.planner
    planned = planner.plan(loop.state, loop.optimizer.params, ())
    group = planned.plan.served
    plan = planned.plan.groups[group]
    vectors, _ = planner.downloads(planned, group, plan)
    bits = planner.wire.grid_bits
    draw = Draw(planner.seed, planned.inputs.job, group, "")
    up = expected_vectors(plan, planner.layout, draw, planner.wire).values()
    down_bytes = sum(most_of(payload, bits) for payload in vectors.values())
    return clients * down_bytes, clients * sum(vector.most_bytes for vector in up)
