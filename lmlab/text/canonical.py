"""The token sequences that a tokenizer can give: which tokens may follow a sequence if it is to begin some text's encoding.

The encoding of a text is canonical, and so is everything that begins one: `Canonical` accepts exactly these sequences. A
byte-pair encoder decides locally. Within a pre-token, neighbours must be such that no merge crosses (`lmlab.text.adjacency`);
pre-tokens must end where the pre-tokenizer cuts, whose look ahead is a guess that later text must make good
(`lmlab.text.pretokens`), and where a text is cut before (`lmlab.text.added_runs`); pre-tokens may be looked up whole before they
are merged (`lmlab.text.whole_first`); and characters may be cut between tokens, while bytes that make no character stand alone.
Where the longest token is taken, `lmlab.text.longest_first` says what may follow. `AnyTokens` accepts all sequences.

A state is hashable. `start` is that of no token yet; `allowed(state)` is bool [V], EOS included where the text may end;
`behind(state, token)` the state behind a token that is allowed.
"""

import functools
import json

import numpy as np
import tokenizers

from lmlab.errors import UserError
from lmlab.text.added_runs import BetweenRuns, added_runs
from lmlab.text.adjacency import Adjacency
from lmlab.text.bpe import BPETokenizer
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.cl100k import CL100K, DIGITS
from lmlab.text.dictionary import DictionaryTokenizer
from lmlab.text.lib import LiBTokenizer
from lmlab.text.longest_first import LongestFirst
from lmlab.text.longest_match import LongestMatchTokenizer
from lmlab.text.places import Pieces, Words, WordsAndRuns
from lmlab.text.pretokens import GPT2, Unsplit
from lmlab.text.whole_first import WholeFirst

KEPT = 2048  # masks that are kept, of `vocab_size` bytes each


def canonical(tokenizer):
    """`Canonical` of a BPE, `LongestFirst` of a tokenizer that takes the longest token; of bytes `AnyTokens`, as each text
    has but one encoding.

    UserError for another tokenizer, or for a pre-tokenizer or added tokens whose sequences are not known.
    """
    if isinstance(tokenizer, ByteTokenizer):
        return AnyTokens(tokenizer)
    greedy = isinstance(tokenizer, DictionaryTokenizer) and tokenizer.merges is None
    if greedy or isinstance(tokenizer, LongestMatchTokenizer | LiBTokenizer):
        return _kept(LongestFirst, tokenizer)
    if isinstance(tokenizer, BPETokenizer):
        return _kept(Canonical, tokenizer)
    raise UserError(
        f"The encodings of a {type(tokenizer).__name__} are not known; those of a BPE, of longest matches and of bytes are."
    )


@functools.lru_cache(maxsize=4)
def _kept(automaton, tokenizer):
    return automaton(tokenizer)


class AnyTokens:
    """All sequences of tokens that stand for bytes."""

    start = ()

    def __init__(self, tokenizer):
        self._mask = tokenizer.token_lengths() > 0
        self._mask[tokenizer.bos] = False
        self._mask[tokenizer.eos] = True

    def allowed(self, state):
        """Every token."""
        return self._mask

    def behind(self, state, token):
        """The one state."""
        return state


