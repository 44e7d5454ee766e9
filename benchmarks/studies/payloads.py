"""Bytes of one upload on real changes: positions beside their entropy, all of it beside dense fp32.

    python -m benchmarks.studies.payloads RUN [RUN ...] --clients 4

RUN is the folder of a finished FLoSS run, whose data and model are where its config.toml says.
From its last parameters some clients train one round more, and what they would send is encoded at
several densities and value types. The folders are only read. The result goes to
benchmarks/results/payloads.json.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.record import write_result
from benchmarks.rows.kernels import NO_BASE
from benchmarks.rows.payload import DENSITIES, entropy_bytes
from fedllm_app.client.kept import Kept
from fedllm_app.client.train import train
from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.core.holding import device_copy
from fedllm_app.core.job import Job
from fedllm_app.core.plan import ClientPlan
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.run.checkpoint import latest_checkpoint, load_state
from fedllm_app.wire.codec import decode, dense_bytes, encode, size_of
from fedllm_app.wire.select import top_positions
from fedllm_app.wire.slices import origin_of

KINDS = ("fp32", "fp16", "int8", "int4", "q4", "q3")


def changes(folder: Path, clients: int) -> tuple[list[np.ndarray], Parts]:
    """Return what some clients would change after the run's last round, and the run's parts."""
    config = RunConfig.parse(read_recipe(folder / "config.toml"))
    parts = Parts(config, Place.of(config))
    path = latest_checkpoint(folder / "checkpoints")
    assert path is not None, f"{folder} has no checkpoint"
    progress, tensors = load_state(path)
    params_P = tensors["params"].numpy()
    sent = top_positions(params_P, config.strategy.d_down)
    start_P = device_copy(ClientPlan(fill="zero"), sent, params_P[sent], parts.initial)
    found = []
    with tempfile.TemporaryDirectory() as kept:
        device = parts.device(Path(kept))
        for client in [c for c, n in parts.counts().items() if n > 1][:clients]:
            parts.model.load(start_P)
            train(device, Job(progress.round + 1, client), ClientPlan(), None, Kept(), {})
            found.append(start_P - parts.model.flat.numpy())
    return found, parts


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    deltas = []
    for folder in options.runs:
        own, parts = changes(folder, options.clients)
        deltas += own
    layout, rng, rows = parts.model.layout, np.random.default_rng(0), []
    P, origin = layout.size, origin_of(layout, NO_BASE)
    for density in DENSITIES.values():
        entropy = entropy_bytes(P, density)
        for kind in KINDS:
            sizes, errors, places = [], [], []
            for delta_P in deltas:
                at = top_positions(delta_P, density)
                values = delta_P[at]
                payload = encode(values, at, origin, value_type=kind, block=256, rng=rng)
                back = decode(payload, origin).values
                sizes.append(payload.size)
                places.append(size_of(payload).positions)
                errors.append(float(np.square(back - values).sum() / np.square(values).sum()))
            rows.append(
                {
                    "density": density,
                    "values": kind,
                    "bytes": fmean(sizes),
                    "times-less-than-dense": dense_bytes(P) / fmean(sizes),
                    "position-bytes": fmean(places),
                    "positions-by-entropy": fmean(places) / entropy,
                    "relative-squared-error": fmean(errors),
                }
            )
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()})
    settings = {"runs": [folder.name for folder in options.runs], "updates": len(deltas), "P": P}
    write_result("payloads", settings, rows)


if __name__ == "__main__":
    main()
