"""What figures have on their horizontal axis: rounds, bytes, simulated seconds, FLOPs, joules."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedllm_app.core.errors import ConfigError
from fedllm_app.report import drawing
from fedllm_app.report.curves import Curve
from fedllm_app.report.run import Run
from fedllm_app.run.metrics import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class XAxis:
    """One horizontal axis.

    Attributes
    ----------
    name : how a title ends.
    keys : what is summed of a record; a record without them is not drawn.
    label : below the axis.
    unit : "B", "s", "tokens", "FLOP" or "J"; "" for whole rounds.
    about : what a metric against it says.
    absent : what its records have beside them, for a figure that has none.
    """

    name: str
    keys: tuple[str, ...]
    label: str
    unit: str
    about: str
    absent: str = ""

    def of(self, record: Record) -> float:
        """Return where a record stands, NaN if it does not say."""
        if not all(key in record for key in self.keys):
            return math.nan
        return float(sum(record[key] for key in self.keys))

    def logarithmic(self, curves: Sequence[Curve]) -> bool:
        """Say whether runs differ so much, by more than four times, that a long one hides the rest.

        What stands at zero, the untrained model, can then not be drawn.
        """
        ends = [x[-1] for x, _ in curves if len(x) and x[-1] > 0]
        return bool(self.unit and ends) and max(ends) > 4 * min(ends)

    def finish(self, axes: "Axes", logarithmic: bool = False) -> None:
        """Scale and label the axis."""
        if not self.unit:
            drawing.whole_rounds(axes)
            return
        if logarithmic:
            axes.set_xscale("log")
        drawing.unit_axis(axes, "x", self.unit)
        axes.set_xlabel(self.label + (", logarithmic" if logarithmic else ""))

    def edges(self, run: Run, rounds: int) -> list[float]:
        """Return where rounds 1, 2, ... of a run begin, and where the last one ends."""
        if not self.unit:
            return [number + 0.5 for number in range(rounds + 1)]
        return list(self._edges(run, rounds))

    def _edges(self, run: Run, rounds: int) -> Iterator[float]:
        ends = {record["round"]: self.of(record) for record in run.metrics}
        reached = 0.0
        for number in range(rounds + 1):
            found = ends.get(number, math.nan)
            reached = found if math.isfinite(found) else reached
            yield reached


ROUNDS = XAxis("round", ("round",), "round", "", "On the server, on examples that no client has.")
BASE = "without the one-time download of the base model."
UPLOAD = XAxis(
    "upload", ("up-bytes",), "bytes so far", "B",
    f"Measured replies of all clients, {BASE}", "bytes",
)  # fmt: skip
TRAFFIC = XAxis(
    "upload and download", ("up-bytes", "down-bytes"), "bytes so far", "B",
    f"Measured payloads in both directions, {BASE}", "bytes",
)  # fmt: skip
SIMULATED = XAxis(
    "simulated time", ("simulated-s",), "simulated time so far", "s",
    "A round lasts as long as the replies that it waits for: measured bytes over links, and local "
    "steps where compute.step-s says how long one takes. The one-time download of the base model "
    "is not counted.",
    "simulated seconds",
)  # fmt: skip
TOKENS = XAxis(
    "tokens", ("tokens",), "tokens so far", "tokens",
    "Tokens that all clients were trained on; those of a dropped reply are not counted.", "tokens",
)  # fmt: skip
COMPUTE = XAxis(
    "compute", ("flops",), "compute of all devices so far", "FLOP",
    "Matrix products of all local steps, of dropped replies too.", "FLOPs",
)  # fmt: skip
ENERGY = XAxis(
    "energy", ("energy-j",), "energy of all devices so far", "J",
    "Joules of computing, sending and waiting, by the profile of each simulated device.", "joules",
)  # fmt: skip
# What `fedllm report --x` may put under figures over rounds.
CHOICES = {"rounds": ROUNDS, "simulated": SIMULATED, "compute": COMPUTE, "energy": ENERGY}


def x_axis(choice: str, runs: Sequence[Run]) -> XAxis:
    """Return the axis of figures over rounds.

    Raises
    ------
    ConfigError
        If there is no such axis, or a run has no simulated clock.
    """
    if choice not in CHOICES:
        raise ConfigError(f"--x is {choice!r}; expected one of {', '.join(CHOICES)}")
    bare = [run.name for run in runs if not run.fleet]
    if choice in ("compute", "energy") and bare:
        raise ConfigError(
            f"--x is {choice!r}, but no devices were simulated in {', '.join(bare)}; they are when "
            "devices.fleet is set"
        )
    without = [run.name for run in runs if not run.clock]
    if choice == "simulated" and without:
        raise ConfigError(
            f"--x is 'simulated', but no clock ran in {', '.join(without)}; it runs when "
            "network.preset is set, or network.down-mbps and network.up-mbps, or compute.step-s"
        )
    return CHOICES[choice]
