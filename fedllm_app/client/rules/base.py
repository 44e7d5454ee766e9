"""A rule of local training: hooks before, at and after the steps, for the coordinates that move.

Values come as parts: a list of tensors that together are the coordinates a plan lets move. FedProx
is one line in `gradient`; SCAFFOLD needs a vector from the server, kept state, and a vector back;
MimeLite needs the gradient of all examples at the start.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fedllm_app.core.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

Parts = list["Tensor"]
Named = Mapping[str, Parts]


class LocalRule:
    """Plain local training: every hook does nothing. Derive from it and override what you need.

    Attributes
    ----------
    Keys : settings class of the rule's own keys, filled from `client.rule-args`; None for none.
    keeps : the rule keeps state on the device from job to job.
    beside : names of the vectors beside the parameters that a rule of ours reads or sends; its
        method has the same.
    plain : the rule is right with plain SGD alone, without momentum and weight decay.
    looks_first : `first` is called, which costs a pass over all of the client's examples.
    keys : the rule's own settings.
    """

    Keys: ClassVar[type[Settings] | None] = None
    keeps: ClassVar[bool] = False
    beside: ClassVar[tuple[str, ...]] = ()
    plain: ClassVar[bool] = False
    looks_first: ClassVar[bool] = False

    def __init__(self, keys: Any) -> None:
        self.keys = keys

    def begin(self, start: Parts, vectors: Named, kept: Named) -> None:
        """Look at what training starts from.

        Parameters
        ----------
        start : the values before the first step. Steps change them: keep a clone.
        vectors : what came beside the parameters, by name.
        kept : what `end` returned at this client's last accepted job; empty at its first.
        """

    def lost(self, vectors: Named) -> Named:
        """Return what to go on from where a device no longer has what `end` returned."""
        return {}

    def first(self, gradient: Parts) -> None:
        """Look at the mean gradient of all of the client's examples at the start; keep a clone."""

    def gradient(self, gradient: Parts, values: Parts) -> None:
        """Change the gradient in place, after clipping and before the optimizer's step."""

    def end(self, values: Parts, steps: int, lr: float) -> tuple[Named, Named]:
        """Return the vectors to send beside the parameters, and the state to keep, by name.

        Parameters
        ----------
        steps, lr : optimizer steps that were taken, and the learning rate of the last.
        """
        return {}, {}
