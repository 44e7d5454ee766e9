"""The base of every settings class: frozen, typed, kebab-case, each field with one sentence.

A part declares its settings beside the code that reads them:

    class WireSettings(Settings):
        up_values: Literal["fp32", "int8"] = Field("fp32", description="Type of values sent up.")

`config.py` assembles the sections and turns every violation into one readable line.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fedllm_app.core.errors import ConfigError

Scalar = bool | int | float | str


def kebab(name: str) -> str:
    """Return the run-config spelling of a field name: `d_up` is `d-up`."""
    return name.replace("_", "-")


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Return a nested table with dotted keys."""
    flat: dict[str, Scalar] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class Settings(BaseModel):
    """One namespace of the run-config. Types are strict, save that a whole number is a float."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        alias_generator=kebab,
        populate_by_name=True,
    )


S = TypeVar("S", bound=Settings)


def parsed_args(key: str, text: str, kind: type[S]) -> S:
    """Return settings of your own from one string, such as "mu=0.1,head=whole".

    Raises
    ------
    ConfigError
        If a name is unknown, or a value is not of its type.
    """
    values: dict[str, Any] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{key} is {text!r}; expected name=value pairs with commas")
        values[name.strip()] = value.strip()
    try:
        return kind.model_validate(values, strict=False)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc']))} is {e['input']!r}: {e['msg']}" for e in error.errors()
        )
        names = ", ".join(kebab(name) for name in kind.model_fields) or "none"
        raise ConfigError(f"{key} is {text!r}; {wrong}. Its names are {names}") from None
