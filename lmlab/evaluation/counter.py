"""A counter's bits: what a text's own past is worth to who knows nothing else."""

import collections

import numpy as np

VALUES = 254  # of a byte: all but BOS and EOS


def counted_nats(text, order=2):
    """float64 [bytes]: -log p of each byte, from counts of the bytes before it in `text` behind the last `order` ones.

    p_k(x | k bytes) = (count(x) + kinds p_{k-1}(x)) / (total + kinds), p_{-1} = 1 / 254, with the counts of what stood
    behind these k bytes so far and `kinds` the number of distinct ones (Witten and Bell 1991, method C). The values of
    bytes play no part, so that a substitution cipher changes nothing.
    """
    behind, nats = collections.defaultdict(collections.Counter), np.zeros(len(text))
    for t, byte in enumerate(text):
        p = 1 / VALUES
        contexts = [text[t - k : t] for k in range(min(order, t) + 1)]
        for context in contexts:
            if found := behind.get(context):
                p = (found[byte] + len(found) * p) / (found.total() + len(found))
        nats[t] = -np.log(p)
        for context in contexts:
            behind[context][byte] += 1
    return nats
