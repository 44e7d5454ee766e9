"""What a device does in a local step: an optimizer, and a rule with hooks around the steps."""

from fedllm_app.client.rules.base import LocalRule
from fedllm_app.client.rules.fedprox import FedProx
from fedllm_app.client.rules.mimelite import MimeLite
from fedllm_app.client.rules.scaffold import Scaffold
from fedllm_app.client.settings import ClientSettings
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.extend import load
from fedllm_app.core.settings import parsed_args

RULES: dict[str, type[LocalRule]] = {
    "fedprox": FedProx, "scaffold": Scaffold, "mimelite": MimeLite,
}  # fmt: skip


def rule_of(settings: ClientSettings) -> LocalRule:
    """Return the rule of local training, with the settings it was given.

    Raises
    ------
    ConfigError
        If there is none of that name, or `client.rule-args` does not fit it.
    """
    kind = rule_kind(settings)
    if kind.Keys is None:
        if settings.rule_args:
            raise ConfigError(
                f"client.rule-args is {settings.rule_args!r}; expected '', since client.rule = "
                f"{settings.rule!r} has no keys of its own"
            )
        return kind(None)
    return kind(parsed_args("client.rule-args", settings.rule_args, kind.Keys))


def rule_kind(settings: ClientSettings) -> type[LocalRule]:
    """Return the class of the rule of local training; ConfigError if there is none of that name."""
    if not settings.rule:
        return LocalRule
    kind: type[LocalRule] = load("client.rule", settings.rule, _is_rule, RULES)
    return kind


def _is_rule(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, LocalRule)
