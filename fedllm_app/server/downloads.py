"""Who is sent a download whole, and who only what is new since the one that the client holds.

Shapes: P trainable parameters.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.state import RunState
from fedllm_app.core.versions import Version, version_of
from fedllm_app.wire.gridded import decode_gridded, encode_gridded
from fedllm_app.wire.slices import origin_of

WHOLE = -1
Sent = Mapping[int, tuple[np.ndarray, Sequence[str]]]


def downloads_since(
    state: RunState, group: str, clients: Sequence[str], whole: np.ndarray, layout: ParamLayout,
    base: str,
) -> tuple[Sent, Version]:  # fmt: skip
    """Return payload and clients by the job that the payload goes on from, and what they then hold.

    Parameters
    ----------
    whole : the payload of all P coordinates on a grid, for those of whom nothing is known.
    base : name of what every device has.
    """
    _, grid = decode_gridded(whole, origin_of(layout, base))
    payloads, receivers = {WHOLE: whole}, dict[int, list[str]]()
    for client in clients:
        job = state.accepted.get(client, WHOLE)
        if job not in payloads and (held := version_of(state.downloads, group, job)):
            origin = origin_of(layout, held.base(base))
            payloads[job] = encode_gridded(grid, None, origin, explicit=False, since=held)
        worth = job in payloads and payloads[job].size < whole.size
        receivers.setdefault(job if worth else WHOLE, []).append(client)
    sent = {job: (payloads[job], names) for job, names in receivers.items()}
    return sent, Version(grid.codes, grid.step)
