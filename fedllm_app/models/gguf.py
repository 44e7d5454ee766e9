"""Turn a GGUF file into a folder that loads fast, once.

Reading a quantized GGUF takes an interpreter-bound pass over every tensor and gives a model that
refuses to be saved. The converted copy (safetensors, float32, tokenizer beside it) is kept in the
cache, so that the price is paid by the first process only. A note in it names the file, for those
who find an adapter and no cache.
"""

import hashlib
import importlib.util
import json
from pathlib import Path

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedllm_app.core.errors import ConfigError, first_line
from fedllm_app.data.cache import build_once
from fedllm_app.models.own import OWN

NOTE = "converted-from.json"
FORMAT = 2  # part of the cache key: raise it when the same file would be converted differently


def gguf_folder(file: Path, cache: Path) -> Path:
    """Return the folder of the converted model, converting it first if it is not in the cache.

    Parameters
    ----------
    file : an existing .gguf file; another size or modification time is another model.
    cache : folder for converted models.

    Raises
    ------
    ConfigError
        If the file is missing, is not a GGUF file, or the package `gguf` is not installed.
    """
    if not file.is_file():
        raise ConfigError(f"model.source is {str(file)!r}: no such file; expected a .gguf file")
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(
            f"model.source is {str(file)!r}: reading GGUF needs the package gguf; "
            "install it with `pip install gguf`"
        )
    stat = file.stat()
    identity = f"{FORMAT}|{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()
    key = hashlib.blake2b(identity, digest_size=8).hexdigest()
    folder = cache / "gguf" / f"{file.stem}-{key}"
    return build_once(folder, lambda temporary: _convert(file, temporary))


def converted_from(source: str) -> dict[str, str]:
    """Return path and sha256 of the GGUF file that a folder was converted from, {} if from none."""
    note = Path(source) / NOTE
    return dict(json.loads(note.read_text("utf-8"))) if note.is_file() else {}


def ready_for_gguf(folder: Path) -> str:
    """Make a merged model ready for llama.cpp's converter; return the command that converts it.

    Its weights become bfloat16, half as large, and the chat template is written into
    tokenizer_config.json, too, where older converters look for it.

    Parameters
    ----------
    folder : of a merged model with its tokenizer.

    Raises
    ------
    ConfigError
        If the tokenizer is not one that is read from tokenizer.json or tokenizer.model, or the
        architecture is ours alone.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise ConfigError(
            f"{folder} has neither tokenizer.json nor tokenizer.model, which GGUF needs; expected "
            "a run with a tokenizer"
        )
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if config["model_type"] in OWN:
        raise ConfigError(
            f"{folder} is a {config['model_type']!r}, an architecture of this project that GGUF "
            "does not have"
        )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    template = folder / "chat_template.jinja"
    if template.is_file():
        place = folder / "tokenizer_config.json"
        settings = json.loads(place.read_text("utf-8"))
        settings["chat_template"] = template.read_text("utf-8")
        place.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")
    name = f"{folder.name}.gguf"
    return f"{folder}\npython convert_hf_to_gguf.py {folder} --outfile {name} --outtype bf16"


def _convert(file: Path, folder: Path) -> None:
    size_mb = file.stat().st_size / 1e6
    Console(stderr=True).print(f"Converting {file.name} ({size_mb:.0f} MB) to safetensors, once.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
    except Exception as error:
        raise ConfigError(
            f"model.source is {str(file)!r}: {first_line(error)}; expected a GGUF file "
            "of an architecture that transformers can read"
        ) from error
    # The values are plain float32 by now, but transformers still takes the model for a quantized
    # one and would refuse to save it.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with file.open("rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    note = {"file": str(file.resolve()), "sha256": digest}
    (folder / NOTE).write_text(json.dumps(note, indent=2) + "\n", "utf-8")
