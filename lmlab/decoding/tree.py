"""Branches as a tree: all that branches off a prompt lies in the prompt's own row of the cache, a slot for a token, and every
token sees the slots of those before it alone (tree attention; Miao et al. 2024, arXiv 2305.09781). Nothing is copied.

For backbones that `can_branch`; `lmlab.decoding.copies` is the reference.
"""

import heapq
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.decoding.copies import LENGTHS, padded
from lmlab.kernels.dispatch import compiled_for, mesh_of
from lmlab.models.cache import Leaves


@partial(jax.jit, static_argnums=(0, 1, 2))
def _begin(model, mesh, length, params, tokens_BL, count_B):
    with compiled_for(mesh, whole_rows=True):
        cache = model.init_cache(len(tokens_BL), length)
        logits_BLV, cache = model.apply(
            params, tokens_BL, jnp.arange(tokens_BL.shape[1]) < count_B[:, None], cache, method="prefill"
        )
    return jax.nn.log_softmax(logits_BLV), cache


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _extend(model, mesh, params, cache, token_N, leaves):
    with compiled_for(mesh, whole_rows=True):
        logits_NV, cache = model.apply(params, token_N, cache, leaves, method="branch")
    return jax.nn.log_softmax(logits_NV), cache


def _power(n):
    """The power of two from n on."""
    return 1 << (n - 1).bit_length()


class Node:
    """A token and all before it. `position`: how many those are; `seen_S`: the slots of all; `held`: how many need it: the
    children that are left, and itself until it is released."""

    def __init__(self, row, slot, position, seen_S, parent):
        self.row, self.slot, self.position, self.seen_S, self.parent = row, slot, position, seen_S, parent
        self.held = 1


class Tree:
    """See `lmlab.decoding.branches`: here a branch is a `Node`."""

    def __init__(self, model, params, prompts, room):
        self._model, self._params, self._mesh = model, params, mesh_of(params)
        tokens, counts = padded(prompts)
        self._slots = -(-(tokens.shape[1] + room) // LENGTHS) * LENGTHS
        self._free = [list(range(count, self._slots)) for count in counts.tolist()]  # heaps: low slots first
        self.roots = [Node(i, None, n - 1, np.arange(self._slots) < n, None) for i, n in enumerate(counts.tolist())]
        log_probs, self._cache = _begin(model, self._mesh, self._slots, params, tokens, counts)
        self.log_probs = [row[:count] for row, count in zip(np.asarray(log_probs), counts, strict=True)]

    def extend(self, parents, tokens, in_place=False):
        """(branches, log-probabilities [N, V]) behind one more token each."""
        ranks, asked = [], [0] * len(self._free)
        for parent in parents:
            ranks.append(asked[parent.row])
            asked[parent.row] += 1
        lacking = max(wanted - len(free) for wanted, free in zip(asked, self._free, strict=True))
        if lacking > 0:
            self._grow(max(lacking, self._slots))
        new, most = [self._child(parent) for parent in parents], _power(max(asked))
        if in_place:
            for parent in parents:
                self.release(parent)
        seen_BRS = np.zeros((len(self._free), most, self._slots), bool)
        for node, rank in zip(new, ranks, strict=True):
            seen_BRS[node.row, rank, : len(node.seen_S)] = node.seen_S
        count = len(new)
        idle = (_power(count) if count <= 8 else -(-count // 8) * 8) - count  # few programs, few idle entries

        def array(values, fill):
            return np.array([*values, *[fill] * idle], np.int32)

        leaves = Leaves(
            row_N=array([node.row for node in new], 0),
            rank_N=array(ranks, most),
            slot_N=array([node.slot for node in new], -1),
            position_N=array([node.position for node in new], 0),
            seen_BRS=seen_BRS,
        )
        log_probs, self._cache = _extend(self._model, self._mesh, self._params, self._cache, array(tokens, 0), leaves)
        return new, np.asarray(log_probs)[:count]

    def _child(self, parent):
        slot = heapq.heappop(self._free[parent.row])
        seen_S = np.zeros(self._slots, bool)
        seen_S[: len(parent.seen_S)] = parent.seen_S
        seen_S[slot] = True
        parent.held += 1
        return Node(parent.row, slot, parent.position + 1, seen_S, parent)

    def release(self, node):
        """Nothing branches off this one any more: its slot is free when nothing behind it is left."""
        node.held -= 1
        while not node.held and node.parent is not None:
            heapq.heappush(self._free[node.row], node.slot)
            node = node.parent
            node.held -= 1

    def _grow(self, more):
        more = -(-more // LENGTHS) * LENGTHS
        new = self._model.init_cache(len(self._free), more)
        blocks = lambda x: isinstance(x, tuple)  # noqa: E731, of keys or values, see `Attention.init_cache`
        self._cache = jax.tree.map(lambda a, b: a + b if blocks(a) else a, self._cache, new, is_leaf=blocks)
        for free in self._free:
            free += range(self._slots, self._slots + more)  # a heap still, as these are the highest
        self._slots += more
