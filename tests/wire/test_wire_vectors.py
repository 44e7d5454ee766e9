"""The specification's test vectors: what we write and read is what docs/wire-format.md says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fedllm_app.core.layout import ParamLayout
from fedllm_app.wire.codec import decode, encode
from fedllm_app.wire.gridded import encode_gridded, grid_of
from fedllm_app.wire.header import GRID, MODES, TYPES, Origin, read_header
from fedllm_app.wire.slices import slices_of

DOCS = Path(__file__).parents[2] / "docs"
FILE = json.loads((DOCS / "wire-vectors.json").read_text())
VECTORS = {vector["name"]: vector for vector in FILE["vectors"]}


def origin(vector):
    cut = None
    if "layout" in vector:
        names, shapes = vector["layout"]
        cut = slices_of(ParamLayout(tuple(names), tuple(map(tuple, shapes))))
    return Origin(vector["P"], FILE["layout_hash"], FILE["fingerprint"], cut)


def parts(vector):
    positions = vector["positions"]
    return (
        np.array(vector["values"], dtype=np.float32),
        None if positions is None else np.array(positions, dtype=np.int64),
        np.frombuffer(bytes.fromhex(vector["payload"]), dtype=np.uint8),
    )


@pytest.mark.parametrize("name", VECTORS)
def test_written(name):
    vector = VECTORS[name]
    values, positions, payload = parts(vector)
    if vector["value_type"] == GRID:
        sent = np.array(vector["sent"], np.float32)
        grid = grid_of(sent, positions, origin(vector), vector["bits"])
        written = encode_gridded(grid, positions, origin(vector), explicit=positions is not None)
    else:
        written = encode(
            values,
            positions,
            origin(vector),
            value_type=vector["value_type"],
            block=vector["block"],
            derived=vector["mode"] == "derived",
            rng=np.random.default_rng(0),
        )
    assert written.tobytes().hex() == payload.tobytes().hex()
    assert MODES[read_header(payload).mode] == vector["mode"]


@pytest.mark.parametrize("name", VECTORS)
def test_read(name):
    vector = VECTORS[name]
    values, positions, payload = parts(vector)
    derived = positions if vector["mode"] == "derived" else None
    got = decode(payload, origin(vector), derived=derived)
    assert np.array_equal(got.values, values)
    assert (got.positions is None) == (positions is None)
    assert positions is None or np.array_equal(got.positions, positions)


def test_every_mode_and_value_type_has_a_vector():
    assert {v["mode"] for v in VECTORS.values()} == set(MODES)
    assert {v["value_type"] for v in VECTORS.values()} == set(TYPES)
    assert any(read_header(parts(v)[2]).shortened for v in VECTORS.values())


def test_the_specification_prints_the_vectors_of_the_file():
    text = (DOCS / "wire-format.md").read_text()
    shown = re.findall(r"\*\*([\w-]+)\*\*: .*?```\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in shown] == [
        "all-fp32", "derived-bf16", "bitmap-fp16", "rice-fp32", "marked-int8",
    ]  # fmt: skip
    for name, block in shown:
        assert "".join(block.split()) == VECTORS[name]["payload"]
