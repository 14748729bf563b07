"""Qtok's questions to a tokenizer (by its abstract): what its tokens are, and how they are used."""

import numpy as np

from lmlab.text.vocabulary import describe, kind, unreachable


def audit(tokenizer, texts):
    """Numbers of a vocabulary, and of its use on {language: documents}.

    `describe` of all tokens; "unreachable": % of them; "used": % that occur in the texts; "fragments_used": % of the
    texts' tokens that are no whole characters; "whole_words": % of the words, with the space before them, that are one
    token; "fertility": tokens per word and "bytes_per_token", means over languages; "core": % of the vocabulary that
    occurs in every language.
    """
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    fragment = np.array([kind(t) == "fragment" for t in tokens])
    rows, fertility, density, whole = [], [], [], []
    for documents in texts.values():
        encoded = tokenizer.encode_batch(documents)
        counts = np.bincount(np.concatenate(encoded), minlength=len(tokens))
        rows.append(counts)
        words = [b" " + word for document in documents for word in document.split()]
        fertility.append(counts.sum() / len(words))
        density.append(sum(map(len, documents)) / counts.sum())
        distinct, of = np.unique(np.array(words, object), return_counts=True)
        single = np.array([len(ids) == 1 for ids in tokenizer.encode_batch(list(distinct))])
        whole.append(100 * of[single].sum() / of.sum())
    counts = np.array(rows)
    total = counts.sum(axis=0)
    return describe(tokens) | {
        "vocabulary": float(len(tokens)),
        "unreachable": 100 * len(unreachable(tokenizer)) / len(tokens),
        "used": float(100 * np.mean(total > 0)),
        "core": float(100 * np.mean((counts > 0).all(axis=0))),
        "fragments_used": float(100 * total[fragment].sum() / total.sum()),
        "whole_words": float(np.mean(whole)),
        "fertility": float(np.mean(fertility)),
        "bytes_per_token": float(np.mean(density)),
    }
