"""Neural machine translation without embeddings (Shaham & Levy 2021, arXiv 2008.09396).

There are fewer bytes than dimensions, so that a byte can be its one-hot vector and needs no embedding. With one-hot
vectors, dropout on the decoder's input blanks whole tokens, and the paper finds that this is what helps. So two by
two: learned or one-hot vectors, with and without token dropout.

    lmlab table embeddingless --scale smoke
    lmlab table embeddingless --scale small

The paper translates between English and ten languages; here the same models restore spans of text, since there is no
parallel text on every machine: bits per byte written, not BLEU. The arms with one-hot vectors spend what they save on
wider MLPs.

The networks are T5's, with relative position biases, gated GELUs and norms ahead of the layers, where the original has
fairseq's transformer with sinusoidal positions, plain MLPs and norms behind them; one-hot vectors begin with length 1 for
that reason, not sqrt(d). The learned arms share one embedding
between source and target and have a head of their own; the original shares all three. Token dropout leaves the other
tokens as they are, without the factor 1 / (1 - p); there is no other dropout and no label smoothing. Training is AdamW
under WSD, the original's Adam under an inverse square root.
"""

import dataclasses

from lmlab.comparison import SPAN_SETUPS, Setup, spans
from lmlab.data.corpora import StandardLibrary
from lmlab.data.corruptions import SpanCorruption, TokenDropout
from lmlab.evaluation.other_source import OtherSource
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.encoder_decoder import Decoder, Encoder, EncoderDecoder
from lmlab.models.one_hot import OneHot

PAPER = Paper(
    title="Neural Machine Translation without Embeddings",
    year=2021,
    url="arXiv 2008.09396",
    claim="Byte-to-byte models without embeddings are as good as those with, and dropping decoder input tokens is what "
    "byte-to-byte models gain from.",
)

SETUPS = SPAN_SETUPS | {
    # A rate for learned vectors, lower than other papers': these models are wider. One-hot vectors may want another.
    "small": dataclasses.replace(SPAN_SETUPS["small"], train_bytes=3_300_000, learning_rate=1e-3),
    "paper": Setup(StandardLibrary(), 50_000 * 64_000, 64_000, 1000, 1000, 5e-4, 1_000_000, "bfloat16"),
}
SIZES = {  # vocabulary with room for sentinels, d_model, heads, d_kv, (encoder, decoder) layers
    "smoke": (264, 272, 4, 32, (2, 1)),
    "small": (264, 264, 4, 32, (2, 1)),
    "paper": (272, 512, 4, 128, (6, 6)),
}
D_FF = {  # learned, one-hot
    "smoke": (128, 224),
    "small": (192, 288),
    "paper": (1024, 1088),
}


def arm(one_hot, corruption):
    """scale -> Run."""

    def run(scale):
        vocab, d_model, heads, d_kv, layers = SIZES[scale]
        shape = (d_model, D_FF[scale][one_hot], heads, d_kv)
        network = OneHot if one_hot else EncoderDecoder
        model = network(vocab, Encoder(layers[0], *shape), Decoder(layers[1], *shape))
        return SETUPS[scale].run(model, corruption=spans(scale, corruption), evaluators=(OtherSource(),))

    return run


ARMS = (
    Arm("learned", "Learned embeddings", arm(False, SpanCorruption)),
    Arm("learned_dropout", "Learned, token dropout", arm(False, TokenDropout)),
    Arm("one_hot", "One-hot", arm(True, SpanCorruption)),
    Arm("one_hot_dropout", "One-hot, token dropout", arm(True, TokenDropout)),
)

TABLE = Table(
    name="two_by_two",
    title="Embeddings and token dropout",
    arms=tuple(a.name for a in ARMS),
    measured=(
        Column("parameters", "Parameters", "", None, 0),
        Column("mflops_per_byte", "MFLOPs", "per byte read", None, 3),
        Column("validation_bpb", "Validation", "bits per byte written", "lower", 3),
        Column("bpb", "Test", "bits per byte written", "lower", 3),
        Column("own_source", "Own source", "bits per byte, 12 batches", "lower", 3),
        Column("other_source", "Another's", "bits per byte, 12 batches", None, 3),
        Column("cost", "Perturbation", "bits per byte written over clean", "lower", 3),
    ),
    note="The paper reports BLEU of translation: on IWSLT the one-hot byte model is ahead of byte and character models "
    "with embeddings in 19 of 20 cases. It has no table of this task.",
)

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "paper"),
    arms=ARMS,
    tables=(TABLE,),
    anchor="learned",
)
