"""`fedllm plan`: from options to a budget, what fits into it, and the pilot that ranks it.

fedllm plan recipes/bench-s.toml --max-up-mb 20 --no-base --vary lora.rank=4,16
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedllm_app.study.question import Question, check

if TYPE_CHECKING:  # the command line starts without tensors
    from rich.console import Console

    from fedllm_app.config import RunConfig
    from fedllm_app.devices.network import Network
    from fedllm_app.parts import Parts
    from fedllm_app.study.budget import Budget
    from fedllm_app.study.pilot import Pilot
    from fedllm_app.study.planner import Candidate
    from fedllm_app.study.predict import Predictor

Option = typer.Option
Words = Annotated[
    list[str] | None, typer.Argument(help="A recipe (.toml), then any KEY=VALUE over it.")
]
Vary = Annotated[
    list[str] | None,
    Option(help="KEY=V1,V2,...: values to combine, instead of the default values."),
]
UpMB = Annotated[float, Option(min=0, help="Limit on all uploads in MB (10^6 bytes). 0: no limit.")]
DownMB = Annotated[float, Option(min=0, help="Limit on all downloads in MB. 0: no limit.")]
BothMB = Annotated[
    float, Option(min=0, help="Limit on uploads and downloads together in MB. 0: no limit.")
]
Seconds = Annotated[float, Option(min=0, help="Limit on simulated seconds. 0: no limit.")]
Joules = Annotated[
    float, Option(min=0, help="Limit on joules of all simulated devices. 0: no limit.")
]
PerRound = Annotated[
    bool, Option("--per-round", help="Apply the limits to every single round, without the base.")
]
Base = Annotated[bool, Option(help="Count the one-time download of the base in the budget.")]
DownMbps = Annotated[float, Option(min=0, help="Mbps of a download. 0: as in the run-config.")]
UpMbps = Annotated[float, Option(min=0, help="Mbps of an upload. 0: as in the run-config.")]
Latency = Annotated[
    float, Option(min=0, help="One-way latency of a link in ms. 0: as in the run-config.")
]
Links = Annotated[
    Path | None, Option(help="CSV of clients: client, down-mbps, up-mbps, latency-ms.")
]
MinRounds = Annotated[
    int,
    Option(
        min=0,
        help="Also show configurations that fit with at least this many rounds. 0: half of them.",
    ),
]
Like = Annotated[
    list[Path] | None,
    Option(help="Folder of a finished run to learn from. Of several, the nearest densities win."),
]
Rows = Annotated[int, Option(min=1, help="Rows to print.")]
Json = Annotated[Path | None, Option("--json", help="File to write every candidate to.")]
Share = Annotated[
    float,
    Option(help="Share of the budget for short runs that rank the candidates. 0: no short runs."),
]
First = Annotated[
    int, Option(min=0, help="Rounds of the first rung. 0: a fifth of the run's rounds, or more.")
]
Most = Annotated[
    int, Option(min=0, help="Maximum number of candidates to try. 0: all that the share pays for.")
]
Out = Annotated[Path | None, Option(help="New recipe to write the winner to.")]


def plan(
    settings: Words = None,
    vary: Vary = None,
    max_up_mb: UpMB = 0.0,
    max_down_mb: DownMB = 0.0,
    max_mb: BothMB = 0.0,
    max_seconds: Seconds = 0.0,
    max_energy_j: Joules = 0.0,
    per_round: PerRound = False,
    base: Base = True,
    down_mbps: DownMbps = 0.0,
    up_mbps: UpMbps = 0.0,
    latency_ms: Latency = 0.0,
    links: Links = None,
    min_rounds: MinRounds = 0,
    like: Like = None,
    show: Rows = 20,
    json_file: Json = None,
    pilot: Share = 0.0,
    pilot_rounds: First = 0,
    pilot_most: Most = 0,
    out: Out = None,
) -> None:
    """Print the configurations that fit into a budget; with --pilot, find the best of them."""
    from rich.console import Console

    from fedllm_app.deploy.launch import asked_config
    from fedllm_app.study.budget import Budget

    config = asked_config(settings)
    budget = Budget(max_up_mb, max_down_mb, max_mb, max_seconds, per_round, base, max_energy_j)
    network = network_for(config, down_mbps, up_mbps, latency_ms, links)
    question = Question(
        config, budget, network, vary or (), min_rounds, like or (), show, json_file, pilot,
        pilot_rounds, pilot_most, out,
    )  # fmt: skip
    check(question)
    console = Console()
    if not console.is_terminal:  # a table in a file is not cut to 80 columns
        console = Console(width=max(console.width, 120))
    answer(question, console)


def network_for(
    config: "RunConfig", down_mbps: float, up_mbps: float, latency_ms: float, links: Path | None
) -> "Network | None":
    """Return what seconds are reckoned with: links, the options over the run-config's, and speeds.

    Raises
    ------
    ConfigError
        If only one of the two speeds is known, or the file is not one of links.
    """
    from fedllm_app.core.errors import ConfigError
    from fedllm_app.devices.compute import Compute
    from fedllm_app.devices.fleet import Fleet
    from fedllm_app.devices.network import Network, NetworkSettings

    settings: NetworkSettings = config.network.resolved()
    given = {"down_mbps": down_mbps, "up_mbps": up_mbps, "latency_ms": latency_ms}
    update: dict[str, Any] = {name: value for name, value in given.items() if value}
    update |= {"preset": "", "file": str(links.resolve()) if links else settings.file}
    settings = settings.model_copy(update=update)
    down, up = settings.down_mbps, settings.up_mbps
    if bool(down) != bool(up):
        raise ConfigError(f"--down-mbps is {down:g}, --up-mbps is {up:g}; expected both above 0")
    if not down and not settings.file:
        if settings.latency_ms:
            raise ConfigError(
                f"--latency-ms is {settings.latency_ms:g} and no link is known; expected "
                "--down-mbps and --up-mbps, or --links FILE"
            )
        if not config.compute.on and not config.devices.on:
            return None
    fleet = Fleet(config.devices, config.run.seed) if config.devices.on else None
    timed = config.compute.on or fleet is not None
    compute = Compute(config.compute, config.run.seed, fleet) if timed else None
    return Network(settings, config.run.seed, compute)


def answer(q: Question, console: "Console") -> None:
    """Predict and print; play the pilot where one is asked for."""
    from fedllm_app.fitting import Fitting, told
    from fedllm_app.parts import Parts
    from fedllm_app.place import Place
    from fedllm_app.study import planner
    from fedllm_app.study.pilot import metric_of
    from fedllm_app.study.show import print_candidates, print_pilots, say, write_json, write_winner

    listen(logging.INFO)
    asked = [pair.partition("=")[0].strip() for pair in q.vary]
    choices = planner.combinations(q.config, planner.read_axes(q.config, q.vary), asked)
    budget = q.budget.left(q.share) if q.share else q.budget
    least = q.min_rounds or math.ceil(q.config.run.rounds / 2)
    parts = Parts(q.config, Place.of(q.config))
    predicts = predictor(q.config, q.network, q.like, parts)
    candidates = planner.plan(choices, budget, predicts, least)
    print_candidates(console, candidates, len(choices), budget, q.rows)
    fleet = q.network.fleet if q.network else None
    classes = fleet.present(predicts.counts) if fleet else []
    say(console, told(Fitting(parts), [fleet.profiles[name] for name in classes] if fleet else []))
    metric, pilots = metric_of(q.config), list["Pilot"]()
    if q.share:
        spending = q.budget.share(q.share, q.config.run.rounds)
        pilots = play(q, candidates, spending, console)
        print_pilots(console, pilots, spending, metric)
        write_winner(console, pilots[0], q.share, metric, q.out)
    if q.json_file is not None:
        write_json(q.json_file, q.config, q.budget, candidates, pilots, metric)


def predictor(
    config: "RunConfig",
    network: "Network | None",
    like: Sequence[Path] = (),
    parts: "Parts | None" = None,
) -> "Predictor":
    """Return the predictor over a configuration's data and model.

    Parameters
    ----------
    like : folders of finished runs to learn from.
    parts : of the configuration, where there are some.

    Raises
    ------
    ConfigError
        If a client has no link.
    """
    from fedllm_app.config import RunConfig, read_recipe
    from fedllm_app.core.errors import ConfigError
    from fedllm_app.parts import Parts
    from fedllm_app.place import Place
    from fedllm_app.study.predict import Predictor

    parts = parts or Parts(config, Place.of(config))
    if network is not None:
        network.count(parts.row_flops, parts.row_part)
    made = Predictor.of(parts, network)
    links = {client: network.link(client) for client in made.counts} if network else {}
    slow = [client for client, link in links.items() if not (link.down_mbps and link.up_mbps)]
    if slow:
        raise ConfigError(
            f"--links has no speed for {len(slow)} of {len(links)} clients, e.g. {slow[:3]}; "
            "expected a line for each, or --down-mbps and --up-mbps for the rest"
        )
    for run in like:
        made.learn(RunConfig.parse(read_recipe(run / "config.toml")), run)
    return made


def play(
    q: Question, candidates: "Sequence[Candidate]", budget: "Budget", console: "Console"
) -> "list[Pilot]":
    """Play the short runs and return them, the best first.

    Raises
    ------
    ConfigError
        If there is nothing to choose from, or the share does not pay for it.
    """
    from fedllm_app.core.errors import ConfigError
    from fedllm_app.study import pilot
    from fedllm_app.study.halving import halve
    from fedllm_app.study.planner import label
    from fedllm_app.study.show import say

    over = predictor(pilot.pilot_config(candidates[0]), q.network)
    rounds = max(c.fits for c in candidates)
    runs = pilot.prepare(candidates, over)
    if len(runs) == 1:
        raise ConfigError(
            f"nothing to rank: within the budget, {label(runs[0].candidate.settings)} cannot be "
            "raised and every other configuration can be raised to it; leave out --pilot, or vary "
            "more"
        )
    first = q.first or math.ceil(rounds / 5)
    chosen, rungs = pilot.affordable(runs, budget, first, rounds, q.most)
    if not q.first:
        rungs = pilot.stretched(chosen, rungs, budget, rounds)
    say(console, pilot.told(len(chosen), len(runs), rungs))
    listen(logging.WARNING)
    chosen = pilot.named(chosen, rungs[0])
    return halve(chosen, rungs, budget, pilot.metric_of(q.config), q.network, over.counts)


def listen(level: int) -> None:
    """Show progress on standard error: the pilot's always, all else from `level` on."""
    from rich.console import Console
    from rich.logging import RichHandler

    logger = logging.getLogger("fedllm")
    if not any(isinstance(handler, RichHandler) for handler in logger.handlers):
        logger.addHandler(RichHandler(console=Console(stderr=True), show_path=False))
    logger.setLevel(level)
    logging.getLogger("fedllm.pilot").setLevel(logging.INFO)
