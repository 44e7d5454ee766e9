"""The lines that a run begins with: what it trains, on what, with whom, and what a round costs."""

from pathlib import Path

from fedllm_app.client.settings import STREAM
from fedllm_app.core.units import format_bytes
from fedllm_app.parts import Parts
from fedllm_app.server.loop import Loop
from fedllm_app.server.methods import method_of
from fedllm_app.server.opening import opening


def opening_of(parts: Parts, folder: Path, loop: Loop) -> str:
    """Return the ten lines that a run begins with."""
    c = parts.config
    base = format_bytes(parts.model.base_bytes)
    who = "devices as they join" if c.data.train == "node" else f"{len(parts.counts()):,} clients"
    known = {
        "run": f"{c.run.name}, seed {c.run.seed}, {c.run.rounds} rounds",
        "method": f"{c.strategy.name}: {method_of(c.strategy.name).about}",
        "task": f"{c.task.name}, data {c.data.train}, partition {c.partition.name}",
        **parts.data.notes.lines(),
        **_packed(parts),
        "model": f"{c.model.source}, trains {c.model.train}, frozen base of {base}",
        "clients": f"{who}, {loop.pacing.about}",
        **_late(loop),
        "devices": f"{c.client.optimizer}, learning rate {c.client.lr:g}, batch {c.client.batch}",
        "server": f"{c.server.optimizer}, learning rate {c.server.lr:g}",
        "folder": f"{folder} (config.toml has every setting; --verbose prints them)",
    }
    asked = loop.limits.round
    return opening(loop, asked.step_on if loop.pacing.refills else asked.at_once, known)


def _packed(parts: Parts) -> dict[str, str]:
    """Return the line on packed rows and their tokens, {} of a task without."""
    c, data = parts.config, parts.data
    if not c.task.kind.packed:
        return {}
    T, counts, measured = c.task.max_tokens, data.counts, len(data.evaluation)
    said = [f"{measured:,} to evaluate on"] * (measured > 0)
    if len(counts):
        rows, low, high = int(counts.sum()), int(counts.min()), int(counts.max())
        said.insert(0, f"{rows:,} ({rows * T:,} tokens), {low:,} to {high:,} of each client")
    if c.reading == STREAM:
        said.append(f"a round takes {c.client.steps * c.client.batch:,} of a client's stream")
    return {"rows": f"of {T:,} tokens: {'; '.join(said)}"}


def _late(loop: Loop) -> dict[str, str]:
    """Return the line on who is late, where that changes the model."""
    if not loop.pacing.ordered:
        return {}
    if loop.arrivals.clocked:
        return {"late": "by the simulated clock: played again, the run has the same bits"}
    again = ", and a resumed one asks anew for what was open" if loop.pacing.waits_on else ""
    return {"late": f"by the wall-clock: such a run is not reproducible{again}"}
