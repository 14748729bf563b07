"""Probabilities of strings from models of tokens (Phan et al. 2024, arXiv 2406.16829).

A prompt that is encoded tells a model of tokens that no longer token fitted at its end, so that its next tokens do not
begin as the text would go on, however well it was trained. The probability that a text *starts with* a string sums over
all first tokens that reach past the string's end, and two such probabilities give the unbiased next symbol.

A `law` here is a function: ids [m] -> float64 [m + 1, V], the probabilities of the next token behind BOS and behind
each id.
"""

import functools

import numpy as np


def next_symbol_naive(law, tokenizer, text, symbols):
    """float64 [symbols]: how the next token behind the encoded text begins; of tokens with bytes, summing to 1."""
    p_V = law(tokenizer.encode(text))[-1]
    starts = [tokenizer.token_bytes(i)[:1] for i in range(len(p_V))]
    p = np.array([sum(p_V[i] for i, start in enumerate(starts) if start == symbol) for symbol in symbols])
    return p / p.sum() if p.sum() else np.full(len(symbols), 1 / len(symbols))  # tokens that no longer text begins with


def starts_with(law, tokenizer, text):
    """Probability that a text starts with these bytes, under greedy encoding: Maximum Prefix Correction.

    At each step the next token either reaches the end of what is left (branch: all tokens that begin with it), or is
    the longest token that fits (pass). The passed tokens are one sequence, so that `law` is asked once.
    """
    ids = tokenizer.encode(text)
    if not len(text):
        return 1.0
    p_LV = law(ids)
    ends = np.cumsum(tokenizer.token_lengths()[ids])
    total, passed, start = 0.0, 1.0, 0
    for i, end in enumerate(ends):
        rest = text[start:]
        total += passed * sum(p_LV[i, t] for t in range(p_LV.shape[1]) if tokenizer.token_bytes(t).startswith(rest))
        passed *= p_LV[i, ids[i]]
        start = end
    return float(total)


def starts_with_by_covers(law, tokenizer, text):
    """The same under any encoding, BPE's too: a sum over the cover encodings, those of which the last token alone
    reaches the end of the text, and that the tokenizer itself would write."""
    if not len(text):
        return 1.0
    total = 0.0
    longest = max(len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size))
    for split in range(max(0, len(text) - longest), len(text)):
        head, rest = tokenizer.encode(text[:split]), text[split:]
        lasts = [t for t in range(tokenizer.vocab_size) if tokenizer.token_bytes(t).startswith(rest)]
        lasts = [t for t in lasts if np.array_equal(tokenizer.encode(text[:split] + tokenizer.token_bytes(t)), [*head, t])]
        if lasts:
            p_LV = law(head)
            before = np.prod([p_LV[i, t] for i, t in enumerate(head)])
            total += before * p_LV[-1, lasts].sum()
    return float(total)


def next_symbol(law, tokenizer, text, symbols, start=starts_with):
    """float64 [symbols]: the unbiased probabilities of the symbol behind the text, by `start`."""
    p = np.array([start(law, tokenizer, text + symbol) for symbol in symbols])
    return p / p.sum()


def greedy_law(tokenizer, log_probability, symbols):
    """The exact `law` of greedily encoded text of infinite length. `log_probability`: of texts that start with a
    string.

    Whether an encoding begins with some tokens is settled by as many symbols behind them as the longest token has, less
    one.
    """
    ahead = max(map(len, tokenizer.tokens)) - 1
    tails = [b""]
    for _ in range(ahead):
        tails = [tail + symbol for tail in tails for symbol in symbols]

    @functools.cache
    def encoded(text):
        return tuple(tokenizer.encode(text).tolist())

    @functools.cache
    def probability(text):
        return np.exp(log_probability(text))

    @functools.cache
    def row(ids):
        """Probabilities of the token behind these."""
        joint, n = np.zeros(tokenizer.vocab_size), len(ids)
        for t, token in enumerate(tokenizer.tokens):
            text = tokenizer.decode(ids) + token
            joint[t] = sum(probability(text + tail) for tail in tails if encoded(text + tail)[: n + 1] == (*ids, t))
        return joint / max(joint.sum(), 1e-300)

    def law(ids):
        ids = tuple(int(i) for i in ids)
        return np.array([row(ids[:n]) for n in range(len(ids) + 1)])

    return law
