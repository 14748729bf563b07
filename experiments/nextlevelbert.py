"""NextLevelBERT: masked language modeling with higher-level representations for long documents (Czinczoll et al. 2024,
arXiv 2402.17682).

The paper's claim: a transformer that reads a document as vectors of its chunks, and is pretrained to predict the
vectors of hidden chunks, gives vectors of whole documents that surpass those of much larger embedding models where
little detail is asked for.

    lmlab table nextlevelbert --scale smoke
    lmlab table nextlevelbert --scale small [--corpus PATH]      books or manuals: documents of 10 kB and more
    lmlab show nextlevelbert --scale paper

The honest small test: is a piece of a document found by another piece of it, better by the mean of what the transformer
makes of the chunks' vectors than by the mean of these vectors themselves, and is a document of the same kind? And is more than the
mean vector predicted of a hidden chunk, and more than the mean of the chunks around it? Not measured in bits per byte:
those in the table are of the encoder of chunks, per byte of hidden words, and the same for all arms but for the length of
the chunks.

The paper's chunk vectors come from a frozen sentence encoder (MiniLM). Here a small encoder of bytes is trained beside
the upper transformer, on hidden words within a chunk, and a chunk's vector is the mean of its states, with no word
hidden; what is asked of the vectors never moves it, but while it learns, the vectors move. All hidden vectors are
replaced by one mask; of the authors' code (BERT's 80/10/10 of replaced, exchanged and kept ones) that is the other
choice. The arms differ in the loss, or in the length of chunks.

At paper scale both encoders are of MiniLM-L6's size, with a gated MLP of two thirds of the width; a chunk of 256 tokens
is 1,024 bytes here, a document 512 chunks. Steps, rate and rows (two of 64, accumulated) are those of the authors'
code. Its documents are books; the encoder here starts from nothing. Similarity and question answering of the paper are
not run; its classification is of books, here of the packages of the standard library, by the nearest other document.
"""

import dataclasses

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.data.masked_words import MaskedWords
from lmlab.evaluation.bits_per_byte import BitsPerByte
from lmlab.evaluation.document_vectors import DocumentClasses, DocumentVectors
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.next_level import next_level
from lmlab.objectives.masked_vectors import MaskedVectors
from lmlab.text.bytes import ByteTokenizer

PAPER = Paper(
    title="NextLevelBERT: Investigating Masked Language Modeling with Higher-Level Representations for Long Documents",
    year=2024,
    url="arXiv 2402.17682",
    claim="A transformer over the vectors of chunks, pretrained to predict hidden ones, gives better vectors of long "
    "documents than much larger embedding models where little detail is asked for.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 160_000, 4096, 512, 512, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 4_000_000, 8192, 2048, 2048, 3e-3, 40_000),
    "paper": Setup(StandardLibrary(), 26_250 * 2**26, 2**26, 2**19, 2**19, 1e-4, 1_000_000, "bfloat16"),
}
CHUNK = {"smoke": 32, "small": 64, "paper": 1024}  # bytes
PIECE = {"smoke": 16, "small": 16, "paper": 128}  # chunks of what is compared; half as long chunks are twice as many
SHAPES = {  # width, heads; layers and MLP of the encoder of chunks; of the transformer above
    "smoke": (64, 4, (1, 128), (2, 128)),
    "small": (96, 4, (2, 192), (2, 256)),
    "paper": (384, 12, (6, 1024), (6, 1024)),
}


def nextlevelbert(squared=False, shorter=1):
    """scale -> Run."""

    def at(scale):
        model = next_level(ByteTokenizer(), CHUNK[scale] // shorter, *SHAPES[scale])
        run = SETUPS[scale].run(model, corruption=MaskedWords(), objective=MaskedVectors(squared))
        accumulate = 2 if scale == "paper" else 1
        evaluators = (BitsPerByte("test"), DocumentVectors("test", PIECE[scale] * shorter))
        if scale != "paper":  # no two folders of the library have documents of 256 kB
            evaluators += (DocumentClasses(chunks=2 * PIECE[scale] * shorter),)
        return dataclasses.replace(run, evaluators=evaluators, accumulate=accumulate)

    return at


NOTE = {"paper": "half the keys of the chunks' attention, and so fewer FLOPs per byte."}
ARMS = (
    Arm("nextlevelbert", "NextLevelBERT", nextlevelbert()),
    Arm("squared", "squared error", nextlevelbert(squared=True)),
    Arm("short_chunks", "chunks half as long", nextlevelbert(shorter=2), notes=NOTE),
)

VECTORS = Table(
    name="vectors",
    title="Vectors of documents",
    arms=tuple(arm.name for arm in ARMS),
    measured=(
        Column("same_document", "Found", "% by the upper transformer", "higher", 1),
        Column("same_document/mean_pooling", "Mean pooling", "% by the chunks' vectors", "higher", 1),
        Column("same_document/tokens", "Bytes", "% by counts of bytes", "higher", 1),
        Column("same_document/chance", "Chance", "%", None, 1),
        Column("explained", "Explained", "share of hidden vectors' variance", "higher", 3),
        Column("explained/neighbours", "Neighbours", "share, by the mean of seen chunks", "higher", 3),
        Column("spread", "Spread", "variance of predictions, share", None, 3),
        Column("bpb", "Words", "bits per hidden byte", "lower", 3),
    ),
    source="arXiv 2402.17682 reports similarity, classification and questions; its tables were not to be had",
    note="Found: the nearest other piece is of the same document. Explained: 0 is the mean vector of all chunks.",
)

KINDS = Table(
    name="kinds",
    title="Kinds of documents",
    arms=tuple(arm.name for arm in ARMS),
    measured=(
        Column("class", "Right", "% by the upper transformer", "higher", 1),
        Column("class/mean_pooling", "Mean pooling", "% by the chunks' vectors", "higher", 1),
        Column("class/tokens", "Bytes", "% by counts of bytes", "higher", 1),
        Column("class/chance", "Chance", "%", None, 1),
    ),
    note="Right: the nearest other document lies in the same folder of the standard library, whatever the models "
    "were trained on. Nothing is fitted.",
)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(VECTORS, KINDS), anchor="nextlevelbert"
)
