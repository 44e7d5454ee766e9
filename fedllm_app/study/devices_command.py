"""`fedllm devices`: list and check the profiles of classes of devices."""

from pathlib import Path
from typing import Annotated

import typer


def devices(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Profiles of your own (TOML), to be checked.")
    ] = None,
    sources: Annotated[bool, typer.Option(help="Print where each figure is from.")] = False,
) -> None:
    """List the classes of devices that devices.fleet can name, and check profiles of your own."""
    from rich.console import Console
    from rich.table import Table

    from fedllm_app.devices.profile import UNITS, read_profiles

    profiles = read_profiles(files or ())
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
