"""Which arms a test of every arm must look at, and which are those of another but for their sizes."""

import re

import pytest

from lmlab import config

NUMBER = re.compile(r"(?<![\w.])(?!0(?:\.0)?(?![\w.]))\d[\w.+-]*")  # but zeros: what is 0 is often not there at all
DECIDE = ("window", "share", "longest", "patch", "downsample", "chance", "target", "rate")  # more than a size


def kind(*parts):
    """Text of configurations in which numbers do not count, those of `DECIDE` apart, and names of types."""
    texts = [part.__name__ if isinstance(part, type) else config.to_text(part) for part in parts]
    lines = (line for text in texts for line in text.split("\n"))
    return "\n".join(line if line.strip().startswith(DECIDE) else NUMBER.sub("n", line) for line in lines)


def one_of_each(kinds):
    """Parameters of a test, from (kind, values...): the first of each kind, the others marked `slow`."""
    seen, params = set(), []
    for found, *values in kinds:
        params.append(pytest.param(*values, marks=[pytest.mark.slow] if found in seen else []))
        seen.add(found)
    return params
