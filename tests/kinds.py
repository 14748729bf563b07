"""Which arms a test of every arm must look at: so many that every part, and every way to put parts together, is in one."""

import dataclasses
import re

import pytest

NUMBER = re.compile(r"(?<![\w.])\d[\w.+-]*")
ALL_OR_NOTHING = (0, 1.0)  # a share, or a size, of which something is often not there at all, or all that there is


def _told(value):
    """A field's value as far as it tells parts apart: numbers do not, nor does how often a layer is repeated."""
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, int | float):
        return repr(value) if value in ALL_OR_NOTHING and not (value == 1 and isinstance(value, int)) else "n"
    if isinstance(value, str) and re.fullmatch(r"([mMtT]\d+)+", value):
        return re.sub(r"\d+", "", value)
    return NUMBER.sub("n", repr(value))


def parts(*roots):
    """Of configurations each dataclass in them: what it is a part of and as what, its type and its own fields; and the types
    that are put together in it."""
    found = set()

    def walk(value, holder, field):
        if isinstance(value, tuple | list):
            for item in value:
                walk(item, holder, field)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in ("parent", "name")}
            for name, below in fields.items():
                walk(below, type(value).__name__, name)
            plain = {name: v for name, v in fields.items() if not _holds(v)}
            found.add((holder, field, type(value).__name__, *(f"{name}={_told(v)}" for name, v in plain.items())))
            together = [f"{name}: {type(v).__name__}" for name, v in fields.items() if dataclasses.is_dataclass(v)]
            found.add((type(value).__name__, *together))

    for root in roots:
        found.add(root.__name__) if isinstance(root, type) else walk(root, "", "")
    return found


def _holds(value):
    """Whether there are dataclasses in a field."""
    items = value if isinstance(value, tuple | list) else (value,)
    return any(dataclasses.is_dataclass(item) for item in items)


def one_of_each(arms):
    """Parameters of a test, from (parts, values...): few arms that have every part between them, taken by how many parts each
    adds, the others marked `slow`."""
    arms = list(arms)
    left, kept = set().union(*(found for found, *_ in arms)), set()
    while left:
        most = max(range(len(arms)), key=lambda i: len(arms[i][0] & left))
        kept.add(most)
        left -= arms[most][0]
    return [pytest.param(*values, marks=[] if i in kept else [pytest.mark.slow]) for i, (_, *values) in enumerate(arms)]
