"""Byte-level answers of a model of subwords (Phan et al. 2024, arXiv 2410.09303; 2406.16829).

The probability that a text begins with some bytes is the sum over their *cover encodings*: token sequences that could
begin the encoding of a text, the last of whose tokens covers the last byte and may reach beyond. All but the last token
end within the bytes, so that there are as many *open* sequences, which such a last token may follow, as places where one
of the last few tokens could have ended. `ExactBytes` keeps them as bytes come: each byte adds the sequences that end with
it, mostly one, for one step of the model; and drops those that no token of the vocabulary covers any more. They branch off
one another in the model's cache.

What a model gives to tokens that cannot follow (`lmlab.text.canonical`) is given to those that can, in proportion. The
bytes' probabilities then sum to 1, and multiply to that of the string. A model that has learned the tokenizer leaves
nothing to give.
"""

import functools
from typing import NamedTuple

import numpy as np

from lmlab.decoding.branches import branches_of
from lmlab.errors import UserError
from lmlab.text.canonical import canonical
from lmlab.text.prefixes import Node, Prefixes

END = 256  # the end of the text, behind the 256 bytes


class Open(NamedTuple):
    """A token sequence whose next token covers the last byte; `node`: the bytes behind it so far."""

    branch: object  # of `lmlab.decoding.branches`
    tokens: tuple
    log_weight: float  # log-probability of the sequence
    state: object
    p: np.ndarray  # float64 [n]: probability of the next token, in the order of `Prefixes`
    end: float  # probability that the text ends behind the sequence
    node: Node

    def beyond(self):
        """Probability of a next token that goes beyond the bytes so far (or of the end)."""
        return self.longer().sum() + (0.0 if self.node.depth else self.end)

    def longer(self):
        """float64: probabilities of the tokens that go beyond the bytes so far. Sums of them are sums of slices: the
        difference of two cumulative sums would lose what is small beside them."""
        return self.p[self.node.first + self.node.own : self.node.end]

    def by_byte(self):
        """float64 [C]: probability of a next token that goes on with each of the node's bytes."""
        starts = self.node.bounds_C[:-1] - self.node.first - self.node.own
        return np.add.reduceat(self.longer(), starts) if len(starts) else np.zeros(0)


@functools.lru_cache(maxsize=4)
def prefixes_of(tokenizer):
    """`Prefixes` of what a tokenizer's tokens stand for, BOS and EOS aside."""
    tokens = [tokenizer.token_bytes(t) for t in range(tokenizer.vocab_size)]
    tokens[tokenizer.bos] = tokens[tokenizer.eos] = b""
    return Prefixes(tokens)


class Frontier:
    """The open sequences of one text. `automaton`: which sequences count. Sequences under a share of `least` of the whole
    are dropped, where there are too many to be exact. `kept(p_V, bytes so far)`: probabilities with tokens
    taken out, see `lmlab.decoding.partial_tokens`."""

    def __init__(self, tokenizer, automaton, least=0.0, kept=None):
        self._prefixes, self._eos = prefixes_of(tokenizer), tokenizer.eos
        self._automaton, self._least, self._kept = automaton, least, kept
        self.open, self.text = [], b""

    def begin(self, branch, log_probs_V, state, log_weight=0.0):
        """From one sequence, which is given."""
        self.open = [self._opened(branch, (), log_weight, state, log_probs_V)]

    def _opened(self, branch, tokens, log_weight, state, log_probs_V):
        mask_V = self._automaton.allowed(state)
        p_V = np.where(mask_V, np.exp(log_probs_V[: len(mask_V)].astype(np.float64)), 0.0)
        if self._kept is not None:
            p_V = self._kept(p_V, len(self.text))
        total = p_V.sum()
        if not total:
            return None
        p = p_V[self._prefixes.order] / total
        return Open(branch, tokens, log_weight, state, p, float(p_V[self._eos] / total), self._prefixes.root)

    def move(self, byte):
        """One byte further: (branches that are free, [(parent, token, log-weight)] of the sequences that end with it)."""
        self.text += bytes([byte])
        kept, ended, free = [], [], []
        for sequence in self.open:
            node = self._prefixes.child(sequence.node, byte)
            if node is not None:
                for at, token in enumerate(self._prefixes.own(node).tolist(), node.first):
                    if sequence.p[at] > 0:
                        ended.append((sequence, token, sequence.log_weight + np.log(sequence.p[at])))
                moved = sequence._replace(node=node)
                if moved.beyond() > 0:
                    kept.append(moved)
                    continue
            free.append(sequence.branch)
        self.open = kept
        if self._least and (ended or kept):
            weights = [w for _, _, w in ended] + [s.log_weight + np.log(s.beyond()) for s in kept]
            least = max(weights) + np.log(self._least)
            free += [s.branch for s, w in zip(kept, weights[len(ended) :], strict=True) if w < least]
            self.open = [s for s, w in zip(kept, weights[len(ended) :], strict=True) if w >= least]
            ended = [e for e in ended if e[2] >= least]
        return free, ended

    def add(self, parent, token, log_weight, branch, log_probs_V):
        """A sequence that ends here, once the model has read its last token; False if nothing may follow it."""
        state = self._automaton.behind(parent.state, token)
        sequence = self._opened(branch, (*parent.tokens, token), log_weight, state, log_probs_V)
        if sequence is not None:
            self.open.append(sequence)
        return sequence is not None

    def log_prob(self):
        """Of the text so far, as the beginning of one."""
        return self._masses()[1]

    def _masses(self):
        if not self.open:
            return np.zeros(257), -np.inf
        top = max(s.log_weight for s in self.open)
        mass = np.zeros(257)
        for s in self.open:
            weight = np.exp(s.log_weight - top)
            mass[s.node.bytes_C] += weight * s.by_byte()
            mass[END] += weight * (0.0 if s.node.depth else s.end)
        total = mass.sum()
        return mass / total if total else mass, (top + np.log(total) if total else -np.inf)

    def next_bytes(self):
        """float64 [257]: probabilities of the next byte, and of the text's end; all 0 for an impossible text."""
        return self._masses()[0]

    def draw(self, rng):
        """(a sequence, its next token) by their probabilities, given the bytes."""
        weights = np.array([s.log_weight for s in self.open])
        weights = np.exp(weights - weights.max()) * [s.beyond() for s in self.open]
        s = self.open[rng.choice(len(weights), p=weights / weights.sum())]
        longer = s.longer()
        if not s.node.depth and rng.random() * s.beyond() < s.end:
            return s, self._eos
        at = s.node.first + s.node.own + rng.choice(len(longer), p=longer / longer.sum())
        return s, int(self._prefixes.order[at])


