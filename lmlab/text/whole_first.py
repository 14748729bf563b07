"""Tokenizers that look a pre-token up whole before they merge it ("ignore_merges": Llama 3, tiktoken), with words which merges
do not make."""


class WholeFirst:
    """`words` (see `lmlab.text.places`) of such a tokenizer. `whole`: {token: (its bytes, the tokens that merges make of
    them)} of the words that no merges make: each stands for a pre-token of its own, which the others then may not make up.

    A place is that of `words` and, within a pre-token, which of these tokens' beginnings it has so far: 0 none yet, None
    that of no word.
    """

    def __init__(self, words, whole):
        self._words, self._whole = words, {token: data for token, (data, _) in whole.items()}
        self._further, self._complete = {}, set()  # (beginning, token) -> beginning; those that are words
        for _, ids in whole.values():
            at = 0
            for token in ids:
                at = self._further.setdefault((at, token), len(self._further) + 1)
            self._complete.add(at)
        self.start = (words.start, 0)

    def exits(self, place):
        """Those of `words` but for such pre-tokens, and the words."""
        at, begun = place
        found = {}
        for token, places in self._words.exits(at).items():
            now = self._further.get((begun, token))
            behind = {(p, now) for p in places if self._words.joined(p)}
            if now not in self._complete:
                behind |= {(p, 0) for p in places if not self._words.joined(p)}
            if behind:
                found[token] = frozenset(behind)
        if not self._words.joined(at):
            for token, data in self._whole.items():
                if behind := self._words.spells(at, data):
                    found[token] = frozenset((p, 0) for p in behind)
        return found

    def joined(self, place):
        """As of `words`."""
        return self._words.joined(place[0])

    def last(self, place):
        """As of `words`."""
        return self._words.last(place[0])

    def open(self, place):
        """As of `words`, and behind what would be a word."""
        return self._words.open(place[0]) or (self._words.joined(place[0]) and place[1] in self._complete)
