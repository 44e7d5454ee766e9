"""The 64 bytes in front of every payload: what follows, how long it is, and whose it is.

Little-endian, fixed offsets; docs/wire-format.md has the table. Reading checks everything that
the header alone can tell, the length of the payload included, so that what follows can be cut
out without a further look.

Shapes: P flat trainable parameters, K coordinates sent.
"""

import struct
from dataclasses import dataclass

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.wire.quantize import value_bytes
from fedllm_app.wire.slices import Origin
from fedllm_app.wire.uniform import BITS as UNIFORM

MAGIC = b"FLLM"
VERSION = 1
HEADER_BYTES = 64
ALL, DERIVED, BITMAP, RICE, MARKED, SLICED = range(6)
GRID = "grid"  # values of wire/grid.py
# The number of a type on the wire is its place here.
TYPES = ("fp32", "fp16", "bf16", "int8", "int4", "q4", "q3", GRID, "q2", *UNIFORM)
MODES = ("all", "derived", "bitmap", "rice", "marked", "sliced")
BLOCKS = tuple(1 << exponent for exponent in range(4, 17))
# A bitmap's length must fit the header's 32 bits.
MOST_P = 1 << 34
# magic, version, mode, value type, log2 of block, P, K, layout hash, base fingerprint,
# bytes of positions, Rice parameter, shortened, stretches
_STRUCT = struct.Struct("<4sBBBBQQ16s16sIBBH")


@dataclass(frozen=True)
class Header:
    """The fields of a header, checked against each other when read.

    `coded_bytes` is no field: it is the length of a value section on a grid, which hangs on the
    values, and so is what the payload has left.
    """

    mode: int
    value_type: str
    block: int
    P: int
    K: int
    layout_hash: bytes
    fingerprint: bytes
    position_bytes: int
    rice_k: int
    shortened: bool
    coded_bytes: int = 0
    stretches: int = 0

    @property
    def value_bytes(self) -> int:
        """Length of the value section: a marked one holds all P."""
        if self.value_type == GRID:
            return self.coded_bytes
        marked = self.mode == MARKED
        N = self.P if marked else self.K
        return value_bytes(N, self.value_type, self.block, marked, self.stretches)

    @property
    def total(self) -> int:
        """Length of the whole payload."""
        return HEADER_BYTES + self.position_bytes + self.value_bytes

    def pack(self) -> np.ndarray:
        """Return the header as uint8 of shape (64,)."""
        data = _STRUCT.pack(
            MAGIC,
            VERSION,
            self.mode,
            TYPES.index(self.value_type),
            self.block.bit_length() - 1,
            self.P,
            self.K,
            self.layout_hash,
            self.fingerprint,
            self.position_bytes,
            self.rice_k,
            self.shortened,
            self.stretches,
        )
        return np.frombuffer(data, dtype=np.uint8)


def read_header(payload: np.ndarray) -> Header:
    """Return the header of a payload whose fields and length agree with each other.

    Raises
    ------
    WireError
        If the array is no payload of this version, or a field or the length is impossible.
    """
    if payload.dtype != np.uint8 or payload.ndim != 1:
        raise WireError(
            f"payload is {payload.dtype} of shape {payload.shape}; expected uint8 of one dimension"
        )
    if payload.size < HEADER_BYTES:
        raise WireError(f"payload has {payload.size} bytes; expected at least {HEADER_BYTES}")
    fields = _STRUCT.unpack(payload[:HEADER_BYTES].tobytes())
    magic, version, mode, value_type, exponent, P, K = fields[:7]
    layout_hash, fingerprint, position_bytes, rice_k, shortened, stretches = fields[7:]
    if magic != MAGIC:
        raise WireError(f"payload starts with {magic!r}; expected {MAGIC!r}")
    if version != VERSION:
        raise WireError(f"wire version is {version}; expected {VERSION}. Update the older side")
    if mode >= len(MODES):
        raise WireError(f"mode is {mode}; expected 0 to {len(MODES) - 1}")
    if value_type >= len(TYPES):
        raise WireError(f"value type is {value_type}; expected 0 to {len(TYPES) - 1}")
    if 1 << exponent not in BLOCKS:
        raise WireError(f"log2 of block is {exponent}; expected 4 to 16")
    coded = value_type == TYPES.index(GRID)
    header = Header(
        mode,
        TYPES[value_type],
        1 << exponent,
        P,
        K,
        layout_hash,
        fingerprint,
        position_bytes,
        rice_k,
        bool(shortened),
        payload.size - HEADER_BYTES - position_bytes if coded else 0,
        stretches,
    )
    _check_counts(header, shortened)
    if header.total != payload.size:
        raise WireError(f"payload has {payload.size} bytes; its header says {header.total}")
    return header


def digest(name: str, digits: str) -> bytes:
    """Return the 16 bytes of a hash.

    Raises
    ------
    WireError
        If it is not 32 hexadecimal digits.
    """
    try:
        data = bytes.fromhex(digits)
    except ValueError:
        data = b""
    if len(data) != 16:
        raise WireError(f"{name} is {digits!r}; expected 32 hexadecimal digits")
    return data


def check_origin(header: Header, ours: Origin) -> None:
    """Raise WireError if the payload was written for another model."""
    if header.P != ours.P:
        raise WireError(f"payload is of P={header.P} parameters; expected {ours.P}", "foreign")
    if header.layout_hash != digest("layout hash", ours.layout_hash):
        raise WireError(
            f"layout hash is {header.layout_hash.hex()!r}; expected {ours.layout_hash!r}. The two "
            "sides train other tensors: compare model.* and lora.*",
            "foreign",
        )
    if header.fingerprint != digest("base fingerprint", ours.fingerprint):
        raise WireError(
            f"base fingerprint is {header.fingerprint.hex()!r}; expected {ours.fingerprint!r}. "
            "The frozen weights differ, or the tokenizers of a model from scratch: compare "
            "model.source, model.dtype and model.tokenizer",
            "foreign",
        )


def _check_counts(header: Header, shortened: int) -> None:
    """Raise WireError if the counts are not those of the header's mode."""
    mode = MODES[header.mode]
    if not 1 <= header.P <= MOST_P:
        raise WireError(f"P is {header.P}; expected 1 to {MOST_P}")
    if header.K > header.P:
        raise WireError(f"K is {header.K}; expected at most P={header.P}")
    if header.mode == ALL and header.K != header.P:
        raise WireError(f"K is {header.K} where all coordinates are sent; expected P={header.P}")
    if header.mode not in (ALL, DERIVED) and header.K == header.P:
        raise WireError(f"mode {mode!r} sends all P={header.P} coordinates; expected mode 'all'")
    if header.value_type == GRID and (header.mode == MARKED or header.coded_bytes < 0):
        raise WireError(f"values on a grid have {header.coded_bytes} bytes in mode {mode!r}")
    if header.mode not in (BITMAP, RICE, SLICED) and header.position_bytes:
        raise WireError(f"mode {mode!r} has {header.position_bytes} bytes of positions; expected 0")
    uniform = header.value_type in UNIFORM
    if header.stretches > uniform * header.K or (uniform and header.mode == MARKED):
        raise WireError(
            f"{header.value_type} has {header.stretches} stretches in mode {mode!r} with K = "
            f"{header.K}; expected 1 to K of u2 to u16, which are not marked, and 0 of others"
        )
    if shortened > (header.mode == RICE) or (header.rice_k and header.mode != RICE):
        raise WireError(
            f"mode {mode!r} has Rice parameter {header.rice_k} and flag {shortened}; expected "
            "zeros where the mode has no use for them"
        )
