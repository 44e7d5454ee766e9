"""The `fedllm` command: what `flwr run` does not do.

fedllm run recipes/bench-s.toml strategy.name=dense
"""

import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.table import Table

from fedllm_app.core.errors import ConfigError, FedllmError
from fedllm_app.models.settings import BACKBONES
from fedllm_app.study import devices_command
from fedllm_app.study.centralized import centralized
from fedllm_app.study.command import plan
from fedllm_app.study.guide_command import guide
from fedllm_app.study.sweep_command import sweep
from fedllm_app.study.walltime_command import walltime
from fedllm_app.talk.command import commands

app = typer.Typer(
    help="Fine-tune language models over devices that keep their own data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
P = ParamSpec("P")
Home = Annotated[Path, typer.Option(help="Folder for runs and caches.")]
HOME = Path.home() / ".fedllm"


def user_errors(command: Callable[P, None]) -> Callable[..., None]:
    """Show a failure that a user can act on as its message, and exit with 1.

    `--verbose`, which every command gets by this, shows where it arose, too.
    """
    parameters = list(signature(command).parameters.values())
    has_its_own = any(parameter.name == "verbose" for parameter in parameters)

    @wraps(command)
    def shown(*args: Any, **kwargs: Any) -> None:
        verbose = kwargs["verbose"] if has_its_own else kwargs.pop("verbose", False)
        try:
            command(*args, **kwargs)
        except FedllmError as error:
            if verbose:
                traceback.print_exception(error)
            Console(stderr=True).print(
                f"{type(error).__name__}: {error}", style="red", markup=False, soft_wrap=True
            )
            raise typer.Exit(1) from None

    if not has_its_own:
        option = Annotated[bool, typer.Option("--verbose", help="Show where an error arose.")]
        parameters.append(
            Parameter("verbose", Parameter.KEYWORD_ONLY, default=False, annotation=option)
        )
        shown.__annotations__ = {**command.__annotations__, "verbose": option}
        shown.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return shown


@app.command()
@user_errors
def run(
    settings: Annotated[
        list[str] | None, typer.Argument(help="A recipe (.toml), then any KEY=VALUE over it.")
    ] = None,
    federation: Annotated[
        Path | None, typer.Option(help="Federation file with simulation settings.")
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", help="Print the whole configuration first, and where an error arose."
        ),
    ] = False,
) -> None:
    """Run a federation with `flwr run` on a SuperLink of its own, stopped at the end."""
    from fedllm_app.config import RunConfig, check_listed
    from fedllm_app.config.inputs import input_problems
    from fedllm_app.core.settings import flatten
    from fedllm_app.deploy.bundle import kept_back, too_deep, unshipped_modules
    from fedllm_app.deploy.federation import federation_problems
    from fedllm_app.deploy.launch import (
        FEDERATION,
        find_app,
        merged_config,
        recipe_and_pairs,
        run_flower,
    )

    recipe, overrides = recipe_and_pairs(settings)
    root = find_app()
    overrides = [*overrides, *(["run.verbose=true"] if verbose else [])]
    config = RunConfig.parse(flat := flatten(merged_config(recipe, overrides)))
    check_listed(root, flat)
    federation = federation or root / FEDERATION
    problems = [*unshipped_modules(root, config.flat()), *too_deep(root)]
    problems += federation_problems(config, federation)
    embedded = config.model.source in BACKBONES
    problems += input_problems(config) if embedded else []
    if problems:
        raise ConfigError("\n".join(problems))
    if not embedded:
        # In a process of its own: this one waits for the run, and is to stay small.
        words = [sys.executable, "-m", "fedllm_app.cli", "check", *map(str, settings or [])]
        words += ["--verbose"] if verbose else []
        if subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode:
            raise typer.Exit(1)
    if said := kept_back(root):
        typer.echo(said)
    code = run_flower(
        root,
        recipe=recipe,
        overrides=overrides,
        federation=federation,
    )
    raise typer.Exit(code)


@app.command()
@user_errors
def check(
    settings: Annotated[
        list[str] | None, typer.Argument(help="A recipe (.toml), then any KEY=VALUE over it.")
    ] = None,
) -> None:
    """Check settings, data and model in seconds; nothing is trained, and no weights are read."""
    from fedllm_app.config.inputs import input_problems
    from fedllm_app.deploy.launch import asked_config

    if problems := input_problems(asked_config(settings)):
        raise ConfigError("\n".join(problems))
    typer.echo("Settings, data and model fit together.")


