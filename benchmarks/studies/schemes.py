"""What a download loses by the way it is written: one trained change, many schemes, no training.

    python -m benchmarks.studies.schemes RUN [RUN ...]

For the last checkpoint of each run: bits for each coordinate, the squared error as a share of the
change's square, and the accuracy of the model that a device would then hold.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import write_result
from benchmarks.rows.kernels import NO_BASE
from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.core.tensorfile import load_tensors
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.run.checkpoint import checkpoints
from fedllm_app.wire.codec import decode
from fedllm_app.wire.select import top_positions
from fedllm_app.wire.slices import Origin, Slices, origin_of
from fedllm_app.wire.table import fitted_table
from fedllm_app.wire.vector import encode_set

BITS = (3.0, 2.0, 1.5, 1.0, 0.75, 0.5, 0.25)
Scheme = Callable[[np.ndarray], tuple[np.ndarray, float]]  # vector -> what arrives, bits for each


def sent(origin: Origin, density: float = 1.0, **how: Any) -> Scheme:
    """Return the scheme that our codec has."""

    def scheme(vector_P: np.ndarray) -> tuple[np.ndarray, float]:
        where = None if density == 1 else top_positions(vector_P, density)
        values = vector_P if where is None else vector_P[where]
        payload = encode_set(values, where, origin, explicit=where is not None, block=256, **how)
        back_P = np.zeros_like(vector_P)
        back_P[slice(None) if where is None else where] = decode(payload, origin).values
        return back_P, 8 * payload.size / vector_P.size

    return scheme


def table_per_slice(slices: Slices) -> Scheme:
    """Return four bits with a fitted table of eight fp32 levels for each slice."""

    def scheme(vector_P: np.ndarray) -> tuple[np.ndarray, float]:
        ordered_P = slices.reorder(vector_P)
        for start, length in zip(slices.starts, slices.lengths, strict=True):
            part = ordered_P[start : start + length]
            level_L = fitted_table(part, 8)
            nearest = np.abs(np.abs(part)[:, None] - level_L).argmin(1)
            ordered_P[start : start + length] = np.sign(part) * level_L[nearest]
        return slices.restore(ordered_P), 4 + 8 * 32 * slices.lengths.size / vector_P.size

    return scheme


def schemes(origin: Origin) -> Iterator[tuple[str, bool, Scheme]]:
    """Yield name, whether it is of the change, and the scheme."""
    rng = np.random.default_rng(0)
    assert origin.slices is not None
    yield "values, fp32", False, sent(origin, value_type="fp32")
    yield "values, q4, at random", False, sent(origin, value_type="q4", rng=rng)
    yield "values, q4", False, sent(origin, value_type="q4")
    yield "change, q4, at random", True, sent(origin, value_type="q4", rng=rng)
    yield "change, q4", True, sent(origin, value_type="q4")
    yield "change, q4, a table for each slice", True, table_per_slice(origin.slices)
    for name, density in (("1/4", 1 / 4), ("1/16", 1 / 16)):
        yield f"values, {name} int8", False, sent(origin, density, value_type="int8")
        yield f"change, {name} int8", True, sent(origin, density, value_type="int8")
    for bits in BITS:
        yield f"values, grid {bits:g}", False, sent(origin, value_type="grid", grid_bits=bits)
        yield f"change, grid {bits:g}", True, sent(origin, value_type="grid", grid_bits=bits)


def measure(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each scheme."""
    config = RunConfig.parse(read_recipe(folder / "config.toml"))
    parts = Parts(config, Place.of(config))
    tensors, _ = load_tensors(checkpoints(folder / "checkpoints")[0])
    params_P, start_P = tensors["params"].numpy(), parts.initial
    change_P, rows = params_P - start_P, []
    for name, of_change, scheme in schemes(origin_of(parts.model.layout, NO_BASE)):
        back_P, bits = scheme(change_P if of_change else params_P)
        held_P = back_P + start_P if of_change else back_P
        error = float(np.square(held_P - params_P).sum() / np.square(change_P).sum())
        accuracy = parts.evaluate(held_P.astype(np.float32))["accuracy"]
        rows.append({"run": folder.name, "scheme": name, "bits": bits, "error": error,
                     "accuracy": accuracy})  # fmt: skip
        print(f"{name:36} {bits:6.3f} bits, error {error:.4f}, accuracy {accuracy:.3f}", flush=True)
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    rows = [row for folder in parser.parse_args().runs for row in measure(folder)]
    write_result("schemes", {"recipes": ["recipes/bench-s.toml"]}, rows)


if __name__ == "__main__":
    main()
