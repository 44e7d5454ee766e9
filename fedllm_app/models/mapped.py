"""The frozen base as pages of a file, of which a machine holds one copy for all its processes.

transformers maps safetensors into memory and copies no tensor that has the type it is asked for.
Nothing writes to a frozen tensor, so all processes share these pages, and the system may drop and
read them again. Weights of another type would be cast in every process, to memory of its own. They
are cast once here, to a file in the cache. It is named by what the weights are, not by where they
lie.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import cached_file

from fedllm_app.core.files import replacing
from fedllm_app.core.tensorfile import TYPE_NAMES, bytes_of
from fedllm_app.data.cache import build_once, digest
from fedllm_app.models.files import INDEX, WEIGHTS
from fedllm_app.models.suits import auto_model

log = logging.getLogger("fedllm")
FORMAT = 1  # part of the folder's name: raise it when the same weights would be cast differently
LEAST = 1 << 24  # bytes of weights; what is smaller is not worth a file
CONTENT = "content.txt"
BESIDE = ("config.json", "generation_config.json", INDEX)
ALIGNED = 64  # bytes, as torch aligns memory of its own


def mapped_source(
    source: str, task: str, config: PreTrainedConfig, dtype: torch.dtype, cache: Path
) -> str:
    """Return where weights of this type lie, to be mapped: the source, or its copy in the cache.

    The source comes back as it is, and is loaded as before, where it is no safetensors, is small,
    has parts that the model keeps in another type, or where the copy cannot be written.

    Parameters
    ----------
    source : folder or hub name.
    task : as in task.name.
    config : of the model.
    dtype : of the base.
    cache : folder for all caches.
    """
    files = _files(source)
    if sum(file.stat().st_size for file in files) < LEAST or not _others(files, dtype):
        return source
    if dtype != torch.float32 and not _of_one_type(task, config, dtype):
        return source
    name = str(dtype).removeprefix("torch.")
    try:
        folder = cache / "bases" / f"{name}-{_content(files, cache)}"
        return str(build_once(folder, lambda made: _cast_all(files, made, dtype)))
    except OSError as error:
        log.warning(
            "%s is not cast to %s once for all processes (%s); each holds a copy of its own",
            source, name, error,
        )  # fmt: skip
        return source


def _files(source: str) -> list[Path]:
    """Return the safetensors files of a source, [] where it has none on this machine."""
    folder = Path(source)
    if not folder.is_dir():
        found = cached_file(
            source, "config.json", local_files_only=True,
            _raise_exceptions_for_gated_repo=False, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
        folder = Path(found or "/").parent
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    named = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()
    files = [folder / name for name in sorted(set(named))]
    return files if all(file.is_file() for file in files) else []


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as raw:
        return dict(json.loads(raw.read(int.from_bytes(raw.read(8), "little"))))


def _others(files: list[Path], dtype: torch.dtype) -> bool:
    """Return whether a tensor would be cast."""
    own = TYPE_NAMES[str(dtype).removeprefix("torch.")]
    entries = (entry for file in files for entry in _entries(file).values())
    return any(_is_float(entry) and entry["dtype"] != own for entry in entries)


def _of_one_type(task: str, config: PreTrainedConfig, dtype: torch.dtype) -> bool:
    """Return whether a model has no parameter that stays in float32 whatever is asked for."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model = auto_model(task).from_config(config, dtype=dtype)
    strict = bool(getattr(model, "_keep_in_fp32_modules_strict", None))
    return not strict and {p.dtype for p in model.parameters()} == {dtype}


def _content(files: list[Path], cache: Path) -> str:
    """Return 32 hexadecimal digits over the bytes of files, read once while they do not change."""
    status = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]

    def read(folder: Path) -> None:
        found = hashlib.blake2b(str(FORMAT).encode(), digest_size=16)
        for file in files:
            with file.open("rb") as raw:
                found.update(hashlib.file_digest(raw, hashlib.blake2b).digest())
        (folder / CONTENT).write_text(found.hexdigest())

    return (build_once(cache / "bases" / "read" / digest(status), read) / CONTENT).read_text()


def _cast_all(files: list[Path], folder: Path, dtype: torch.dtype) -> None:
    """Write all files in another type, and beside them what from_pretrained reads."""
    size = sum(_size(entry, dtype) for file in files for entry in _entries(file).values())
    if shutil.disk_usage(folder).free < size:
        raise OSError(f"{size / 1e9:.1f} GB are needed in {folder.parent}")
    log.info("casting %.0f MB of weights to %s, once", size / 1e6, dtype)
    for name in BESIDE:
        if (small := files[0].parent / name).is_file():
            shutil.copyfile(small, folder / name)
    for file in files:
        _cast(file, folder / file.name, dtype)


def _entries(file: Path) -> dict[str, dict[str, Any]]:
    """Return type and shape of each tensor of a file."""
    return {name: entry for name, entry in _header(file).items() if name != "__metadata__"}


def _is_float(entry: dict[str, Any]) -> bool:
    return str(entry["dtype"]).startswith(("F", "BF"))


def _size(entry: dict[str, Any], dtype: torch.dtype) -> int:
    """Return the bytes of a tensor once it is cast."""
    begin, end = entry["data_offsets"]
    return int(math.prod(entry["shape"]) * dtype.itemsize if _is_float(entry) else end - begin)


def _cast(file: Path, target: Path, dtype: torch.dtype) -> None:
    """Write a file of safetensors in another type, one tensor after the other."""
    header: dict[str, Any] = {"__metadata__": _header(file).get("__metadata__", {"format": "pt"})}
    at, own = 0, TYPE_NAMES[str(dtype).removeprefix("torch.")]
    for name, entry in _entries(file).items():
        kind = own if _is_float(entry) else entry["dtype"]
        size = _size(entry, dtype)
        header[name] = {"dtype": kind, "shape": entry["shape"], "data_offsets": [at, at + size]}
        at += size
    front = json.dumps(header).encode()
    front += b" " * (-(8 + len(front)) % ALIGNED)
    with replacing(target) as out:
        out.write(len(front).to_bytes(8, "little") + front)
        for tensor in _tensors(file, dtype):
            out.write(bytes_of(tensor))


def _tensors(file: Path, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the tensors of a file in the order of its header, cast where they are no integers."""
    with safe_open(file, framework="pt") as source:
        for name in _entries(file):
            tensor = source.get_tensor(name)
            yield tensor.to(dtype) if tensor.is_floating_point() else tensor
