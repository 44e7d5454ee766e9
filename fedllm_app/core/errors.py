"""The ways a run can be refused or fail, told apart so that each can be handled where it is known.

Every message says what was wrong, the value got, what was expected, and which key to change.
"""

import errno
import os
from collections.abc import Iterable
from typing import Literal

FULL = os.strerror(errno.ENOSPC)


class FedllmError(Exception):
    """Any failure that a user can act on."""


class ConfigError(FedllmError):
    """A setting is unknown, of the wrong type, out of range, or at odds with another."""


class DataError(FedllmError):
    """A file, column or label is missing or not as the settings describe it."""


def first_line(error: BaseException) -> str:
    """Return what an error of another library says, in one line; its name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class WireError(FedllmError):
    """Bytes that are not a payload of this run.

    Attributes
    ----------
    reason : "malformed", "foreign" (another layout or base), "non-finite", "late" or "error"
        (anything else): what is counted.
    """

    def __init__(
        self,
        message: str,
        reason: Literal[
            "error", "late", "stale", "malformed", "foreign", "non-finite", "forgotten"
        ] = "malformed",
    ) -> None:
        super().__init__(message)
        self.reason = reason


class CheckpointError(FedllmError):
    """A saved state is damaged, in use, or belongs to another configuration."""


class EngineError(FedllmError):
    """A process that the run computes on has ended: the round that was open is not spent."""


class RunFailedError(FedllmError):
    """A run came to an end that is no result: it took no steps, or its loss is not finite."""


def check_room(errors: Iterable[str]) -> None:
    """Raise EngineError if one of these errors of simulated devices is that the disk is full.

    They share it with the server, so the next round would fail like this one.
    """
    for text in errors:
        if FULL in text:
            raise EngineError(
                f"the disk is full ({text}): make room, and start the same run.name again to go on"
            )
