"""One seed per purpose, so that no draw depends on how many draws came before it.

Everything random in a run comes from (run seed, purpose, further parts such as round or client).
A killed run, another number of workers, or another order of replies therefore draws the same.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on nothing else.

    Parts are told apart by type and length: (1, 23), (12, 3) and ("1", 23) give different seeds.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(_told_apart(part))
    return int.from_bytes(digest.digest(), "little") >> 1


def derive_seeds(purpose: str, names: Sequence[str]) -> NDArray[np.int64]:
    """Return `derive_seed(purpose, name)` for each of many names, several times as fast."""
    begun = hashlib.blake2b(_told_apart(purpose), digest_size=8)
    found = bytearray()
    for name in names:
        digest = begun.copy()
        digest.update(_told_apart(name))
        found += digest.digest()
    seeds: NDArray[np.int64] = (np.frombuffer(found, "<u8") >> np.uint64(1)).astype(np.int64)
    return seeds


def _told_apart(part: int | str) -> bytes:
    text = f"{type(part).__name__}:{part}".encode()
    return len(text).to_bytes(4, "little") + text


def generator(*parts: int | str) -> np.random.Generator:
    """Return a numpy generator seeded by `derive_seed(*parts)`."""
    return np.random.Generator(np.random.PCG64(derive_seed(*parts)))


def seed_torch(*parts: int | str) -> None:
    """Seed torch's default generator (dropout, initial adapters) by `derive_seed(*parts)`."""
    import torch  # seconds, which a check of settings does not take

    torch.manual_seed(derive_seed(*parts))
