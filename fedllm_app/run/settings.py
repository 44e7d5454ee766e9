"""The settings of a run and of its rounds: namespaces `run` and `round`."""

import math
import re
from fractions import Fraction
from typing import Literal

from pydantic import Field, field_validator

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.settings import Settings

Aggregated = Literal["mean", "trimmed-mean", "median"]


class RunSettings(Settings):
    """Namespace `run`: its name, where it is kept, how long it is."""

    name: str = Field(
        "",
        description="Name of the run and of its folder. Start the same name again to resume "
        "the run. Automatic: made from the method and the time.",
    )
    home: str = Field(
        "", description="Absolute path of the folder for runs and caches. Automatic: ~/.fedllm."
    )
    seed: int = Field(0, ge=0, description="Seed of all random choices of the run.")
    rounds: int = Field(40, ge=1, description="Number of rounds.")
    checkpoint_every: int = Field(10, ge=1, description="Number of rounds between checkpoints.")
    verbose: bool = Field(
        False, description="Print the whole configuration when the run begins, not ten lines."
    )

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ValueError("at most 100 letters, digits, dots, dashes, underscores")
        return name


class RoundSettings(Settings):
    """Namespace `round`: who takes part, how long it may last, when to stop."""

    clients: int | float = Field(
        5,
        description="Number of clients sampled in each round, or their share: 0.01 is one in a "
        "hundred of those with examples.",
    )
    pacing: Literal["sync", "deadline", "async"] = Field(
        "sync",
        description="When the server steps: 'sync' after all replies of a round, 'deadline' after "
        "the first round.clients of more that are asked, 'async' after every round.goal replies of "
        "clients that are always at work.",
    )
    over_select: float = Field(
        1.3,
        ge=1,
        le=100,
        description="With round.pacing 'deadline', how many times round.clients are asked.",
    )
    deadline_s: float = Field(
        0.0,
        ge=0,
        description="With round.pacing 'deadline', seconds after which a round closes, simulated "
        "where a clock runs. 0: no such limit.",
    )
    concurrency: int = Field(
        0,
        ge=0,
        description="With round.pacing 'async', number of clients that are at work at any time. "
        "Automatic: round.clients.",
    )
    goal: int = Field(
        0,
        ge=0,
        description="With round.pacing 'async', number of accepted replies for a step. Automatic: "
        "half of round.concurrency.",
    )
    most_stale: int = Field(
        100,
        ge=0,
        description="With round.pacing 'async', a reply whose model is more steps old is dropped.",
    )
    timeout_s: float = Field(
        600.0,
        gt=0,
        description="Time limit of a round in seconds. Later replies are dropped and counted.",
    )
    min_replies: int = Field(
        1,
        ge=1,
        description="With fewer accepted replies than this, the server takes no step in the round.",
    )
    give_up_after: int = Field(
        3,
        ge=0,
        description="After this number of rounds in a row without a step, the run ends as failed. "
        "0 never gives up.",
    )
    weights: Literal["", "uniform", "examples", "tokens"] = Field(
        "",
        description="How much a reply counts in the mean: all alike, or by the client's examples "
        "or by the tokens of its training; automatic is as the method is defined.",
    )
    clip: str = Field(
        "auto",
        description="Bound of the norm of one reply's update: 'auto', a number, or 'off'. 'auto' "
        "is round.clip-factor times the median of the norms of the latest replies.",
    )
    clip_factor: float = Field(
        4.0, ge=1, description="How far above the median norm the bound of round.clip = 'auto' is."
    )
    clip_action: Literal["clip", "drop"] = Field(
        "clip",
        description="A reply above the bound of round.clip is scaled down to it ('clip') or left "
        "out ('drop').",
    )
    aggregate: Aggregated = Field(
        "mean",
        description="How the replies of a round are combined. 'trimmed-mean' and 'median' look at "
        "each coordinate by itself, and keep all replies of a round in memory.",
    )
    trim: float = Field(
        0.2,
        ge=0,
        lt=0.5,
        description="Share of the replies that 'trimmed-mean' leaves out at either end. 0.2 of 10 "
        "leaves out 2 and 2.",
    )
    evaluate_every: int = Field(
        10,
        ge=0,
        description="Number of rounds between evaluations on the server. 0 evaluates only at "
        "the end.",
    )
    evaluate_clients: int = Field(
        0,
        ge=0,
        description="Number of clients that the model is measured on one by one at each "
        "evaluation, of those that may train and of those that never do: by data.client-holdout "
        "and data.unseen-clients, or the users of the test examples. 0 is off.",
    )
    target: float = Field(
        0.0,
        ge=0,
        description="The run stops when the metric reaches this value. 0 means no target.",
    )
    target_metric: str = Field(
        "", description="Metric of round.target. Automatic: the first metric of the task."
    )
    max_up_bytes: int = Field(
        0,
        ge=0,
        description="Upload budget of the run in bytes. The run stops before a round that "
        "could exceed it. 0 means no limit.",
    )
    max_down_bytes: int = Field(
        0,
        ge=0,
        description="Download budget of the run in bytes, without the one-time download of "
        "the base. 0 means no limit.",
    )
    max_seconds: float = Field(
        0.0,
        ge=0,
        description="Time budget of the run in seconds. The run stops before a round that "
        "could exceed it, judged by the slowest round so far. 0 means no limit.",
    )
    max_simulated_s: float = Field(
        0.0,
        ge=0,
        description="Budget of simulated seconds (see network.*, compute.*). The run stops "
        "before a round that could exceed it. 0 means no limit.",
    )
    max_energy_j: float = Field(
        0.0,
        ge=0,
        description="Budget of simulated joules of all devices (see devices.*). The run stops "
        "before a round that could exceed it. 0 means no limit.",
    )

    def resolved(self, weights: str) -> "RoundSettings":
        """Return the settings with every automatic value filled in.

        Parameters
        ----------
        weights : of the method.
        """
        update: dict[str, object] = {"weights": self.weights or weights}
        if self.pacing == "async":
            concurrency = self.concurrency or self.cohort
            update |= {"concurrency": concurrency, "goal": self.goal or -(-concurrency // 2)}
        return self.model_copy(update=update)

    @property
    def shared(self) -> bool:
        """Whether round.clients is a share, which says nothing before the clients are counted."""
        return self.clients < 1

    @property
    def cohort(self) -> int:
        """How many clients a round has.

        Raises
        ------
        ConfigError
            If that is a share of clients that are not counted; see `sized`.
        """
        if self.shared:
            raise ConfigError(
                f"round.clients is {self.clients!r}, a share of clients that are not counted here; "
                "expected a number"
            )
        return int(self.clients)

    def sized(self, clients: int) -> "RoundSettings":
        """Return the settings with a number in place of a share: of so many, rounded, at least 1.

        Parameters
        ----------
        clients : those with examples.
        """
        if not self.shared:
            return self
        return self.model_copy(update={"clients": max(1, round(self.clients * clients))})

    @property
    def at_once(self) -> int:
        """How many clients are at work at once: 13 where 10 are over-selected by 1.3."""
        if self.pacing == "async":
            return self.resolved("").concurrency
        factor = Fraction(str(self.over_select)) if self.pacing == "deadline" else 1
        return math.ceil(self.cohort * factor)

    @property
    def step_on(self) -> int:
        """How many accepted replies the server steps on, where nobody fails."""
        return self.resolved("").goal if self.pacing == "async" else self.cohort

    @field_validator("clients", mode="before")
    @classmethod
    def _is_a_count_or_a_share(cls, clients: object) -> object:
        if isinstance(clients, bool) or not isinstance(clients, int | float):
            raise ValueError("a number of 1 or more, or a share between 0 and 1")
        if not 0 < clients < 1 and not (clients >= 1 and isinstance(clients, int)):
            raise ValueError("a whole number of 1 or more, or a share between 0 and 1")
        return clients

    @field_validator("clip", mode="before")
    @classmethod
    def _is_a_bound(cls, bound: object) -> object:
        if bound in ("auto", "off") or isinstance(bound, bool):
            return bound
        try:
            norm = float(str(bound))
        except ValueError:
            norm = -1.0
        if not 0 <= norm < math.inf:
            raise ValueError("'auto', 'off', or a number of 0 (off) or more")
        return repr(norm) if norm else "off"  # one spelling of each, for a run that is resumed
