"""One seed per purpose, so that no draw depends on how many draws came before it.

Everything random in a run comes from (run seed, purpose, further parts such as round or client).
A killed run, another number of workers, or another order of replies therefore draws the same.
"""

import hashlib

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on nothing else.

    Parts are told apart by type and length: (1, 23), (12, 3) and ("1", 23) give different seeds.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(4, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """Return a numpy generator seeded by `derive_seed(*parts)`."""
    return np.random.Generator(np.random.PCG64(derive_seed(*parts)))


def seed_torch(*parts: int | str) -> None:
    """Seed torch's default generator (dropout, initial adapters) by `derive_seed(*parts)`."""
    import torch  # seconds, which a check of settings does not take

    torch.manual_seed(derive_seed(*parts))
