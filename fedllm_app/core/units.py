"""Numbers as people read them: the same spelling on the page, on axes and in the terminal."""

from collections.abc import Sequence

DASH = "\N{EN DASH}"


def format_bytes(count: float) -> str:
    """Return bytes with a decimal unit and three digits: 12_345 is `12.3 kB`."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"), counted=True)


def format_seconds(seconds: float) -> str:
    """Return a duration: `41.0 ms`, `0.41 s`, `12.3 s`, `4 min 05 s`, `2 h 07 min`."""
    if 0 < seconds < 0.0995:
        return f"{_digits(1000 * seconds)} ms"
    if seconds < 99.95:
        return f"{_digits(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_joules(joules: float) -> str:
    """Return an energy with three digits: `950 J`, `12.3 kJ`, `4.05 MJ`."""
    return _scaled(joules, ("J", "kJ", "MJ", "GJ"))


def format_flops(flops: float) -> str:
    """Return an amount of computing with three digits: `12.3 GFLOP`, `4.05 TFLOP`."""
    return _scaled(flops, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def format_times(dense: float, measured: float) -> str:
    """Return how many times less than dense was sent: `16.1x`; a dash when nothing was."""
    if not measured or not dense:
        return DASH
    return f"{_digits(dense / measured)}\N{MULTIPLICATION SIGN}"


def format_metric(value: float | None) -> str:
    """Return a metric with four significant digits at most."""
    if value is None:
        return DASH
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def listed(names: Sequence[str], most: int) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def words(metric: str) -> str:
    """Return a metric's name as a heading: `macro-f1` is `Macro F1`."""
    return metric.replace("-", " ").capitalize().replace("f1", "F1")


def _scaled(value: float, units: Sequence[str], counted: bool = False) -> str:
    """Return a value in the unit that leaves it below 1000; `counted`: the first has no parts."""
    size = float(value)
    for unit in units[:-1]:
        whole = counted and unit == units[0]
        if round(size, 0 if whole or size >= 100 else 1) < 1000:
            return f"{f'{size:.0f}' if whole else _digits(size)} {unit}"
        size /= 1000
    return f"{_digits(size)} {units[-1]}"


def _digits(value: float) -> str:
    if value == 0:
        return "0"
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
