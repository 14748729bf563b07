"""Held-out text as a model sees it: surprisal of every byte, and where its chunks start."""

import numpy as np

from lmlab.data.bake import stream_of
from lmlab.data.batches import Windows, evaluation_batches
from lmlab.evaluation.scoring import score


def read_passage(model, params, tokenizer, text, length, batch_size=1):
    """One document: {"bytes": [n], "surprisal": [n] bits, "stages": [per stage: n of 0/1]}.

    A subword's surprisal is spread evenly over its bytes, and its stages are the token starts. The symbol that ends a
    word adds its surprisal to the word's last byte. The stage marks of a byte say that a chunk starts once the model has
    read it, or has read the symbol before it.
    """
    windows = Windows(stream_of([text], tokenizer), length, tokenizer)
    lengths, bits, stages = [], [], []
    for batch in evaluation_batches(windows, batch_size):
        scores = score(model, params, batch)
        scored = batch["weights"] > 0
        lengths.append(batch["target_bytes"][scored])
        bits.append(scores.nats_BL[scored] / np.log(2))
        stages.append([s[batch["segment_ids"] > 0] for s in scores.starts])
    lengths, bits = (np.concatenate(x)[:-1] for x in (lengths, bits))  # the last target is EOS
    ends = np.cumsum(lengths)
    surprisal = np.repeat(bits / np.maximum(lengths, 1), lengths)
    np.add.at(surprisal, ends[lengths == 0] - 1, bits[lengths == 0])
    if lengths.max(initial=1) > 1:
        marked = [ends - lengths]
    else:  # what is read begins with BOS, and ends at the last token or at EOS
        marked = [(ends - lengths)[np.concatenate(s)[1 : 1 + len(lengths)]] for s in zip(*stages, strict=True)]
    marks = [np.isin(np.arange(len(text)), at).astype(int).tolist() for at in marked]
    return {"bytes": list(text), "surprisal": [round(float(s), 3) for s in surprisal], "stages": marks}
