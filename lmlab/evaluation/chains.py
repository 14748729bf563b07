"""What a model has learned of a Markov chain, beside what there is to learn."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np

from lmlab.data.bake import stream_of
from lmlab.data.markov import SYMBOLS
from lmlab.decoding.tokenization_bias import next_symbol, next_symbol_naive, starts_with, starts_with_by_covers
from lmlab.evaluation.bits_per_byte import bits_per_byte


@dataclasses.dataclass(frozen=True)
class AgainstChain:
    """Nats per symbol of the test text, the ends of documents aside, beside the chain's own."""

    chain: Any  # of lmlab/data/markov.py
    split: str = "test"

    def __call__(self, model, params, data):
        """{"nats", "optimal": entropy rate, "unigram": of the best model without a context, "closed": % of the way from
        there to the optimum}."""
        total = np.zeros(2)

        def see(batch, scores):
            covers = batch["target_bytes"] > 0
            total[:] += scores.nats_BL[covers].sum(dtype=np.float64), batch["target_bytes"].sum()

        bits_per_byte(model, params, data.windows(self.split), data, see)
        return describe(float(total[0] / total[1]), self.chain)


def describe(nats, chain):
    """A loss in nats per symbol beside the chain's entropies."""
    optimal, unigram = chain.entropy_rate(), chain.unigram_entropy()
    return {"nats": nats, "optimal": optimal, "unigram": unigram, "closed": 100 * (unigram - nats) / (unigram - optimal)}


def token_unigram_nats(tokenizer, train, test):
    """Nats per symbol of `test` documents under the best model of independent tokens, its probabilities counted in
    `train` (one is added to every count)."""
    counts = np.bincount(stream_of(train, tokenizer).tokens, minlength=tokenizer.vocab_size)[: len(tokenizer.tokens)] + 1.0
    nats = -np.log(counts / counts.sum())
    return float(sum(nats[ids].sum() for ids in tokenizer.encode_batch(test)) / sum(map(len, test)))


def model_law(model, params, length):
    """The `law` (lmlab/decoding/tokenization_bias.py) of a trained model, for up to `length` tokens with BOS."""
    apply = jax.jit(lambda params, tokens: jax.nn.softmax(model.apply(params, tokens).logits[0]))

    def law(ids, bos):
        padded = np.zeros((1, length), np.int32)
        padded[0, : len(ids) + 1] = [bos, *ids]
        return np.asarray(apply(params, padded), np.float64)[: len(ids) + 1]

    return law


def transitions(law, tokenizer, chain, length):
    """Of every text of `length` symbols: (texts, P that the last symbol of the alphabet follows by the chain, by the
    tokens as they are prompted, and corrected), float64 [texts] each."""
    symbols = [SYMBOLS[i : i + 1] for i in range(chain.tables()[0].shape[1])]
    texts = [b"".join(text) for text in itertools.product(symbols, repeat=length)]
    start = starts_with if tokenizer.merges is None else starts_with_by_covers
    truth = [chain.following(text)[-1] for text in texts]
    naive = [next_symbol_naive(law, tokenizer, text, symbols)[-1] for text in texts]
    corrected = [next_symbol(law, tokenizer, text, symbols, start)[-1] for text in texts]
    return texts, *map(np.array, (truth, naive, corrected))


def transition_errors(truth, naive, corrected):
    """{"naive", "corrected": mean absolute error, "naive_worst", "corrected_worst": largest one, "sure": % of the texts
    where the tokens give 0 or 1, within a hundredth, and the chain is a tenth or more from it}."""
    n, c = np.abs(naive - truth), np.abs(corrected - truth)
    sure = (np.minimum(naive, 1 - naive) < 0.01) & (n > 0.1)
    return {
        "naive": float(n.mean()), "corrected": float(c.mean()), "naive_worst": float(n.max()),
        "corrected_worst": float(c.max()), "sure": 100 * float(sure.mean()),
    }


@dataclasses.dataclass(frozen=True)
class Transitions:
    """How well a trained model of tokens gives the chain's transitions, prompted with tokens and corrected, behind
    every text of `length` symbols."""

    chain: Any
    length: int = 6
    split: str = "test"

    def __call__(self, model, params, data):
        """As `transition_errors`."""
        tokenizer = data.baked.tokenizer
        of_ids = model_law(model, params, self.length + 2)
        law = lambda ids: of_ids(ids, tokenizer.bos)  # noqa: E731
        return transition_errors(*transitions(law, tokenizer, self.chain, self.length)[1:])
