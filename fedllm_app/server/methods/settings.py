"""The namespace `strategy`: what any method may read."""

from typing import Literal

from pydantic import Field, field_validator

from fedllm_app.core.plan import MOST_SIDE, As
from fedllm_app.core.settings import Settings
from fedllm_app.server.methods.shares import numbers_of

Share = Literal["", "cohort", "senders"]


class StrategySettings(Settings):
    """Namespace `strategy`: the method and its own parameters."""

    name: str = Field(
        "floss",
        description="Method. `fedllm strategies` lists them. MODULE:NAME is a method of your own.",
    )
    d_down: float = Field(
        0.25, gt=0, le=1, description="Fraction of the coordinates sent down. 0.25 keeps a quarter."
    )
    d_up: float = Field(
        0.25, gt=0, le=1, description="Fraction of the coordinates sent up. 0.25 keeps a quarter."
    )
    down: As = Field(
        "values",
        description="What goes down: the 'values', or their 'change' from the start that both "
        "sides draw from the seed. What is not sent is zero, or at the start.",
    )
    down_history: int = Field(
        0,
        ge=0,
        description="Rounds whose downloads the server remembers, 4 bytes for each parameter and "
        "round. A client that comes back within them is sent what is new since. It needs "
        "strategy.down 'change' and wire.down-values 'grid'. 0 remembers nothing.",
    )
    density: float = Field(
        0.25,
        gt=0,
        le=1,
        description="Fraction of the coordinates in the mask of a pruned method, for both "
        "directions.",
    )
    decay: float = Field(
        0.98,
        ge=0,
        lt=1,
        description="Factor that shrinks the mask of adapter-lth in each round. 0 chooses it "
        "so that the mean density over run.rounds is strategy.density.",
    )
    tier_densities: str = Field(
        "", description="Density of each tier, separated by commas. Automatic: 1/16,1/4,1."
    )
    tier_ranks: str = Field(
        "", description="Rank of each tier, separated by commas. Automatic: 1,4,16."
    )
    head: Literal["competes", "whole"] = Field(
        "competes",
        description="The classification head 'competes' with the adapters in the top-k, or is "
        "always sent 'whole'.",
    )
    mean: Share = Field(
        "",
        description="Divide the sum of the updates by the number of clients in the 'cohort', "
        "or each coordinate by the number of its 'senders'. Automatic: as the "
        "method is defined.",
    )
    args: str = Field("", description="Keys of a method of your own: name=value pairs with commas.")
    error_feedback: bool = Field(
        False,
        description="The device keeps what an upload leaves out and adds it to its next update.",
    )
    feedback_decay: float = Field(
        -1.0,
        ge=-1,
        le=1,
        description="What is kept by error feedback is multiplied by this before an update is "
        "added. 1 forgets nothing. Automatic (-1): 1, or as the method is defined; there, 0 keeps "
        "nothing.",
    )
    top_k: Literal["", "global", "block"] = Field(
        "",
        description="The largest entries are chosen of all tensors together ('global'), or of "
        "each square block of a matrix ('block'). Automatic: 'global', or as the method is "
        "defined.",
    )
    block: int = Field(
        64,
        ge=1,
        le=MOST_SIDE,
        description="Side of a block of strategy.top-k 'block'. A tensor of one axis has blocks of "
        "this number squared.",
    )
    fragments: int = Field(
        4, ge=1, description="Parts of the model that take turns: every so-manieth layer is one."
    )
    mixing: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of its own values that a device keeps where a fragment comes down.",
    )
    momentum: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="Momentum of mimelite: the server keeps it, and every local step adds it.",
    )
    train_share: float = Field(
        0.4,
        gt=0,
        le=1,
        description="Share of all parameters that a client of partial training trains in a round: "
        "whole tensors, drawn anew for each client and round, at least one.",
    )
    train_always: str = Field(
        "",
        description="Patterns of names of tensors that every client trains, separated by commas, "
        "such as '*norm*,*bias*'. They count towards strategy.train-share.",
    )
    head_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the attention heads of each layer that a client of 'heads' trains in "
        "a round, at least one (with grouped queries, one key-value group).",
    )
    tier_heads: str = Field(
        "",
        description="Share of the heads of each tier, separated by commas, such as '1/4,1/2,1'. "
        "Automatic: strategy.head-share for all.",
    )
    beside_heads: Literal["trained", "frozen"] = Field(
        "trained",
        description="What belongs to no attention head (MLP, norms, embeddings, the bias of the "
        "output projection) is 'trained' by every client, or 'frozen'.",
    )
    rounding: Literal["", "random", "nearest"] = Field(
        "",
        description="Few levels of uploads are rounded at 'random', so that means are right, or to "
        "the 'nearest', which needs error feedback to be right in the long run. Automatic: "
        "'random', or as the method is defined.",
    )

    @field_validator("feedback_decay")
    @classmethod
    def _is_a_share(cls, share: float) -> float:
        if -1 < share < 0:
            raise ValueError("a number from 0 to 1, or -1 (automatic)")
        return share

    @field_validator("tier_densities", "tier_heads")
    @classmethod
    def _are_densities(cls, text: str) -> str:
        values = numbers_of(text, "fractions in (0, 1], such as '1/16,1/4,1'")
        if not all(0 < value <= 1 for value in values):
            raise ValueError("fractions in (0, 1], such as '1/16,1/4,1'")
        return text

    @field_validator("tier_ranks")
    @classmethod
    def _are_ranks(cls, text: str) -> str:
        values = numbers_of(text, "whole numbers from 1, such as '1,4,16'")
        if not all(value >= 1 and value.denominator == 1 for value in values):
            raise ValueError("whole numbers from 1, such as '1,4,16'")
        return text

    @property
    def patterns(self) -> list[str]:
        """Patterns of what every client trains."""
        return [word.strip() for word in self.train_always.split(",") if word.strip()]

    @property
    def densities(self) -> list[float]:
        """Density of each tier."""
        return [float(value) for value in numbers_of(self.tier_densities or "1/16,1/4,1")]

    @property
    def head_shares(self) -> list[float]:
        """Share of the heads of each tier."""
        return [float(value) for value in numbers_of(self.tier_heads)] or [self.head_share]

    @property
    def ranks(self) -> list[int]:
        """Rank of each tier."""
        return [int(value) for value in numbers_of(self.tier_ranks or "1,4,16")]
