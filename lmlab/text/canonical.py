"""The token sequences that a tokenizer can give: which tokens may follow a sequence if it is to begin some text's encoding.

The encoding of a text is canonical, and so is everything that begins one: `Canonical` accepts exactly these sequences. A
byte-pair encoder decides locally. Within a pre-token, neighbours must be such that no merge crosses (`lmlab.text.adjacency`);
pre-tokens must end where the pre-tokenizer cuts, whose look ahead is a guess that later text must make good
(`lmlab.text.pretokens`), and where a text is cut before (`lmlab.text.added_runs`); and characters may be cut between tokens,
while bytes that make no character stand alone.
`AnyTokens` accepts all sequences.

A state is hashable. `start` is that of no token yet; `allowed(state)` is bool [V], EOS included where the text may end;
`behind(state, token)` the state behind a token that is allowed.
"""

import functools
import json

import numpy as np

from lmlab.errors import UserError
from lmlab.text.added_runs import BetweenRuns, added_runs
from lmlab.text.adjacency import Adjacency
from lmlab.text.bpe import BPETokenizer
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.cl100k import CL100K, DIGITS
from lmlab.text.prefixes import Prefixes
from lmlab.text.pretokens import BEGINS, GPT2, Unsplit

KEPT = 2048  # masks that are kept, of `vocab_size` bytes each
SHARED = 3  # bytes of a token up to which what follows is kept, as most places are the same behind the first character
RAW = "raw"  # mode behind a byte that is no part of a character


def canonical(tokenizer):
    """`Canonical` of a tokenizer; for one without merges (bytes), `AnyTokens`, as it has but one encoding.

    UserError for a pre-tokenizer or for added tokens whose sequences are not known.
    """
    if not isinstance(tokenizer, BPETokenizer):
        if isinstance(tokenizer, ByteTokenizer):
            return AnyTokens(tokenizer)
        raise UserError(f"The encodings of a {type(tokenizer).__name__} are not known; those of a BPE and of bytes are.")
    return _canonical(tokenizer)


@functools.lru_cache(maxsize=4)
def _canonical(tokenizer):
    return Canonical(tokenizer)


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