def certain_tokens(tokenizer, data, automaton):
    """The tokens that all cover encodings of `data` begin with."""
    frontier, even_V = Frontier(tokenizer, automaton), np.zeros(tokenizer.vocab_size)  # only what is possible matters
    frontier.begin(-1, even_V, automaton.start)
    for byte in data:
        for parent, token, log_weight in frontier.move(byte)[1]:
            frontier.add(parent, token, log_weight, -1, even_V)
    if not frontier.open:
        raise UserError("The tokenizer encodes no text that begins with these bytes.")
    sequences = [s.tokens for s in frontier.open]
    first, last = min(sequences), max(sequences)  # what these two begin with, all do
    differ = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(differ, len(first))]


class Texts:
    """Several texts at once, byte by byte: `frontiers`, one a text, whose sequences branch off one another in `branches`.
    `room`: bytes that each may yet get."""

    def __init__(self, tokenizer, branches, frontiers, room):
        self.tokenizer, self.branches, self.frontiers, self._room = tokenizer, branches, frontiers, room

    def take_room(self, count):
        """UserError where the caches do not reach for `count` bytes more."""
        if count > self._room:
            raise UserError(f"There is room for {self._room} bytes more, not for {count}: ask for more room at the start.")
        self._room -= count

    def feed_all(self, data_B):
        """Byte strings, of any lengths."""
        for at in range(max(map(len, data_B), default=0)):
            self.feed([data[at] if at < len(data) else None for data in data_B])

    def feed(self, bytes_B):
        """One byte more for every row; None: none for this one. Behind one that no text goes on with, nothing is probable."""
        self.take_room(1)
        ended = []
        for frontier, byte in zip(self.frontiers, bytes_B, strict=True):
            if byte is None:
                continue
            free, new = frontier.move(int(byte))
            ended += [(frontier, free, *what) for what in new]
            if not new:
                self._release(free)
        if not ended:
            return
        parents, tokens = [e[2].branch for e in ended], [e[3] for e in ended]
        new, log_probs = self.branches.extend(parents, tokens)
        for (frontier, free, parent, token, weight), branch, log_probs_V in zip(ended, new, log_probs, strict=True):
            if not frontier.add(parent, token, weight, branch, log_probs_V):
                self._release([branch])
        for free in {id(e[1]): e[1] for e in ended}.values():
            self._release(free)

    def _release(self, branches):
        for branch in branches:
            self.branches.release(branch)

    def log_probs(self):
        """float64 [B]: log-probability that a text begins with the bytes so far."""
        return np.array([frontier.log_prob() for frontier in self.frontiers])

    def next_bytes(self):
        """float64 [B, 257]: probabilities of the next byte, and of the text's end."""
        return np.stack([frontier.next_bytes() for frontier in self.frontiers])


