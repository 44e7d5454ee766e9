"""What is wrong between a method and the keys that say how it works; one sentence for each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.settings import kebab
from fedllm_app.server.methods import STRATEGIES, method_of
from fedllm_app.server.methods.base import Method
from fedllm_app.server.methods.settings import StrategySettings
from fedllm_app.server.methods.shares import shrinking

if TYPE_CHECKING:
    from fedllm_app.config import RunConfig

READ_BY_SOME = (
    "tier-densities", "tier-ranks", "head", "mean", "error-feedback", "down", "down-history",
    "feedback-decay", "rounding", "top-k", "block", "fragments", "mixing",
    "momentum", "train-share", "train-always", "head-share", "tier-heads", "beside-heads",
)  # fmt: skip


def of_strategy(c: "RunConfig", method: Method) -> Iterator[str]:
    """Yield what is wrong between a method and the keys that say how it works."""
    name, strategy, defaults = c.strategy.name, c.strategy, StrategySettings()
    try:
        method.own_settings(strategy)
    except ConfigError as error:
        yield str(error)
    own = method.server.get("optimizer", "")
    if own and c.server.optimizer not in ("", own, *method.optimizers):
        yield (
            f"server.optimizer is {c.server.optimizer!r}, but strategy.name = {name!r} is defined "
            f"with {own!r}; leave it automatic, or choose strategy.name = 'dense'"
        )
    for key in READ_BY_SOME:
        value = getattr(strategy, key.replace("-", "_"))
        default = getattr(defaults, key.replace("-", "_"))
        if value != default and key not in method.keys:
            readers = [other for other, m in STRATEGIES.items() if key in m.keys]
            yield (
                f"strategy.{key} is {value!r}, which strategy.name = {name!r} does not read; "
                f"expected {default!r}, or one of {', '.join(readers)}"
            )
    down, values = strategy.down, c.wire.down_values
    if strategy.down_history and (down, values) != ("change", "grid"):
        yield (
            f"strategy.down-history is {strategy.down_history} with strategy.down = {down!r} and "
            f"wire.down-values = {values!r}; expected 'change' and 'grid', or a history of 0"
        )
    chosen = ("d-up" in method.keys and strategy.d_up < 1) or (
        "tier-densities" in method.keys and min(strategy.densities) < 1
    )
    whole = name in STRATEGIES and not chosen and c.wire.up_values == "fp32"
    if strategy.error_feedback and "error-feedback" in method.keys and whole:
        yield (
            f"strategy.error-feedback is True with strategy.name = {name!r} sending all that it "
            "trains and wire.up-values = 'fp32', which leave nothing out; expected false"
        )
    decays = {"error-feedback", "feedback-decay"} <= {*method.keys}
    if decays and strategy.feedback_decay >= 0 and not strategy.error_feedback:
        yield (
            f"strategy.feedback-decay is {strategy.feedback_decay:g} with strategy.error-feedback "
            "= False, which keeps nothing; set strategy.error-feedback to true, or the decay to -1"
        )
    if method.needs_lora and c.model.train != "lora":
        yield f"model.train is {c.model.train!r}; strategy.name = {name!r} needs 'lora'"
    if strategy.head == "whole" and c.model.train != "lora":
        yield f"strategy.head is 'whole'; expected 'competes' with model.train = {c.model.train!r}"
    if "tier-ranks" in method.keys and max(strategy.ranks) > c.lora.rank:
        yield (
            f"strategy.tier-ranks is {strategy.tier_ranks or '1,4,16'!r}; expected ranks of at "
            f"most that of the bank, lora.rank = {c.lora.rank}"
        )
    if "decay" in method.keys and not strategy.decay:
        try:
            shrinking(strategy.density, c.run.rounds)
        except ValueError as error:
            yield (
                f"strategy.decay is 0 (automatic) with strategy.density = {strategy.density:g} and "
                f"run.rounds = {c.run.rounds}; expected {error}, or a decay of your own"
            )


def unused_keys(c: "RunConfig") -> list[str]:
    """Return the fields of strategy that are set and that the method does not read.

    Densities may differ between methods that one recipe serves, so they are told, not refused.
    """
    defaults, read = dict(StrategySettings()), {"name", *read_keys(c)}
    return [k for k, value in c.strategy if kebab(k) not in read and value != defaults[k]]


def read_keys(c: "RunConfig") -> set[str]:
    """Return the strategy keys that say something: a decay that is given leaves none to density."""
    method = method_of(c.strategy.name)
    keys = set(method.keys)
    if "decay" in keys and c.strategy.decay:
        keys -= {"density"}
    if method.filled(c.strategy).top_k != "block":
        keys -= {"block"}
    return keys


def of_aggregate(c: "RunConfig", method: Method) -> Iterator[str]:
    """Yield why a trimmed mean or a median would leave nothing, or not be what it says."""
    asked, name = c.round, f"round.aggregate is {c.round.aggregate!r}"
    if asked.aggregate == "mean":
        return
    weights = asked.weights or method.weights
    if weights != "uniform":
        yield (
            f"{name}, where all replies count alike, with round.weights = {weights!r}; set "
            "round.weights to 'uniform', or round.aggregate to 'mean'"
        )
    if asked.shared:
        yield (
            f"{name} of a number of clients that is not known before they are counted: "
            f"round.clients is {asked.clients!r}; expected a number, or round.aggregate = 'mean'"
        )
        return
    trim = 0.5 if asked.aggregate == "median" else asked.trim
    n = asked.cohort
    if n < 3 or (asked.aggregate == "trimmed-mean" and trim * n < 1 - 1e-9):
        yield (
            f"{name}, which leaves out nobody of round.clients = {asked.clients} with round.trim = "
            f"{asked.trim:g}; expected more clients, a larger round.trim, or 'mean'"
        )
    mean, densities = c.strategy.mean or method.mean, [1.0]
    if "d-up" in method.keys:
        densities = [c.strategy.d_up]
    elif "train-share" in method.keys:
        densities = [c.strategy.train_share]
    elif "tier-densities" in method.keys:
        densities = c.strategy.densities
    if mean == "cohort" and min(densities) <= trim:
        yield (
            f"{name} of replies that send {min(densities):.3g} of the coordinates, and what is not "
            "sent counts as a zero: next to nothing would be left. Set strategy.mean to 'senders'"
        )
