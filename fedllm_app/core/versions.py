"""Downloads that clients still hold, so that one who comes back is sent only what is new.

A download on a grid is the same whole numbers for everybody, however it was sent: whoever holds an
earlier one needs only the difference of the codes, and then holds the newest to the bit. Each is
rounded from the server's own parameters, so what one download got wrong the next puts right: the
residual of a broadcast needs no memory of its own.

Shapes: P trainable parameters.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

DOWNLOAD = "download"  # what a plan says of a device that keeps what came down
CODES, STEP = "codes", "step"


@dataclass(frozen=True, eq=False)
class Version:
    """One download.

    Attributes
    ----------
    codes : multiples of the step, int32 of shape (P,).
    step : float32.
    """

    codes: np.ndarray
    step: np.float32

    def arrays(self) -> dict[str, np.ndarray]:
        """Return it as arrays by name."""
        return {CODES: self.codes, STEP: np.array([self.step], np.float32)}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Version":
        """Return it from its arrays.

        Raises
        ------
        KeyError
            If one is missing.
        """
        return cls(arrays[CODES], np.float32(arrays[STEP][0]))

    def base(self, base: str) -> str:
        """Return the name of a base, 32 hexadecimal digits, on which this is held, too."""
        digest = hashlib.blake2b(bytes.fromhex(base), digest_size=16)
        digest.update(self.step.tobytes())
        digest.update(np.ascontiguousarray(self.codes).data)
        return digest.hexdigest()


def with_version(
    held: Mapping[str, np.ndarray], group: str, round: int, version: Version, history: int
) -> dict[str, np.ndarray]:
    """Return the downloads of the last `history` rounds of every group, one more among them."""
    oldest = round - history
    kept = {n: array for n, array in held.items() if int(n.split(".", 1)[0]) > oldest}
    return kept | {f"{round}.{name}.{group}": a for name, a in version.arrays().items()}


def version_of(held: Mapping[str, np.ndarray], group: str, round: int) -> Version | None:
    """Return what a group was sent in a round, None if that is not remembered."""
    names = {name: f"{round}.{name}.{group}" for name in (CODES, STEP)}
    if not held.keys() >= set(names.values()):
        return None
    return Version.of({name: held[key] for name, key in names.items()})
