"""Held-out text as a model sees it: surprisal of every byte, and where its chunks start."""

import numpy as np

from lmlab.data.bake import stream_of
from lmlab.data.batches import Windows, evaluation_batches
from lmlab.evaluation.scoring import score


def read_passage(model, params, tokenizer, text, length, batch_size=1):
    """One document: {"bytes": [n], "surprisal": [n] bits, "stages": [per stage: n of 0/1]}.

    A subword's surprisal is spread evenly over its bytes, and its stages are the token starts. The stage marks of a
    byte say that a chunk starts once the model has read it.
    """
    windows = Windows(stream_of([text], tokenizer), length, tokenizer)
    lengths, surprisal, stages, spans = tokenizer.token_lengths(), [], [], []
    for batch in evaluation_batches(windows, batch_size):
        scores = score(model, params, batch)
        rows = [scores.nats_BL, batch["target_bytes"], batch["targets"], batch["segment_ids"]]
        nats, target_bytes, targets, segments = [r.reshape(-1) for r in rows]
        covers = target_bytes > 0
        spans.append(lengths[targets[covers]])
        surprisal.append(nats[covers] / np.log(2))
        stages.append([s.reshape(-1)[segments > 0] for s in scores.starts])
    spans, surprisal = np.concatenate(spans), np.concatenate(surprisal)
    per_byte = np.repeat(surprisal / spans, spans)
    # What is read begins with BOS, and ends at the last byte or at EOS.
    marks = [np.concatenate(s)[1 : 1 + len(text)].astype(int).tolist() for s in zip(*stages, strict=True)]
    if spans.max(initial=1) > 1:
        marks = [np.concatenate([[1] + [0] * (n - 1) for n in spans]).tolist()]
    return {"bytes": list(text), "surprisal": [round(float(s), 3) for s in per_byte], "stages": marks}
