"""What the same text costs in each language: corpus token counts, token premiums, fertility."""

import numpy as np

FIRST = 258  # the smallest vocabulary of a BPE


def corpus_tokens(tokenizer, lines):
    """Tokens of all lines together (the corpus token count of parallel text)."""
    return sum(map(len, tokenizer.encode_batch(lines)))


def fertility(tokens, lines):
    """Tokens per word; a word is a run of bytes without white space."""
    return tokens / sum(len(line.split()) for line in lines)


def premium_metrics(tokens, texts):
    """How unequal {language: tokens} of parallel `texts` {language: lines} are.

    {"tokens_per_line": mean over languages, "spread": standard deviation over mean, in %, "largest": the most tokens of
    a language over the fewest, "fertility": mean, "bytes_per_token": mean}.
    """
    counts = np.array([tokens[name] for name in texts], float)
    sizes = np.array([sum(map(len, lines)) for lines in texts.values()])
    lines = len(next(iter(texts.values())))
    return {
        "tokens_per_line": float(counts.mean() / lines),
        "spread": float(100 * counts.std() / counts.mean()),
        "largest": float(counts.max() / counts.min()),
        "fertility": float(np.mean([fertility(tokens[name], texts[name]) for name in texts])),
        "bytes_per_token": float(np.mean(sizes / counts)),
    }


def equal_cost_sizes(tokenizers, texts, sizes):
    """{language: vocabulary} at which all languages take as many tokens as the one that takes the most at the largest.

    `tokenizers`: {language: a BPE of the largest of `sizes`, or of as many ids as there are}, cut to the others for the
    curve of tokens against the logarithm of the size, which is interpolated.
    """
    sizes = sorted(sizes)
    curves = {
        name: [corpus_tokens(t.truncated(min(size, t.vocab_size)), texts[name]) for size in sizes]
        for name, t in tokenizers.items()
    }
    target = max(curve[-1] for curve in curves.values())
    result = {}
    for name, curve in curves.items():
        log_size = np.interp(-target, -np.array(curve, float), np.log(sizes))  # tokens fall as the size grows
        result[name] = min(int(round(float(np.exp(log_size)))), tokenizers[name].vocab_size)
    return result
