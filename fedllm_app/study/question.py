"""What is asked of the planner, and what is wrong with it before anything loads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line starts without tensors
    from fedllm_app.config import RunConfig
    from fedllm_app.devices.network import Network
    from fedllm_app.study.budget import Budget


@dataclass(frozen=True)
class Question:
    """What is asked of the planner; the fields are the options of the command."""

    config: "RunConfig"
    budget: "Budget"
    network: "Network | None"
    vary: Sequence[str]
    min_rounds: int
    like: Sequence[Path]
    rows: int
    json_file: Path | None
    share: float
    first: int
    most: int
    out: Path | None


def check(q: Question) -> None:
    """Refuse options that do not go together, before anything is loaded.

    Raises
    ------
    ConfigError
        With one line for each.
    """
    from fedllm_app.core.errors import ConfigError

    wrong = []
    if not q.budget.limits:
        wrong.append(
            "there is no budget; expected one or more of --max-up-mb, --max-down-mb, --max-mb "
            "(millions of bytes), --max-seconds and --max-energy-j"
        )
    if q.budget.seconds and q.network is None:
        wrong.append(
            f"--max-seconds is {q.budget.seconds:g} and no link is known; expected --down-mbps and "
            "--up-mbps, or --links FILE"
        )
    if q.budget.energy_j and not q.config.devices.on:
        wrong.append(
            f"--max-energy-j is {q.budget.energy_j:g} and no device is simulated; expected "
            "devices.fleet, such as phone=0.6,pc=0.4"
        )
    if (pacing := q.config.round.pacing) != "sync":
        wrong.append(
            f"round.pacing is {pacing!r}; a plan reckons with whole rounds: expected 'sync'"
        )
    if q.share and not 0 < q.share < 1:
        wrong.append(f"--pilot is {q.share:g}; expected a share in (0, 1). 0.2 spends a fifth")
    if q.share and q.config.data.train == "node":
        wrong.append("--pilot with data.train = 'node'; expected a data set that is here")
    for name, value in (("out", q.out), ("pilot-rounds", q.first), ("pilot-most", q.most)):
        if value and not q.share:
            wrong.append(f"--{name} is {str(value)!r} without --pilot SHARE, which it belongs to")
    if q.most == 1:
        wrong.append("--pilot-most is 1; expected 2 or more, to choose from")
    if q.out and (q.out.suffix != ".toml" or q.out.exists() or not q.out.parent.is_dir()):
        wrong.append(f"--out is {str(q.out)!r}; expected a new .toml file in a folder that exists")
    for run in q.like:
        if not (run / "ledger.jsonl").is_file():
            wrong.append(f"--like is {str(run)!r}; expected the folder of a run")
    if q.json_file and not q.json_file.parent.is_dir():
        wrong.append(f"--json is {str(q.json_file)!r}; expected a file in a folder that exists")
    if wrong:
        raise ConfigError("\n".join(wrong))
