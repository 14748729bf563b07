"""What a model of subwords says of bytes: of a text as one encoding and as all, and behind prompts cut within a token."""

import dataclasses
import itertools
import math

import numpy as np

from lmlab.decoding.branches import branches_of
from lmlab.decoding.exact_bytes import ExactBytes
from lmlab.decoding.partial_tokens import aligned, healed, plain
from lmlab.errors import UserError
from lmlab.text.canonical import canonical
from lmlab.text.infill import SuffixFirst, ids_of

METHODS = {"plain": plain, "healed": healed, "aligned": aligned, "exact": ExactBytes}
LEAST = 2.0**-30  # a byte that a method thinks impossible costs 30 bits


def _groups(items, size):
    items = iter(items)
    while group := list(itertools.islice(items, size)):
        yield group


@dataclasses.dataclass(frozen=True)
class ExactBits:
    """Bits per byte of the first `size` bytes of `documents` documents of a split, three ways.

    "encoding_bpb": of the bytes' one encoding, as bits per byte are usually counted. "possible_bpb": of the same, what the
    model gives to tokens that cannot follow being given to those that can. "exact_bpb": of all texts that begin with the
    bytes, whatever token the last of them are part of; no other count compares models of different tokenizers fairly.
    """

    split: str = "test"
    documents: int = 64
    size: int = 200  # bytes

    def __call__(self, model, params, data):
        """{"encoding_bpb", "possible_bpb", "exact_bpb"}"""
        tokenizer, nats, count = data.baked.tokenizer, np.zeros(3), 0
        automaton = canonical(tokenizer)
        documents = itertools.islice(data.baked.documents(self.split), self.documents)
        for group in _groups((d[: self.size] for d in documents), data.batch_size):
            data.check()
            encoded = [tokenizer.encode(text) for text in group]
            read = [np.concatenate([[tokenizer.bos], ids]) for ids in encoded]
            for ids, log_probs in zip(encoded, branches_of(model, params, read, 0).log_probs, strict=True):
                state = automaton.start
                for token, row_V in zip(ids.tolist(), log_probs, strict=False):
                    mask_V = automaton.allowed(state)
                    possible = np.log(np.exp(row_V[: len(mask_V)][mask_V].astype(np.float64)).sum())
                    nats[:2] -= row_V[token], row_V[token] - possible
                    state = automaton.behind(state, token)
            nats[2] -= ExactBytes(model, params, tokenizer, group, 0).log_probs().sum()
            count += sum(map(len, group))
        return dict(zip(("encoding_bpb", "possible_bpb", "exact_bpb"), (nats / (math.log(2) * count)).tolist(), strict=True))


@dataclasses.dataclass(frozen=True)
class CutPrompts:
    """Bits per byte of the `new` bytes behind prompts that end within a token, each way that a prompt can be given.

    The prompts are the first bytes of `prompts` documents, to somewhere within the first token of several bytes behind
    `size`. See `lmlab.decoding.partial_tokens`.
    """

    split: str = "test"
    prompts: int = 64
    size: int = 100  # bytes
    new: int = 4
    seed: int = 0

    def __call__(self, model, params, data):
        """{"cut/<method>": bits per byte of the new bytes, "cut/<method>/first": of the first of them}"""
        tokenizer, rng = data.baked.tokenizer, np.random.default_rng(self.seed)
        documents = (d[: 2 * self.size + self.new + 64] for d in data.baked.documents(self.split))
        cut = [c for c in (self._cut(d, tokenizer, rng) for d in itertools.islice(documents, self.prompts)) if c]
        return self._ask(model, params, data, cut, [[tokenizer.bos]] * len(cut), "cut")

    def _ask(self, model, params, data, cut, contexts, name):
        """`cut`: [(prompt, what comes next)], behind `contexts`, ids."""
        tokenizer = data.baked.tokenizer
        bits = {method: np.zeros(self.new) for method in METHODS}
        for group in _groups(zip(contexts, cut, strict=True), data.batch_size):
            data.check()
            before, (prompts, behind) = [c for c, _ in group], zip(*(c for _, c in group), strict=True)
            for method, make in METHODS.items():
                texts = make(model, params, tokenizer, list(prompts), room=self.new, contexts=before)
                for at in range(self.new):
                    true = [b[at] for b in behind]
                    p = texts.next_bytes()[np.arange(len(true)), true]
                    bits[method][at] -= np.log2(np.maximum(p, LEAST)).sum()
                    texts.feed(true)
        result = {}
        for method, sums in bits.items():
            result[f"{name}/{method}"] = float(sums.mean() / max(1, len(cut)))
            result[f"{name}/{method}/first"] = float(sums[0] / max(1, len(cut)))
        return result

    def _cut(self, document, tokenizer, rng):
        """(prompt, what comes next), or None for a document that is too short."""
        spans = tokenizer.byte_spans(tokenizer.encode(document))
        long = (spans[:, 1] - spans[:, 0] > 1) | (tokenizer.token_lengths().max() == 1)
        for start, end in spans[long & (spans[:, 0] >= self.size)]:
            at = int(rng.integers(start + 1, max(end, start + 2)))
            if at + self.new <= len(document):
                return document[:at], document[at : at + self.new]
        return None


@dataclasses.dataclass(frozen=True)
class CutGaps(CutPrompts):
    """The same of gaps of `new` bytes that begin within a token, with `suffix` bytes behind them in the context: of models
    whose `FillIn` is `SuffixFirst`."""

    suffix: int = 100  # bytes

    def check(self, run):
        """UserError for a run of another kind."""
        if not isinstance(getattr(run.corruption, "kind", None), SuffixFirst):
            raise UserError("Gaps with the suffix before them need a run whose corruption is FillIn(SuffixFirst()).")

    def __call__(self, model, params, data):
        """{"gap/<method>": bits per byte of the gaps, "gap/<method>/first": of their first bytes}"""
        kind = data.corruption.kind
        tokenizer, rng = data.baked.tokenizer, np.random.default_rng(self.seed)
        gaps, contexts = [], []
        for document in itertools.islice(data.baked.documents(self.split), self.prompts):
            document = document[: 2 * self.size + self.new + self.suffix + 64]
            if found := self._cut(document, tokenizer, rng):
                begin = len(found[0]) + self.new
                parts = kind.context(document[begin : begin + self.suffix])
                contexts.append(np.append(tokenizer.bos, ids_of(tokenizer, *parts)))
                gaps.append(found)
        return self._ask(model, params, data, gaps, contexts, "gap")
