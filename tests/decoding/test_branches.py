"""Branches of a prompt, as a tree in one row of the cache, equal copies of that row, and those the full forward pass."""

import jax
import numpy as np
import pytest

from lmlab.decoding.branches import branches_of
from lmlab.decoding.copies import Copies
from lmlab.decoding.tree import Tree
from lmlab.models.build import hierarchy, transformer
from lmlab.models.chunkers import FixedStride
from lmlab.models.gpt2 import gpt2
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.llama import LlamaStack
from lmlab.models.stack import Stack
from tests.parameters import moved

V = 11
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
BACKBONES = {
    "rotary": transformer(2, 32, 64, 2),
    "learned positions": gpt2(2, 32, 2, 200),
    "grouped heads": LlamaStack(2, 32, 64, 4, 2, 8),
}


def random_model(backbone):
    model = LanguageModel(V, backbone)
    return model, moved(init(model, jax.random.key(0)), 0.15)


class Beside:
    """Grows both forms alike from a seed, and knows every branch's tokens."""

    def __init__(self, model, params, room, seed=0):
        self.forms = [form(model, params, PROMPTS, room) for form in (Tree, Copies)]
        self.rng = np.random.default_rng(seed)
        self.alive = [(list(p), *roots) for p, *roots in zip(PROMPTS, *[f.roots for f in self.forms], strict=True)]

    def grow(self, count, in_place=False):
        """`count` new branches; those that they branch off, if not `in_place`, are released or not."""
        chosen = self.rng.choice(len(self.alive), count, replace=not in_place)
        parents, tokens = [self.alive[i] for i in chosen], self.rng.integers(0, V, count).tolist()
        grown = [
            form.extend([p[1 + i] for p in parents], tokens, in_place=in_place) for i, form in enumerate(self.forms)
        ]
        texts = [[*p[0], t] for p, t in zip(parents, tokens, strict=True)]
        dropped = set(chosen.tolist()) if in_place else set()
        if not in_place:
            for i in self.rng.choice(len(self.alive), len(self.alive) // 2, replace=False):
                for n, form in enumerate(self.forms):
                    form.release(self.alive[i][1 + n])
                dropped.add(int(i))
        self.alive = [branch for i, branch in enumerate(self.alive) if i not in dropped]
        self.alive += zip(texts, *[branches for branches, _ in grown], strict=True)
        return texts, *[log_probs for _, log_probs in grown]


@pytest.mark.parametrize("name", BACKBONES)
def test_a_tree_equals_copies_and_the_forward_pass(name):
    """Branches of several rows, several of one, released in any order, whose slots are then taken again."""
    model, params = random_model(BACKBONES[name])
    assert isinstance(branches_of(model, params, PROMPTS, 4), Tree)
    forward = jax.jit(lambda tokens: jax.nn.log_softmax(model.apply(params, tokens).logits))
    beside = Beside(model, params, 20)
    for tree, copies in zip(*[form.log_probs for form in beside.forms], strict=True):
        np.testing.assert_allclose(tree, copies, atol=1e-5)
    for _ in range(12):
        for texts, tree, copies in (beside.grow(int(beside.rng.integers(3, 7))), beside.grow(3, in_place=True)):
            np.testing.assert_allclose(tree, copies, atol=1e-5)
            for text, row_V in zip(texts, tree, strict=True):
                tokens = np.zeros((1, 40), np.int32)
                tokens[0, : len(text)] = text
                np.testing.assert_allclose(row_V, forward(tokens)[0, len(text) - 1], atol=1e-5)


def test_slots_that_nothing_needs_are_free_again_and_others_are_added():
    model, params = random_model(BACKBONES["rotary"])
    tree = Tree(model, params, PROMPTS, 4)
    slots = tree._slots
    free = [sorted(f) for f in tree._free]
    branches = [tree.roots[0]]
    for _ in range(slots):  # a chain longer than the cache
        (branch,), log_probs = tree.extend(branches[-1:], [3])
        branches.append(branch)
    assert tree._slots > slots and len({b.slot for b in branches[1:]}) == slots
    long = np.array([[*PROMPTS[0], *[3] * slots]])
    np.testing.assert_allclose(log_probs[0], jax.nn.log_softmax(model.apply(params, long).logits)[0, -1], atol=1e-4)
    for branch in branches[1:-1]:
        tree.release(branch)  # the last still needs them
    assert len(tree._free[0]) == tree._slots - len(PROMPTS[0]) - slots
    tree.release(branches[-1])
    assert [sorted(f)[: len(was)] for f, was in zip(tree._free, free, strict=True)] == free
    (branch,), _ = tree.extend([tree.roots[0]], [3])
    assert branch.slot == len(PROMPTS[0])


@pytest.mark.parametrize(
    "backbone",
    [
        Stack("m1t1", 32, n_heads=2, rotary_dim=8, d_state=8),
        transformer(2, 32, 64, 2, window=8),
        hierarchy(
            ["T1", ["T1"], "T1"], (32, 32), (64, 64), n_heads=2, capacity=(2.0, None), chunker=lambda *_: FixedStride(2)
        ),
    ],
    ids=["recurrent", "windows", "hierarchy"],
)
def test_what_keeps_no_slot_a_token_is_copied(backbone):
    assert isinstance(branches_of(*random_model(backbone), PROMPTS, 4), Copies)
