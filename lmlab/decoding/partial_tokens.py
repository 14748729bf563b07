"""Prompts that may end within a token, as they are mostly given to a model: as they are encoded, healed, or aligned.

Each fixes the first tokens of the prompt's own encoding and lets the model write the rest of its bytes anew. What these
leave out, `lmlab.decoding.exact_bytes` sums over.
"""

import functools

import numpy as np

from lmlab.decoding.branches import branches_of
from lmlab.decoding.exact_bytes import Frontier, Texts, prefixes_of
from lmlab.text.canonical import AnyTokens

ALIGNED = 3  # tokens that token alignment goes back


def plain(model, params, tokenizer, prompts, **options):
    """`FromTokens` behind the prompts as they are encoded."""
    return FromTokens(model, params, tokenizer, prompts, 0, **options)


def healed(model, params, tokenizer, prompts, **options):
    """Token healing: the last token is taken back, and one that begins with its bytes comes in its place."""
    return FromTokens(model, params, tokenizer, prompts, 1, whole=True, **options)


def aligned(model, params, tokenizer, prompts, back=ALIGNED, **options):
    """Token alignment via character matching: the last tokens are taken back, and from then on only what agrees with their
    bytes may be drawn, token by token."""
    return FromTokens(model, params, tokenizer, prompts, back, **options)


class FromTokens(Texts):
    """`Texts` behind all but the last `back` tokens of each prompt's encoding, and the bytes of these.

    Until the bytes are covered, each token is drawn from those that agree with them (`whole`: and cover them all at once);
    afterwards from all, whether a tokenizer would give them or not. Sequences under a share of `least` are dropped.
    """

    def __init__(self, model, params, tokenizer, prompts, back, whole=False, room=64, least=1e-6, contexts=None):
        contexts = contexts or [[tokenizer.bos]] * len(prompts)
        encoded = [tokenizer.encode(prompt) for prompt in prompts]
        fixed = [ids[: max(0, len(ids) - back)] for ids in encoded]
        rest = [tokenizer.decode(ids[max(0, len(ids) - back) :]) for ids in encoded]
        read = [np.concatenate([context, ids]).astype(int) for context, ids in zip(contexts, fixed, strict=True)]
        room += max(map(len, rest))
        branches, any_tokens = branches_of(model, params, read, room), AnyTokens(tokenizer)
        agrees = [functools.partial(_agreeing, prefixes_of(tokenizer), data, whole) for data in rest]
        super().__init__(tokenizer, branches, [Frontier(tokenizer, any_tokens, least, keep) for keep in agrees], room)
        for i, frontier in enumerate(self.frontiers):
            frontier.begin(branches.roots[i], branches.log_probs[i][-1], any_tokens.start)
        self.feed_all(rest)


def _agreeing(prefixes, data, whole, p_V, covered):
    """`p_V` of the tokens that agree with what is left of `data`."""
    left, kept, node = data[covered:], [], prefixes.root
    if not left:
        return p_V
    for byte in left:
        node = prefixes.child(node, byte)
        if node is None:
            break
        kept.append(prefixes.own(node))
    else:
        kept = ([] if whole else kept) + [prefixes.order[node.first : node.end]]
    kept = np.concatenate(kept) if kept and not (whole and node is None) else np.zeros(0, int)
    agreeing_V = np.zeros_like(p_V)
    agreeing_V[kept] = p_V[kept]
    return agreeing_V
