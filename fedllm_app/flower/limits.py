"""What Flower 1.41 can carry to a device, held against a run's payloads before its first message.

An Array travels in objects of 5 MiB, so no payload is too long for one of Flower's requests. Their
number is what counts: all objects of a message are registered in one request, which has to be
answered within 30 s. A SuperLink with a database took 3.4 ms for each, one without 0.06 ms.
"""

from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.units import format_bytes
from fedllm_app.server.loop import Loop
from fedllm_app.server.opening import round_bytes
from fedllm_app.wire.codec import dense_bytes

MOST_OBJECTS = 8192
NEVER_BEYOND = 3  # dense vectors that no payload is longer than (docs/architecture.md)


def check_payloads(loop: Loop) -> None:
    """Refuse a run whose payloads Flower would not carry to a device or back.

    Raises
    ------
    ConfigError
        If a download or an upload can have more than `MOST_OBJECTS` objects.
    """
    most = MOST_OBJECTS * FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
    P = loop.planner.layout.size
    if NEVER_BEYOND * dense_bytes(P) <= most:
        return
    sizes = dict(zip(("download", "upload"), round_bytes(loop, 1), strict=True))
    if wrong := {way: size for way, size in sizes.items() if size > most}:
        said = " and ".join(f"{way} of {format_bytes(size)}" for way, size in wrong.items())
        raise ConfigError(
            f"model.source has {P:,} trained parameters, and a client's {said} is more than the "
            f"{format_bytes(most)} ({MOST_OBJECTS:,} objects) that Flower registers in time; "
            "expected a smaller model, smaller values (wire.down-values, wire.up-values = 'int8' "
            "or 'q4'), or a method that sends less, such as strategy.name = 'sparse-diloco' with "
            "strategy.down = 'change'"
        )
