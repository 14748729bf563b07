"""MAGNET: multilingual fairness by adaptive gradient-based tokenization (Ahia et al. 2024, arXiv 2407.08818).

Dynamic token pooling with one boundary predictor and one prior for each script, so that scripts that need more bytes
per character are not cut into more segments. The paper's claim: segments become more equal across languages than
those of a single predictor, and language modelling is no worse.

    lmlab table magnet --scale small --corpus FOLDER --set corpus.cut=2000 --set corpus.test=0.2
    lmlab show magnet --scale paper      2 + 12 + 2 layers of 768

FOLDER holds parallel text in Latin, Cyrillic and Devanagari, such as NTREX-128's English, Russian and Hindi: equal
treatment is then an equal number of segments in each, which the table shows as bytes per segment and as the most
segments of a script over the fewest. The share that is held out must be large enough to have some of each. The arms
differ in the predictors only: one, with the prior that gives as many segments in all; or one per script. Without
--corpus the arms read the default corpus, which is Latin. The paper's scripts come as a token in front of a document;
here they are read off the last letter, and Devanagari stands for the scripts of its type, such as Bengali and Telugu.
The paper trains with Adam, a cosine and a clip of 0.25; here all is as in other tables.
"""

import dataclasses

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.evaluation.scripts import ScriptParity
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.boundaries import GumbelBoundaries, ScriptBoundaries
from lmlab.models.build import hourglass
from lmlab.models.language_model import LanguageModel

PAPER = Paper(
    title="MAGNET: Improving the Multilingual Fairness of Language Models with Adaptive Gradient-Based Tokenization",
    year=2024,
    url="arXiv 2407.08818",
    claim="A boundary predictor for each script segments languages more equally than one for all, and models them as "
    "well.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 160_000, 4096, 256, 128, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 1_000_000, 4096, 512, 200, 2e-3, 20_000),
    # 300,000 steps of 64 x 512 bytes of OSCAR in nine languages.
    "paper": Setup(StandardLibrary(), 300_000 * 64 * 512, 64 * 512, 512, 113, 5e-5, 1_000_000, "bfloat16"),
}
# Layers before, within and behind the segments; width, MLP, heads; MLP of a boundary predictor.
SIZES = {
    "smoke": ((1, 1, 1), 64, 128, 2, 32),
    "small": ((1, 3, 1), 128, 384, 4, 64),
    "paper": ((2, 12, 2), 768, 3072, 12, 3072),
}
CAPACITY = {"smoke": 3.0, "small": (2.0, 4.0), "paper": (2.0, 4.0)}
# Bytes per segment of Latin, Cyrillic and Devanagari: the released configuration's 5, 10 and 12.5.
PRIORS = (0.2, 0.1, 0.08)
# Of all bytes together, where parallel text takes so many times the bytes of English in each.
BYTES = (1.0, 1.8, 2.5)
MEAN = round(sum(prior * size for prior, size in zip(PRIORS, BYTES, strict=True)) / sum(BYTES), 3)


def pooled(scale, chunker):
    """`chunker`: (width, MLP of a predictor) -> part."""
    layers, width, d_ff, heads, predictor = SIZES[scale]
    backbone = hourglass(layers, width, d_ff, heads, chunker(width, predictor), capacity=CAPACITY[scale])
    run = SETUPS[scale].run(LanguageModel(256, backbone), multipliers=(1.0, 1.0))
    # The paper's text is not parallel and too long to count: there, numbers of segments are compared within the test split.
    parity = ScriptParity("test", ("test",)) if scale == "paper" else ScriptParity("test")
    return dataclasses.replace(run, evaluators=(*run.evaluators, parity))


def single(scale):
    """One predictor."""
    return pooled(scale, lambda width, d_ff: GumbelBoundaries(width, d_ff, 1 / MEAN, prior=MEAN))


def magnet(scale):
    """One predictor for each script."""
    return pooled(scale, lambda width, d_ff: ScriptBoundaries(width, d_ff, 1 / MEAN, priors=PRIORS))


NOTE = {"paper": "every predictor is computed at every byte, as wide as an MLP: a tenth of the FLOPs per byte and more."}

ARMS = (Arm("single", "One predictor", single), Arm("magnet", "MAGNET", magnet, NOTE))

TABLE = Table(
    name="parity",
    title="Segments by script",
    arms=tuple(arm.name for arm in ARMS),
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte, measured segments", None, 3),
        Column("bytes_per_chunk", "Segment", "bytes", None, 2),
        Column("latin_bytes", "Latin", "bytes of the test split", None, 0),
        Column("cyrillic_bytes", "Cyrillic", "bytes of the test split", None, 0),
        Column("devanagari_bytes", "Devanagari", "bytes of the test split", None, 0),
        Column("latin_chunk", "Latin", "bytes per segment", None, 2),
        Column("cyrillic_chunk", "Cyrillic", "bytes per segment", None, 2),
        Column("devanagari_chunk", "Devanagari", "bytes per segment", None, 2),
        Column("disparity", "Disparity", "most segments of a script over fewest", "lower", 2),
        Column("bpb", "Test", "bits per byte", "lower", 3),
        Column("latin_bpb", "Latin", "bits per byte", "lower", 3),
        Column("cyrillic_bpb", "Cyrillic", "bits per byte", "lower", 3),
        Column("devanagari_bpb", "Devanagari", "bits per byte", "lower", 3),
    ),
    note="The paper's own tables were not read. Scripts that do not occur in the corpus, or hardly, have no cell.",
)

EXPERIMENT = Experiment(paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(TABLE,), anchor="single")
