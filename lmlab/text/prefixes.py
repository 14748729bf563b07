"""A vocabulary in the order of its tokens' bytes: all tokens that begin with the same bytes stand together."""

from typing import NamedTuple

import numpy as np


class Node(NamedTuple):
    """The tokens that begin with some bytes: `order[first:end]`; `own` of them, the first, have no further byte."""

    first: int
    end: int
    own: int
    bytes_C: np.ndarray  # int [C]: what comes next in the others
    bounds_C: np.ndarray  # int [C + 1]: where in `order` each of these begins
    depth: int


class Prefixes:
    """`tokens`: the bytes of every id; ids of no bytes are left out.

    `order` [n] are the ids; `root` is the node of all; `child(node, byte)` is that of the bytes with one more, or None.
    """

    def __init__(self, tokens):
        ids = sorted((t for t, token in enumerate(tokens) if token), key=lambda t: tokens[t])
        self.order = np.array(ids, np.int64)
        self._tokens = [tokens[t] for t in ids]
        self._children = {}
        self.root = self._node(0, len(ids), 0)

    def _node(self, first, end, depth):
        own = first
        while own < end and len(self._tokens[own]) == depth:
            own += 1
        following = [self._tokens[i][depth] for i in range(own, end)]
        starts = [i for i in range(len(following)) if not i or following[i] != following[i - 1]]
        bounds = np.array([own + i for i in starts] + [end])
        return Node(first, end, own - first, np.array([following[i] for i in starts], int), bounds, depth)

    def child(self, node, byte):
        """The node one byte further."""
        key = (node.first, node.depth, byte)
        if key not in self._children:
            at = np.searchsorted(node.bytes_C, byte)
            found = at < len(node.bytes_C) and node.bytes_C[at] == byte
            bounds = node.bounds_C[at : at + 2].tolist() if found else None
            self._children[key] = self._node(*bounds, node.depth + 1) if found else None
        return self._children[key]

    def own(self, node):
        """The ids that are the node's bytes and no more."""
        return self.order[node.first : node.first + node.own]
