"""Tokenizers that look a pre-token up whole before they merge it ("ignore_merges": Llama 3, tiktoken), with words which merges
do not make."""

import collections
import functools
import itertools


class WholeFirst:
    """`words` (see `lmlab.text.places`) of such a tokenizer. `whole`: {token: (its bytes, the tokens that merges make of
    them)} of the words that no merges make: each stands for a pre-token of its own, which the others then may not make up.

    A place is that of `words` and, within a pre-token, which of these tokens' beginnings it has so far: 0 none yet, None
    that of no word.
    """

    def __init__(self, words, whole):
        self._words, self._whole = words, {token: data for token, (data, _) in whole.items()}
        self._further, self._complete = {}, set()  # {beginning: {token: beginning}}; those that are words
        new = itertools.count(1)
        for _, ids in whole.values():
            at = 0
            for token in ids:
                further = self._further.setdefault(at, {})
                at = further[token] if token in further else further.setdefault(token, next(new))
            self._complete.add(at)
        self.start, self._plain = (words.start, 0), functools.cache(self._plain)

    def _plain(self, at):
        """The exits of `words`, from no beginning of a word."""
        return {
            token: frozenset((p, None if self._words.joined(p) else 0) for p in places)
            for token, places in self._words.exits(at).items()
        }

    def exits(self, place):
        """Those of `words` but for such pre-tokens, and the words. Nearly all are kept once for all beginnings."""
        at, begun = place
        plain, changed = self._plain(at), {}
        for token, now in self._further.get(begun, {}).items():
            places = {p for p, _ in plain.get(token, ())}
            behind = {(p, now) for p in places if self._words.joined(p)}
            if now not in self._complete:
                behind |= {(p, 0) for p in places if not self._words.joined(p)}
            changed[token] = frozenset(behind)
        if not self._words.joined(at):
            for token, data in self._whole.items():
                if behind := self._words.spells(at, data):
                    changed[token] = frozenset((p, 0) for p in behind)
        return collections.ChainMap(changed, plain)

    def joined(self, place):
        """As of `words`."""
        return self._words.joined(place[0])

    def last(self, place):
        """As of `words`."""
        return self._words.last(place[0])

    def open(self, place):
        """As of `words`, and behind what would be a word."""
        return self._words.open(place[0]) or (self._words.joined(place[0]) and place[1] in self._complete)
