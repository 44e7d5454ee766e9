"""`fedllm walltime`: hours of a pre-training run over given links, dense and compressed.

fedllm walltime recipes/pretraining/125m.toml --parameters 125e6 --steps-per-s 2 --gbps 0.1
"""

from typing import Annotated

import typer

from fedllm_app.study.command import Words

Option = typer.Option


def walltime(
    settings: Words = None,
    parameters: Annotated[float, Option(min=0, help="Trainable parameters, such as 125e6.")] = 0,
    steps_per_s: Annotated[
        float, Option(min=0, help="Local steps that a client takes in a second.")
    ] = 0,
    gbps: Annotated[float, Option(min=0, help="Gbps of the slowest link.")] = 1.0,
    dense_bytes: Annotated[
        float, Option(min=0.1, help="Bytes of a parameter where nothing is compressed.")
    ] = 4.0,
) -> None:
    """Print the hours that a pre-training run takes by topology (the wall-time model of Photon)."""
    from rich.console import Console
    from rich.table import Table

    from fedllm_app.core.errors import ConfigError
    from fedllm_app.deploy.launch import asked_config
    from fedllm_app.study.walltime import Run, Traffic, compressed, rows

    c = asked_config(settings).resolved()
    wrong = [
        f"--{name} is {value:g}; expected {what}"
        for name, value, what in (
            ("parameters", parameters, "the number of trainable parameters, such as 125e6"),
            ("steps-per-s", steps_per_s, "the local steps of a client in a second, above 0"),
            ("gbps", gbps, "a number above 0"),
        )
        if value <= 0
    ]
    if not c.client.steps:
        wrong.append("client.steps is 0; expected the local steps of a round (H), such as 64")
    if wrong:
        raise ConfigError("\n".join(wrong))
    run = Run(c.run.rounds, c.client.steps, c.round.cohort, steps_per_s)
    dense, sparse = Traffic.dense(parameters, dense_bytes), compressed(c, parameters)
    table = Table("exchange", "topology", "hours", "on the network")
    for row in rows(run, dense, sparse, gbps * 1e9 / 8):
        hours = f"{row.seconds / 3600:,.2f}"
        table.add_row(row.way, row.topology, hours, f"{row.communication:.1%}")
    console = Console(width=max(100, Console().width))
    console.print(table)
    console.print(
        f"{run.rounds:,} rounds of {run.steps:,} steps, {run.clients} clients. A client's round, "
        f"dense: {dense.up / 1e9:,.3g} GB each way. {c.strategy.name}: {sparse.up / 1e9:,.3g} GB up"
        f" ({dense.up / sparse.up:,.1f}x less), {sparse.down / 1e9:,.3g} GB down "
        f"({dense.down / sparse.down:,.1f}x less).",
        highlight=False,
    )
