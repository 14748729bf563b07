"""The token sequences of tokenizers that take the longest token at every place: lists such as RWKV's, LiB's units, greedy
dictionaries.

A token stands only where no longer one would fit: what follows it must not go on as any token does that begins with it.
That may be up to tokens further behind, so that a state is what has been begun and is not ended: of each token so far, the
bytes from its first to the end of the text, while these begin a longer token. A text may end anywhere, so that every
sequence accepted is one text's whole encoding.
"""

import functools

import numpy as np

from lmlab.text.prefixes import Prefixes

KEPT = 1024  # masks that are kept, of `vocab_size` bytes each


class LongestFirst:
    """Exactly the sequences that begin some text's encoding: see `lmlab.text.canonical`. Of ids that stand for the same bytes
    the last is used, as by the tokenizers here."""

    start = frozenset()

    def __init__(self, tokenizer):
        used = {tokenizer.token_bytes(token): token for token in range(tokenizer.vocab_size)}
        self._tokens = [b""] * tokenizer.vocab_size
        for data, token in used.items():
            self._tokens[token] = data
        self._mask = np.array([bool(data) for data in self._tokens])
        self._mask[tokenizer.eos] = True
        self._prefixes = Prefixes(self._tokens)
        self.allowed = functools.lru_cache(KEPT)(self._allowed)

    def _allowed(self, state):
        """Every token that leaves what was begun no token."""
        mask_V = self._mask.copy()
        for begun in state:
            self._forbid(mask_V, self._node(begun), self._prefixes.root)
        mask_V.setflags(write=False)
        return mask_V

    def _node(self, data):
        """Of the tokens that begin with these bytes; None where there are none."""
        node = self._prefixes.root
        for byte in data:
            node = node and self._prefixes.child(node, byte)
        return node

    def _forbid(self, mask_V, begun, node):
        """Take out the tokens of `node` that begin with what ends a token of `begun`."""
        for byte in begun.bytes_C.tolist():
            behind, beginning = self._prefixes.child(begun, byte), self._prefixes.child(node, byte)
            if beginning is not None and behind.own:
                mask_V[self._prefixes.order[beginning.first : beginning.end]] = False
            elif beginning is not None:
                self._forbid(mask_V, behind, beginning)

    def behind(self, state, token):
        """The state behind one more token."""
        texts = (begun + self._tokens[token] for begun in (b"", *state))
        return frozenset(text for text in texts if (node := self._node(text)) and len(node.bytes_C))
