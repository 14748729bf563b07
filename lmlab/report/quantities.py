"""Numbers as people read them: SI prefixes, durations, fixed digits."""

import math

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def si(value, unit="", digits=3):
    """`si(81920, "B")` is "81.9 kB": three significant digits and a decimal SI prefix."""
    if not math.isfinite(value):
        return f"{value} {unit}".strip()
    rounded = float(f"{value:.{digits}g}")
    power = min(max(int(math.log10(abs(rounded)) // 3), 0), len(PREFIXES) - 1) if rounded else 0
    mantissa = rounded / 1000**power
    places = max(digits - 1 - int(math.log10(max(abs(mantissa), 1))), 0)
    text = f"{mantissa:.{places}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text} {PREFIXES[power]}{unit}".strip()


def duration(seconds):
    """`duration(3725)` is "1 h 02 min"; below a minute, seconds with one decimal."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def fixed(value, digits):
    """A table's number: fixed digits, commas between thousands; blank for None."""
    return "" if value is None else f"{value:,.{digits}f}"
