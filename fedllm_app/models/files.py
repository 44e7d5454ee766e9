"""Whether the files of a model's folder are what their names say, seen before anything loads.

A file that git holds elsewhere (a Git LFS pointer) and one whose download stopped are the two that
people meet. Both are seen in the first bytes, whatever the size of the model.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from fedllm_app.core.errors import ConfigError

POINTER = b"version https://git-lfs.github.com/spec/"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL = ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt")
AGAIN = "copy or download it again"


def check_files(folder: Path, weights: bool = True) -> None:
    """Refuse a folder whose files are pointers or torn; a path that is no folder passes.

    Parameters
    ----------
    folder : of a model or a tokenizer.
    weights : whether the weights are read as well.

    Raises
    ------
    ConfigError
        Names the file and what is wrong with it.
    """
    if not folder.is_dir():
        return
    for name in SMALL:
        _refuse_pointer(folder / name)
    for file in _weights(folder) if weights else ():
        _refuse_pointer(file)
        if file.suffix == ".safetensors":
            _refuse_torn(file)


def _weights(folder: Path) -> Iterator[Path]:
    """Yield the files that transformers reads weights from; ConfigError if a part is missing."""
    if (folder / WEIGHTS).is_file():
        yield folder / WEIGHTS
    elif (folder / INDEX).is_file():
        _refuse_pointer(folder / INDEX)
        try:
            names = sorted(
                set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{folder / INDEX} is not an index of weights ({error}); {AGAIN}"
            ) from None
        for name in names:
            if not (folder / name).is_file():
                raise ConfigError(f"{folder / name} is missing, which {INDEX} names; {AGAIN}")
            yield folder / name
    elif any(folder.glob("pytorch_model.bin*")):
        yield from folder.glob("pytorch_model*.bin")
    else:
        raise ConfigError(
            f"{folder} holds no weights: neither {WEIGHTS} nor {INDEX}; {AGAIN}, or set model.init "
            "to 'random'"
        )


def _refuse_pointer(file: Path) -> None:
    if file.is_file() and _head(file, len(POINTER)) == POINTER:
        raise ConfigError(
            f"{file} is a Git LFS pointer of {file.stat().st_size} bytes in the place of the file; "
            "run `git lfs pull` in its folder, or download the file"
        )


def _refuse_torn(file: Path) -> None:
    """Refuse a safetensors file that is shorter or longer than its header says."""
    size = file.stat().st_size
    head = _head(file, 8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
    if 8 + length > size:
        raise ConfigError(f"{file} is cut off in its header, at {size:,} bytes; {AGAIN}")
    with file.open("rb") as raw:
        raw.seek(8)
        try:
            header = json.loads(raw.read(length))
            ends = [t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"]
            whole = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ConfigError(f"{file} is no safetensors file; {AGAIN}") from None
    if whole != size:
        raise ConfigError(
            f"{file} has {size:,} bytes and its header tells of {whole:,}: its copy or download "
            f"stopped halfway; {AGAIN}"
        )


def _head(file: Path, count: int) -> bytes:
    with file.open("rb") as raw:
        return raw.read(count)
