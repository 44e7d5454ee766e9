"""Tensors in one safetensors file, written one after the other, with a checksum over all of it.

safetensors' own writer takes every tensor as bytes first, which is a second copy of the model in
memory. The format is simple enough to stream: a length, a JSON header, the tensors' bytes.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_app.core.errors import CheckpointError
from fedllm_app.core.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

CHECKSUM, WORDS = "checksum", "fedllm"


def save_tensors(path: Path, tensors: Mapping[str, "Tensor"], words: Mapping[str, Any]) -> None:
    """Write tensors and JSON values; the file takes its name once it is whole and on the disk."""
    raw = {name: bytes_of(tensor) for name, tensor in tensors.items()}
    text, at = json.dumps(words), 0
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    header: dict[str, Any] = {}
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": TYPE_NAMES[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + raw[name].nbytes],
        }
        at += raw[name].nbytes
        digest.update(json.dumps([name, header[name]]).encode())
        digest.update(raw[name])
    header["__metadata__"] = {WORDS: text, CHECKSUM: digest.hexdigest()}
    front = json.dumps(header).encode()
    front += b" " * (-len(front) % 8)
    with replacing(path) as file:
        file.write(len(front).to_bytes(8, "little") + front)
        for data in raw.values():
            file.write(data)


def load_tensors(path: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Return the tensors and JSON values of a file that `save_tensors` wrote.

    Raises
    ------
    CheckpointError
        If the file is cut off, changed, or not one of ours.
    """
    import torch

    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= path.stat().st_size - 8:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
            about = header.pop("__metadata__")
            if CHECKSUM not in about:
                raise CheckpointError(
                    f"{path} was written by an earlier version of fedllm, or is not a file of "
                    "fedllm: it has no checksum. Start a run with a new run.name"
                )
            digest = hashlib.blake2b(about[WORDS].encode(), digest_size=16)
            tensors = {}
            for name, entry in header.items():
                tensor = torch.empty(entry["shape"], dtype=getattr(torch, _TYPES[entry["dtype"]]))
                data = bytes_of(tensor)
                begin, end = entry["data_offsets"]
                if end - begin != data.nbytes or math.prod(entry["shape"]) != tensor.numel():
                    raise ValueError(f"tensor {name!r} has another length than its shape")
                if data.nbytes and file.readinto(data) != data.nbytes:
                    raise ValueError("it ends too early")
                digest.update(json.dumps([name, entry]).encode())
                digest.update(data)
                tensors[name] = tensor
            if file.read(1) or digest.hexdigest() != about[CHECKSUM]:
                raise ValueError("its checksum does not match its content")
        return tensors, json.loads(about[WORDS])
    except (
        AttributeError, OSError, KeyError, TypeError, ValueError, RuntimeError, OverflowError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path} is damaged or not a file of fedllm: {error}") from None


def bytes_of(tensor: "Tensor") -> memoryview:
    """Return the memory of a CPU tensor as bytes, without a copy where it is contiguous."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if not flat.numel():
        return memoryview(b"")
    return flat.view(torch.uint8).numpy().data.cast("B")


TYPE_NAMES = {
    "float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_TYPES = {code: name for name, code in TYPE_NAMES.items()}
