"""A quick start: the server and a simulation's workers import torch and its like side by side.

These imports take seconds of computing in every process. Flower loads server_app.py and
client_app.py in the process that then starts Ray, so both import them in their functions only;
what lies between is a message that a worker answers before it begins, and the server begins once
one has: from then on Ray is up.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread


@contextmanager
def without_gc() -> Iterator[None]:
    """Import many modules without the garbage collector, a fifth of the time they take."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def import_node() -> None:
    """Begin to import, beside everything else, what a node needs."""

    def work() -> None:
        with without_gc():
            import fedllm_app.flower.node  # noqa: F401

    Thread(target=work, daemon=True).start()
