"""Which arms a test of every arm must look at, and which are those of another but for their sizes."""

import re

import pytest

from lmlab import config

NUMBER = re.compile(r"(?<![\w.])(?!0(?:\.0)?(?![\w.]))\d[\w.+-]*")  # but zeros: what is 0 is often not there at all


def kind(*parts):
    """Text of configurations in which numbers do not count, and names of types."""
    texts = [part.__name__ if isinstance(part, type) else config.to_text(part) for part in parts]
    return NUMBER.sub("n", "\n".join(texts))


def one_of_each(kinds):
    """Parameters of a test, from (kind, values...): the first of each kind, the others marked `slow`."""
    seen, params = set(), []
    for found, *values in kinds:
        params.append(pytest.param(*values, marks=[pytest.mark.slow] if found in seen else []))
        seen.add(found)
    return params
