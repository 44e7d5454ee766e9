"""`fedllm centralized`: the same model trained on everybody's data at once, for comparison.

It is the run with one client that holds all rows, keeps its optimizer, and whose model the server
takes as it is: the same code, data, clock and evaluation, and no federation. A federated run of
R rounds, K clients a round, H local steps of batch B has two such twins, both of R H K B rows:

    steps    R H steps of batch K B, as data-parallel training over the clients takes
    tokens   R H K steps of batch B, with warm-up and schedule K times as long
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedllm_app.study.command import Words

if TYPE_CHECKING:
    from fedllm_app.config import RunConfig

# What a federation is made of; the twin has the defaults.
FEDERATED = ("partition.", "strategy.", "server.", "wire.", "network.", "compute.", "round.")
KEPT = ("round.evaluate-every",)


class Equal(StrEnum):
    """What the twin has in common with the federated run beside its rows."""

    STEPS = "steps"
    TOKENS = "tokens"


def twin(config: "RunConfig", equal: Equal) -> "RunConfig":
    """Return the configuration of a run's centralized twin.

    Raises
    ------
    ConfigError
        If the run counts epochs and not steps, or its data are on devices.
    """
    from fedllm_app.config import RunConfig
    from fedllm_app.core.errors import ConfigError

    client, K = config.client, config.round.cohort
    wrong = []
    if not client.steps:
        wrong.append("client.steps is 0; expected the local steps of a round (H), such as 64")
    if config.data.train == "node":
        wrong.append("data.train is 'node'; expected a data set that is here")
    if wrong:
        raise ConfigError("\n".join(wrong))
    flat = {
        key: value
        for key, value in config.flat().items()
        if key in KEPT or not key.startswith(FEDERATED)
    }
    name = f"{config.run.name or config.strategy.name}-centralized-{equal.value}"
    flat |= {
        "run.name": name.replace(":", "-"),
        "partition.clients": 1,
        "round.clients": 1,
        "strategy.name": "fedavg",
        "client.keep-optimizer": True,
        "round.clip": "off",
    }
    if equal == Equal.STEPS:
        flat["client.batch"] = client.batch * K
    else:
        longer = ("client.steps", "client.warmup-steps", "client.schedule-steps")
        flat |= {key: int(str(flat[key])) * K for key in longer}
    return RunConfig.parse(flat)


def centralized(
    settings: Words = None,
    equal: Annotated[
        Equal,
        typer.Option(
            help="steps: as many sequential steps, on batches of all clients together; "
            "tokens: as many tokens, on batches of one client."
        ),
    ] = Equal.STEPS,
) -> None:
    """Train a run's model on the data of all its clients at once, in this process."""
    import logging

    from fedllm_app.deploy.launch import asked_config
    from fedllm_app.play import run_local
    from fedllm_app.report.page import print_summary
    from fedllm_app.study.command import listen

    config = twin(asked_config(settings), equal)
    listen(logging.INFO)
    folder: Path = run_local(config)
    print_summary(folder)
