"""Who can be asked at the start of a round: a device does one job at a time."""

import time
from collections.abc import Collection, Mapping

from fedllm_app.core.state import RunState
from fedllm_app.server.asked import Key
from fedllm_app.server.pacing.base import Pacing
from fedllm_app.server.transport import Transport

LOOK_AGAIN_S = 0.5


def first_free(
    pacing: Pacing,
    transport: Transport,
    state: RunState,
    clients: Mapping[str, int],
    waiting: Collection[Key],
) -> list[str]:
    """Return who is asked at the start of a round, of those that are free.

    A device that was late for its round may still be at its job. Where all are, a round would be
    over at once, and so would be all that are left: they are waited for.

    Parameters
    ----------
    clients : examples of each client that is there.
    waiting : jobs of earlier rounds that still count, so that there is something to wait for.
    """
    open = {client for _, client in waiting}
    while not (cohort := pacing.ask(state, clients, open, busy := transport.busy())):
        if waiting or not busy:
            break
        time.sleep(LOOK_AGAIN_S)
    return cohort