@functools.cache
def _utf8(data):
    """A character, "" for the beginning of one, or None for bytes that begin none."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return "" if error.reason == "unexpected end of data" else None


def _raw(pending, byte):
    """What bytes that make no character must not become, one byte later; None where they have become a character."""
    whole = _utf8(pending + bytes([byte])) if pending else None
    if whole is None:
        return bytes([byte]) if _utf8(bytes([byte])) == "" else b""
    return None if whole else pending + bytes([byte])


class Words:
    """Of a byte-level vocabulary. A place is (mode, bytes of a character so far); mode `RAW`: bytes of none so far.

    `exits(place)`: {token: places behind it}; `joined(place)`: whether the next token goes on with the pre-token, so that
    merges must not cross; `last(place)`: whether the text may end; `open(place)`: whether something must yet come.
    """

    start = (BEGINS, b"")

    def __init__(self, tokens, byte_ids, pretokens):
        self._prefixes, self._byte_ids, self._pretokens = Prefixes(tokens), byte_ids, pretokens
        self._step, self._known = functools.cache(self._step), {}

    def _step(self, place, byte):
        """Places behind one more byte of a token that ends no pre-token."""
        mode, pending = (BEGINS, b"") if place[0] == RAW else place
        character = _utf8(pending + bytes([byte]))
        if character is None:
            return ()
        if not character:
            return ((mode, pending + bytes([byte])),) if self._pretokens.fits(mode, pending + bytes([byte])) else ()
        return tuple((behind, b"") for behind in self._pretokens.read(mode, character))

    def _below(self, node, places):
        """{token: places behind it} of the tokens below a node, read from the places at it."""
        key = (node.first, node.depth, places)
        if key in self._known:
            return self._known[key]
        found = {}
        for byte in node.bytes_C.tolist():
            if behind := frozenset(p for place in places for p in self._step(place, byte)):
                below = self._prefixes.child(node, byte)
                found.update(dict.fromkeys(self._prefixes.own(below).tolist(), behind))
                if len(below.bytes_C):
                    found.update(self._below(below, behind))
        if node.depth <= SHARED:
            self._known[key] = found
        return found

    def exits(self, place):
        """By going through the vocabulary byte by byte."""
        found = self._below(self._prefixes.root, frozenset([place]))
        found = {token: behind | self._ended(behind) for token, behind in found.items()}
        if not self.joined(place) and self.last(place):
            before = place[1] if place[0] == RAW else b""
            for byte in range(128, 256):
                if (raw := _raw(before, byte)) is not None:
                    token = self._byte_ids[byte]
                    found[token] = found.get(token, frozenset()) | {(RAW, raw)}
        return found

    def _ended(self, places):
        return {(end, b"") for mode, pending in places if not pending for end in self._pretokens.ended(mode)}

    def joined(self, place):
        """Within a pre-token."""
        mode, pending = place
        return mode != RAW and (bool(pending) or mode not in self._pretokens.begins)

    def last(self, place):
        """Behind a pre-token, or bytes of no character."""
        mode, pending = place
        return mode == RAW or (not pending and self._pretokens.last(mode))

    def open(self, place):
        """Within a character or a pre-token that cannot end here."""
        mode, pending = place
        return self.joined(place) and (bool(pending) or not self._pretokens.ended(mode))


class WordsAndRuns(Words):
    """`Words` of `BetweenRuns`, and the runs."""

    def exits(self, place):
        """Runs too, where the text between them may end."""
        found = super().exits(place)
        if self.joined(place) or not self.last(place):
            return found
        runs = self._pretokens.runs(BEGINS if place[0] == RAW else place[0])
        return found | {token: frozenset([(mode, b"")]) for token, mode in runs.items()}


class Pieces:
    """Of a SentencePiece vocabulary with byte fallback: pieces of whole characters, and bytes of what no piece spells.
    A place is what the last bytes must not become, unless no piece spells it. Everything is one pre-token.
    """

    start = b""

    def __init__(self, tokens, byte_ids, reachable):
        self._byte_ids, ids = byte_ids, np.flatnonzero(reachable)
        plain = np.setdiff1d(ids, byte_ids).tolist()
        self._pieces = dict.fromkeys(plain, frozenset([b""]))
        self._spelled = {tokens[token] for token in plain}

    def exits(self, place):
        """Any piece, and bytes that do not spell one that has its own."""
        found = dict(self._pieces)
        for byte, token in enumerate(self._byte_ids):
            data = place + bytes([byte])
            if _utf8(data) is None:
                data = bytes([byte])
            if data in self._spelled:
                continue
            if _utf8(data):
                found[token] = frozenset([b""])
            else:
                found[token] = frozenset([data if _utf8(data) == "" else b""])
        return found

    def joined(self, place):
        """Always."""
        return True

    def last(self, place):
        """Anywhere."""
        return True

    def open(self, place):
        """Never."""
        return False


class Canonical:
    """Exactly the sequences that begin some text's encoding. See `canonical`."""

    def __init__(self, tokenizer):
        self._merges = Adjacency(tokenizer.definition, tokenizer.vocab_size)
        model = json.loads(tokenizer.definition)["model"]
        if model.get("ignore_merges") and any(not self._merges.reachable[t] for t in model["vocab"].values()):
            raise UserError("A tokenizer that takes whole words which its merges do not make: its encodings are not known exactly.")
        tokens = [tokenizer.token_bytes(t) for t in range(tokenizer.vocab_size)]
        byte_ids = tokenizer.byte_ids
        reachable = self._merges.reachable.copy()
        reachable[byte_ids] = True
        tokens = [token if here else b"" for token, here in zip(tokens, reachable, strict=True)]
        tokens[tokenizer.bos] = tokens[tokenizer.eos] = b""
        grammar = _grammar(tokenizer)
        if grammar is Pieces:
            self._words = Pieces(tokens, byte_ids, reachable)
        else:
            self._words = (WordsAndRuns if isinstance(grammar, BetweenRuns) else Words)(tokens, byte_ids, grammar)
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


def _grammar(tokenizer):
    """How a tokenizer cuts text before its merges."""
    content = json.loads(tokenizer.definition)
    runs = added_runs(content.get("added_tokens"))
    if content["model"].get("byte_fallback"):
        if content.get("pre_tokenizer") or runs:
            raise UserError("Of tokenizers with byte fallback, those that cut text into words are not known exactly.")
        return Pieces
    grammar = _pretokens(content.get("pre_tokenizer"))
    return BetweenRuns(grammar, runs) if runs else grammar


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
