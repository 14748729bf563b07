"""Branches as a tree: all that branches off a prompt lies in the prompt's own row of the cache, a slot for a token, and every
token sees the slots of those before it alone (tree attention; Miao et al. 2024, arXiv 2305.09781). Nothing is copied.

For backbones that `can_branch`; `lmlab.decoding.copies` is the reference.
"""

import heapq
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.decoding import padding
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


class Branch:
    """A token and all before it. `position`: how many those are; `seen_S`: the slots of all, until it is released; `held`:
    how many need it: the children that are left, and itself until then."""

    def __init__(self, row, slot, position, seen_S, parent):
        self.row, self.slot, self.position, self.seen_S, self.parent = row, slot, position, seen_S, parent
        self.held = 1


class Tree:
    """See `lmlab.decoding.branches`: here a branch is a `Branch`."""

    def __init__(self, model, params, prompts, room):
        self._model, self._params, self._mesh = model, params, mesh_of(params)
        tokens, counts = padding.prompts(prompts)
        self._slots = padding.slots(tokens.shape[1] + room)
        self._free = [list(range(count, self._slots)) for count in counts.tolist()]  # heaps: low slots first
        self.roots = [Branch(i, None, n - 1, np.arange(self._slots) < n, None) for i, n in enumerate(counts.tolist())]
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
        new, most = [self._child(parent) for parent in parents], padding.power(max(asked))
        if in_place:
            for parent in parents:
                self.release(parent)
        seen_BRS = np.zeros((len(self._free), most, self._slots), bool)
        for branch, rank in zip(new, ranks, strict=True):
            seen_BRS[branch.row, rank] = branch.seen_S
        count = len(new)
        idle = padding.entries(count) - count

        def array(values, fill):
            return np.array([*values, *[fill] * idle], np.int32)

        leaves = Leaves(
            row_N=array([b.row for b in new], 0),
            rank_N=array(ranks, most),
            slot_N=array([b.slot for b in new], -1),
            position_N=array([b.position for b in new], 0),
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
        return Branch(parent.row, slot, parent.position + 1, seen_S, parent)

    def release(self, branch):
        """Nothing branches off this one any more: its slot is free when nothing behind it is left."""
        branch.seen_S = None
        branch.held -= 1
        while not branch.held and branch.parent is not None:
            heapq.heappush(self._free[branch.row], branch.slot)
            branch = branch.parent
            branch.held -= 1

    def _grow(self, more):
        more = padding.slots(more)
        new = self._model.init_cache(len(self._free), more)
        blocks = lambda x: isinstance(x, tuple)  # noqa: E731, of keys or values, see `Attention.init_cache`
        self._cache = jax.tree.map(lambda a, b: a + b if blocks(a) else a, self._cache, new, is_leaf=blocks)
        for free in self._free:
            free += range(self._slots, self._slots + more)  # a heap still, as these are the highest
        self._slots += more
