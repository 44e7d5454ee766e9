"""What is wrong between a local rule, its method, and other keys; one sentence for each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedllm_app.client.rules import rule_kind, rule_of
from fedllm_app.client.settings import STREAM
from fedllm_app.core.errors import ConfigError
from fedllm_app.server.methods import STRATEGIES
from fedllm_app.server.methods.base import Method

if TYPE_CHECKING:
    from fedllm_app.config import RunConfig


def of_rule(c: "RunConfig", method: Method) -> Iterator[str]:
    """Yield what is wrong with the rule of local steps."""
    name, rule = c.strategy.name, c.client.rule or method.rule
    local = c.client.model_copy(update={"rule": rule})
    try:
        rule_of(local)
    except ConfigError as error:
        yield str(error)
        return
    kind, told = rule_kind(local), f"client.rule is {rule!r}"
    if not c.client.rule and rule:
        told = f"strategy.name is {name!r}, whose client.rule is {rule!r}"
    if kind.keeps and not c.run.name:
        yield (
            f"{told}, which keeps state, with run.name = ''; expected a name, by which a device "
            "finds what it kept"
        )
    if method.rule and rule != method.rule:
        yield f"{told}, but strategy.name = {name!r} is defined with {method.rule!r}; leave it ''"
    elif name in STRATEGIES and ":" not in rule and set(kind.beside) != set(method.beside):
        yield (
            f"{told}, which needs the vectors {', '.join(kind.beside)} of all coordinates beside "
            f"the parameters, and strategy.name = {name!r} sends none; expected strategy.name = "
            f"{rule!r}"
        )
    decay = c.client.weight_decay
    if kind.plain and (c.client.optimizer != "sgd" or c.client.momentum or decay):
        yield (
            f"{told}, where a local step is plain SGD, with client.optimizer = "
            f"{c.client.optimizer!r}, client.momentum = {c.client.momentum:g} and "
            f"client.weight-decay = {decay:g}; expected 'sgd', 0 and 0"
        )
    if kind.looks_first and c.reading == STREAM:
        yield (
            f"{told}, which takes the gradient of all of a client's examples first, with "
            "client.reading = 'stream'; expected 'epochs'"
        )
    yield from _of_beside(c, method)


def _of_beside(c: "RunConfig", method: Method) -> Iterator[str]:
    """Yield why a mean over one round's replies would not be what a method takes it for."""
    if not method.beside:
        return
    told = f"strategy.name is {c.strategy.name!r}, which sends {', '.join(method.beside)}"
    weights = c.round.weights or method.weights
    if weights != "uniform" or c.round.aggregate != "mean":
        yield (
            f"{told} to be averaged over all clients alike, with round.weights = {weights!r} and "
            f"round.aggregate = {c.round.aggregate!r}; expected 'uniform' and 'mean'"
        )
    if c.round.pacing == "async":
        yield (
            f"{told} of the model of the same round, with round.pacing = 'async'; expected 'sync' "
            "or 'deadline'"
        )
    if c.wire.down_values == "grid":
        yield (
            f"{told}, which is no change from a start, with wire.down-values = 'grid'; expected "
            "another value type"
        )