class Canonical:
    """Exactly the sequences that begin some text's encoding. See `canonical`."""

    def __init__(self, tokenizer):
        self._merges = Adjacency(tokenizer.definition, tokenizer.vocab_size)
        self._words = _words(tokenizer, self._merges.reachable.copy())
        self._size, self._eos = tokenizer.vocab_size, tokenizer.eos
        self.start = (frozenset([self._words.start]), -1)
        self._alive, self._exits = functools.cache(self._alive), functools.cache(self._words.exits)
        self._table = functools.cache(self._table)
        self.allowed = functools.lru_cache(KEPT)(self._allowed)

    def _follows(self, place, last):
        """Which tokens may stand behind `last`, as far as merges go; None: all."""
        return self._merges.follows(last) if last >= 0 and self._words.joined(place) else None

    def _behind(self, place, token):
        """Places behind a token, from which some text goes on: a guess may have led where no token does."""
        return frozenset(p for p in self._exits(place).get(token, ()) if not self._words.open(p) or self._alive(p, token))

    def _alive(self, place, last):
        """Whether some tokens lead from an open place to one that is not."""
        pending = [(place, last)]
        seen = set(pending)
        while pending:
            at, before = pending.pop()
            follows = self._follows(at, before)
            for token, places in self._exits(at).items():
                if follows is None or follows[token]:
                    if not all(self._words.open(behind) for behind in places):
                        return True
                    further = {(behind, token) for behind in places} - seen
                    seen |= further
                    pending += further
        return False

    def _table(self, place):
        mask_V = np.zeros(self._size, bool)
        mask_V[[token for token in self._exits(place) if self._behind(place, token)]] = True
        return mask_V

    def _allowed(self, state):
        places, last = state
        mask_V = np.zeros(self._size, bool)
        for place in places:
            follows = self._follows(place, last)
            mask_V |= self._table(place) if follows is None else self._table(place) & follows
            mask_V[self._eos] |= self._words.last(place)
        mask_V.setflags(write=False)
        return mask_V

    def behind(self, state, token):
        """The state behind one more token."""
        places, last = state
        follows = [(place, self._follows(place, last)) for place in places]
        reached = [self._behind(place, token) for place, mask in follows if mask is None or mask[token]]
        return frozenset().union(*reached), int(token)


def _words(tokenizer, reachable_V):
    """Where the tokens of a tokenizer may stand; `reachable_V`: those that merges make."""
    content = json.loads(tokenizer.definition)
    runs, model, byte_ids = added_runs(content.get("added_tokens")), content["model"], tokenizer.byte_ids
    reachable_V[byte_ids] = True
    spelled = [tokenizer.token_bytes(t) for t in range(tokenizer.vocab_size)]
    spelled[tokenizer.bos] = spelled[tokenizer.eos] = b""
    tokens = [token if here else b"" for token, here in zip(spelled, reachable_V, strict=True)]
    whole = {n: t for n, t in model["vocab"].items() if spelled[t] and not reachable_V[t]} if model.get("ignore_merges") else {}
    if model.get("byte_fallback"):
        if content.get("pre_tokenizer") or runs or whole:
            raise UserError("Of tokenizers with byte fallback, those that cut text into words are not known exactly.")
        return Pieces(tokens, byte_ids, reachable_V)
    grammar = _pretokens(content.get("pre_tokenizer"))
    words = WordsAndRuns(tokens, byte_ids, BetweenRuns(grammar, runs)) if runs else Words(tokens, byte_ids, grammar)
    if not whole:
        return words
    bare = {"added_tokens": [], "normalizer": None, "pre_tokenizer": None, "decoder": None, "post_processor": None}
    library = tokenizers.Tokenizer.from_str(json.dumps(content | bare | {"model": model | {"ignore_merges": False}}))
    merged = [tuple(e.ids) for e in library.encode_batch_fast(list(whole))]
    return WholeFirst(words, {t: (spelled[t], ids) for t, ids in zip(whole.values(), merged, strict=True)})


def _pretokens(part):
    if part is None or (part["type"] == "ByteLevel" and not part.get("use_regex", True)):
        return Unsplit()
    if part["type"] == "ByteLevel":
        return GPT2()
    if pattern := _cl100k(part):
        return CL100K(pattern)
    raise UserError("Exact encodings are known for GPT-2's and cl100k's pre-tokenizers and for none, not for this file's.")


def _cl100k(part):
    """The pattern, if this is cl100k's pre-tokenizer or one like it, else None."""
    split, *level = part.get("pretokenizers") or [{}]
    plain = split | {"pattern": None} == {"type": "Split", "pattern": None, "behavior": "Isolated", "invert": False}
    bare = [(p["type"], p.get("use_regex", True), p.get("add_prefix_space")) for p in level] == [("ByteLevel", False, False)]
    pattern = split["pattern"].get("Regex") if plain and bare else None
    return pattern if pattern in DIGITS else None