@app.command()
@user_errors
def report(
    runs: Annotated[list[str], typer.Argument(help="Names or folders of runs.")],
    out: Annotated[Path | None, typer.Option(help="Page to write.")] = None,
    x: Annotated[
        str,
        typer.Option(
            help="Horizontal axis of figures over rounds: rounds, simulated (seconds), compute, "
            "or energy."
        ),
    ] = "rounds",
    home: Home = HOME,
) -> None:
    """Write report.html of a run, or one page that compares several."""
    from fedllm_app.config.unread import unread_keys
    from fedllm_app.report.page import print_summary, write_comparison, write_report

    folders = [run_folder(name, home) for name in runs]
    for folder in folders:
        print_summary(folder)
    if len(folders) == 1 and out is None:
        page = write_report(folders[0], x)
    else:
        target = (out or Path("comparison.html")).resolve()
        page = write_comparison(folders, target, x, unread_keys)
    typer.echo(page)


@app.command()
@user_errors
def export(
    name: Annotated[str, typer.Argument(help="Name or folder of a run.")],
    merge: Annotated[Path, typer.Option(help="Empty folder for the merged model.")],
    base: Annotated[
        str,
        typer.Option(help="The base where it has moved: its folder, hub name or .gguf file."),
    ] = "",
    gguf: Annotated[
        bool, typer.Option(help="Write what llama.cpp converts to GGUF, and the command for it.")
    ] = False,
    home: Home = HOME,
) -> None:
    """Write a run's adapter and its base as one model that loads with from_pretrained."""
    from fedllm_app.models.export import merge as merge_adapter
    from fedllm_app.models.gguf import ready_for_gguf

    adapter = run_folder(name, home) / "adapter"
    out = merge_adapter(adapter, merge.resolve(), base, home.resolve() / "cache")
    typer.echo(ready_for_gguf(out) if gguf else out)


@app.command()
def strategies() -> None:
    """List the methods with their keys and sources."""
    from fedllm_app.server.methods import STRATEGIES

    table = Table("strategy.name", "what it does", "keys: strategy.…", "source")
    for name, method in STRATEGIES.items():
        table.add_row(name, method.about, "\n".join(method.keys), method.source)
    Console(width=max(100, Console().width)).print(table)


@app.command()
@user_errors
def keys(
    toml: Annotated[bool, typer.Option(help="Print the section of pyproject.toml.")] = False,
) -> None:
    """List every key of the run-config with its default and meaning."""
    from fedllm_app.config import RunConfig, describe, keys_toml

    if toml:
        typer.echo(keys_toml())
        return
    table = Table("key", "default", "meaning")
    for key, value in RunConfig().flat().items():
        table.add_row(key, repr(value), describe(key))
    Console(width=max(100, Console().width)).print(table)


for command_name, command_of in commands(lambda name, home: run_folder(name, home)).items():
    app.command(command_name)(user_errors(command_of))
app.command("plan")(user_errors(plan))
of_devices = typer.Typer(help="Classes of devices: list, check, measure.")
of_devices.callback(invoke_without_command=True)(user_errors(devices_command.devices))
of_devices.command("check")(user_errors(devices_command.check))
of_devices.command("measure")(user_errors(devices_command.measure))
app.add_typer(of_devices, name="devices")
app.command("sweep")(user_errors(sweep))
app.command("guide")(user_errors(guide))
app.command("centralized")(user_errors(centralized))
app.command("walltime")(user_errors(walltime))


def run_folder(name: str, home: Path) -> Path:
    """Return a run's folder by its name or path.

    Raises
    ------
    ConfigError
        If there is none; the message lists those there are.
    """
    given = Path(name)
    # A path may name the run, or something in it such as its report.html or adapter/.
    for folder in (
        given,
        *([given.resolve().parent] if given.exists() else []),
        home / "runs" / name,
    ):
        if (folder / "config.toml").exists():
            return folder.resolve()
    runs = home / "runs"
    known = sorted(p.name for p in runs.glob("*") if (p / "config.toml").exists())
    raise ConfigError(
        f"run {name!r} is neither a folder nor one of {known} in {runs}. A run of another run.home "
        "is found by the path of its folder, RUN.HOME/runs/NAME, or with --home RUN.HOME"
    )


if __name__ == "__main__":
    sys.exit(app())
