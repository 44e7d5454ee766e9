"""`fedllm devices`: list and check the profiles of classes of devices, and measure this machine."""

from pathlib import Path
from typing import Annotated

import typer

Sources = Annotated[bool, typer.Option("--sources", help="Print where each figure is from.")]


def devices(context: typer.Context, sources: Sources = False) -> None:
    """List the classes of devices that devices.fleet can name."""
    if context.invoked_subcommand is None:
        show([], sources)


def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Profiles of your own (TOML).")] = None,
    sources: Sources = False,
    job: Annotated[
        list[str] | None,
        typer.Option(help="A recipe, or key=value over it: is there memory for a job of it?"),
    ] = None,
) -> None:
    """Check profiles of your own, and list them beside the others."""
    show(files or [], sources)
    if not job:
        return
    from fedllm_app.deploy.launch import asked_config
    from fedllm_app.devices.profile import read_profiles
    from fedllm_app.fitting import Fitting, told
    from fedllm_app.parts import Parts
    from fedllm_app.place import Place

    config = asked_config(job)
    typer.echo(told(Fitting(Parts(config, Place.of(config))), read_profiles(files or []).values()))


def measure(
    settings: Annotated[
        list[str] | None, typer.Argument(help="A recipe, and key=value over it: what is trained.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The file that is written.")] = Path("device.toml"),
    name: Annotated[str, typer.Option(help="Of the class.")] = "",
    like: Annotated[
        str, typer.Option(help="The class that what is not measured is taken from.")
    ] = "laptop",
    watts: Annotated[float, typer.Option(help="What the machine draws while it trains.")] = 0.0,
    seconds: Annotated[float, typer.Option(help="For how long steps are timed.")] = 20.0,
) -> None:
    """Time this machine on the training steps of a run, and write it down as a class of devices."""
    import logging
    import math
    import sys

    import tomli_w

    from fedllm_app.core.errors import ConfigError
    from fedllm_app.deploy.launch import asked_config
    from fedllm_app.devices.profile import name_problems, read_profile, read_profiles
    from fedllm_app.study.measure_device import as_toml, measured_profile

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    known, name = read_profiles(), name or out.stem
    problems = [f"--name: {problem}" for problem in name_problems(name)]
    if like not in known:
        problems.append(f"--like is {like!r}; expected one of {', '.join(known)}")
    if not 0 <= watts < math.inf:
        problems.append(f"--watts is {watts:g}; expected 0 (not known) or more, e.g. 15")
    if not 0 < seconds < math.inf:
        problems.append(f"--seconds is {seconds:g}; expected more than 0, e.g. 20")
    if out.is_dir() or not out.parent.is_dir():
        problems.append(f"--out is {str(out)!r}; expected a file in a folder that is there")
    if problems:
        raise ConfigError("\n".join(problems))
    found = measured_profile(asked_config(settings), name, known[like], seconds, watts)
    out.write_text(tomli_w.dumps(as_toml(found)), "utf-8")
    read_profile(out)
    for figure, own in found.figures.items():
        typer.echo(f"{figure}: {own.value:.4g} {own.unit}, {own.kind}: {own.source}")
    typer.echo(f"written to {out}; use it with devices.files={str(out.resolve())!r}")


def show(files: list[Path], sources: bool) -> None:
    """Print a table of all classes, those of more files among them."""
    from rich.console import Console
    from rich.table import Table

    from fedllm_app.devices.profile import UNITS, read_profiles

    profiles = read_profiles(files)
    table = Table("class", "about", *(f"{name}, {unit}" for name, (unit, _) in UNITS.items()))
    for profile in profiles.values():
        cells = (f"{profile[name]:.3g}" + _mark(profile.figures[name].kind) for name in UNITS)
        table.add_row(profile.name, profile.about, *cells)
    console = Console(width=max(160, Console().width))
    console.print(table)
    console.print("No mark: measured. s: specified by the maker. a: assumed; sweep it.")
    for profile in profiles.values() if sources else ():
        console.print(f"\n{profile.name}", highlight=False)
        for name, figure in profile.figures.items():
            said = f"  {name}: {figure.value:g} {figure.unit}, {figure.kind}: {figure.source}"
            console.print(said, highlight=False, soft_wrap=True)


def _mark(kind: str) -> str:
    return {"specified": " s", "assumed": " a"}.get(kind, "")
