"""Sizes that few programs need to be compiled for."""

import numpy as np

LENGTHS = 64  # cache lengths and prompts are multiples of this


def power(count):
    """The power of two from `count` on."""
    return 1 << (count - 1).bit_length()


def entries(count):
    """As many entries as are computed for `count`: few idle ones, and few numbers of them."""
    return power(count) if count <= 8 else -(-count // 8) * 8


def slots(count):
    """As many slots as are kept for `count`."""
    return -(-count // LENGTHS) * LENGTHS


def prompts(ids):
    """(int32 [B, L], their lengths int32 [B]): prompts of token ids, L as many as `slots` of the longest."""
    counts = np.array([len(p) for p in ids], np.int32)
    tokens = np.zeros((len(ids), slots(counts.max())), np.int32)
    for row, prompt in zip(tokens, ids, strict=True):
        row[: len(prompt)] = prompt
    return tokens, counts