class ExactBytes(Texts):
    """A model of subwords as one of bytes, for several texts at once.

    `prompts`: byte strings, any lengths, empty ones too. `room`: bytes that may yet come. `contexts`: token ids that stand
    before each prompt, by default BOS alone: what fills in the middle puts its marks and the suffix there, and the prefix,
    which may be cut within a token, into the prompt.
    """

    def __init__(self, model, params, tokenizer, prompts, room=256, contexts=None):
        self.automaton = canonical(tokenizer)
        contexts = contexts or [[tokenizer.bos]] * len(prompts)
        if any(not len(context) for context in contexts):
            raise UserError("A context holds at least one token, such as BOS.")
        certain = [certain_tokens(tokenizer, prompt, self.automaton) for prompt in prompts]
        rest = [p[len(tokenizer.decode(np.array(c, int))) :] for p, c in zip(prompts, certain, strict=True)]
        read = [np.concatenate([context, np.array(c, int)]) for context, c in zip(contexts, certain, strict=True)]
        room += max(map(len, rest))
        branches = branches_of(model, params, read, room)
        super().__init__(tokenizer, branches, [Frontier(tokenizer, self.automaton) for _ in prompts], room)
        for i, (frontier, tokens) in enumerate(zip(self.frontiers, certain, strict=True)):
            log_probs, state, log_weight = branches.log_probs[i][len(contexts[i]) - 1 :], self.automaton.start, 0.0
            for token, row_V in zip(tokens, log_probs, strict=False):
                mask_V = self.automaton.allowed(state)
                allowed = np.exp(row_V[: len(mask_V)][mask_V].astype(np.float64)).sum()
                log_weight += float(row_V[token]) - np.log(allowed)
                state = self.automaton.behind(state, token)
            frontier.begin(branches.roots[i], log_probs[-1], state, log_weight)
        self.feed_all(rest)


def string_log_probs(model, params, tokenizer, strings, whole=False):
    """float64 [B]: log-probability that a text begins with each byte string; `whole`: that it is the text."""
    exact = ExactBytes(model, params, tokenizer, strings, 0)
    with np.errstate(divide="ignore"):
        return exact.log_probs() + (np.log(exact.next_bytes()[:, END]) if whole else 0.0)


def write_bytes(source, count, seed=0):
    """Sample `count` bytes of each row of an `ExactBytes` (or an ensemble), one by one: [B] byte strings, shorter where
    the text ended."""
    rng, written = np.random.default_rng(seed), None
    for _ in range(count):
        p = source.next_bytes()
        if written is None:
            written, going = [b""] * len(p), [True] * len(p)
        drawn = [int(rng.choice(257, p=row / row.sum())) if on else END for row, on in zip(p, going, strict=True)]
        going = [byte != END for byte in drawn]
        if not any(going):
            break
        source.feed([byte if on else None for byte, on in zip(drawn, going, strict=True)])
        written = [w + bytes([byte]) if on else w for w, byte, on in zip(written, drawn, going, strict=True)]
    return written


def write_tokens(exact, count, seed=0):
    """What `write_bytes` draws, in distribution, for one step of the model a token: a cover encoding of the prompt is
    drawn, and then token behind token. Bytes beyond `count` are cut off. Uses up `exact`."""
    rng, tokenizer, automaton = np.random.default_rng(seed), exact.tokenizer, exact.automaton
    exact.take_room(count)
    drawn = [frontier.draw(rng) for frontier in exact.frontiers]
    ends, states, tokens = [s.branch for s, _ in drawn], [s.state for s, _ in drawn], [t for _, t in drawn]
    # Of the first token, what lies behind the bytes that it covers.
    written = [tokenizer.token_bytes(t)[s.node.depth :] for s, t in drawn]
    while True:
        on = [i for i, t in enumerate(tokens) if t != tokenizer.eos and len(written[i]) < count]
        if not on:
            return [w[:count] for w in written]
        used = [ends[i] for i in on]
        new, log_probs = exact.branches.extend(used, [tokens[i] for i in on], in_place=True)
        for i, branch, log_probs_V in zip(on, new, log_probs, strict=True):
            ends[i] = branch
            states[i] = automaton.behind(states[i], tokens[i])
            mask_V = automaton.allowed(states[i])
            sums = np.cumsum(np.where(mask_V, np.exp(log_probs_V[: len(mask_V)].astype(np.float64)), 0.0))
            tokens[i] = int(np.searchsorted(sums, rng.random() * sums[-1], "right"))
            written[i] += tokenizer.token_bytes(tokens[i]) if tokens[i] != tokenizer.eos else b""
