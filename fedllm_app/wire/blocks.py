"""Long vectors are worked on in parts, so that nothing of their length is held beside them.

A part is small enough for a core's own cache, which also makes the work quicker.
"""

from collections.abc import Iterator

BLOCK = 1 << 16


def parts(N: int, multiple: int = 1) -> Iterator[slice]:
    """Return slices of 0..N - 1 in order: about BLOCK long, and all but the last a multiple."""
    step = -(-BLOCK // multiple) * multiple
    return (slice(start, min(start + step, N)) for start in range(0, N, step))
