"""Seconds by part of a round."""

import time


class Clock:
    """Seconds by part of a round."""

    def __init__(self) -> None:
        self.began = self._last = time.monotonic()
        self.parts: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Put the time since the last lap down to `part`."""
        now = time.monotonic()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._last
        self._last = now

    def seconds(self, *parts: str) -> float:
        """Return the seconds of some parts; of none named, all since the clock began."""
        if not parts:
            return time.monotonic() - self.began
        return sum(self.parts.get(part, 0.0) for part in parts)
