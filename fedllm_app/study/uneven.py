"""How unevenly supports were spread in finished runs: what positions take of the dearest case.

Shapes: N rounds.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Uneven:
    """What finished runs tell of the bytes of positions, each way.

    Attributes
    ----------
    runs : by way, of each run that sent positions: logarithms of the shares of coordinates that
        travelled down and up, and by round what positions took of what they would if supports
        were spread evenly.
    """

    runs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = field(
        default_factory=lambda: {"down": [], "up": []}
    )

    def learn(self, way: str, shares: np.ndarray, paid: np.ndarray, even: np.ndarray) -> None:
        """Take in a run.

        Parameters
        ----------
        shares : as in `runs`, of shape (2,).
        paid, even : bytes of positions as the ledger has them and if spread evenly, shape (N,).
        """
        if even.any():
            taken = np.divide(paid, even, out=np.ones(even.size), where=even > 0)
            self.runs[way].append((shares, taken))

    def taken(self, way: str, shares: np.ndarray, N: int) -> np.ndarray:
        """Return what positions take in each of N rounds, by the run whose shares are nearest.

        Rounds beyond its last are like the mean of its second half: the first are less even.
        """
        if not self.runs[way]:
            return np.ones(N)
        near = min(self.runs[way], key=lambda run: float(np.abs(run[0] - shares).sum()))[1][:N]
        return np.pad(near, (0, N - near.size), constant_values=near[near.size // 2 :].mean())
