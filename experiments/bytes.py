"""Every byte architecture of the family on the same bytes: which way of cutting text is worth its FLOPs?

No paper compares them all. Each architecture is trained here on the same bytes of four texts (English, Chinese, code,
DNA), at equal planned FLOPs per byte, with one optimizer, schedule and batch, at the learning rate that a sweep of five
found best for it on the validation split (at `small`; LEARNING_RATE holds what was found); and each is scored text by
text, perturbed, and by what it costs.

    lmlab table bytes --scale smoke
    lmlab sweep bytes optimizer.learning_rate 1.6e-3,4e-3,1e-2,2.5e-2,6.3e-2 --scale small --set corpus.path=FOLDER
    lmlab table bytes --scale small --seeds 0,1,2 --set corpus.path=FOLDER
    lmlab table bytes --scale mid --set corpus.path=FOLDER --set mesh.data=-1      on one accelerator or more

FOLDER holds one folder for each text, called english, chinese, code and dna. Without it the texts are the documentation
and the code of Python's standard library. Models read all texts at once and are not told which is which: a rule that
fits one of them must do for the others. At `small` a run reads 0.98 MB of 8 MB. Documents are cuts of 4 KB, and other
cuts of the files that are tested on are in training.

An arm is its paper's mechanism at a size of our own; layers, widths and windows are alike where the mechanism leaves
them free, and the width of the inner MLPs takes up what is left of the FLOPs. None has learning rates by stage, which
H-Net's own recipe has. FLOPs are planned with the chunks that the rules give on the four texts together, as measured,
and learned chunks at their targets, but for H-Net's one stage at `small`, whose trainings begin with so many more that
their mean is planned with; "spent" is what training came to at the chunks that there were. A lookup counts as a product
with the one-hot vector, as in H-Net's appendix B: a seventh of the BPE transformer's FLOPs at `small`, a twelfth of the
byte transformer's, a twentieth of the others', BLT's n-grams apart, which count nothing.

Not in the table: ByT5, MrT5, Charformer, MANTa, HLM, Byte2Word and CharBERT, which fill gaps and give no probability of
a whole text; MAGNET, which is token pooling where scripts are those of one predictor, as they are here; MonoByte and
embeddingless bytes, which change what is trained on and what is read, not the architecture.
"""

import dataclasses
from functools import partial

from lmlab.comparison import Setup
from lmlab.data.mixture import Mixture
from lmlab.evaluation.generation import Generation
from lmlab.evaluation.texts import EachText
from lmlab.experiment import Arm, Column, Experiment, Paper, Table, robustness
from lmlab.models.boundaries import GumbelBoundaries
from lmlab.models.build import aunet, blt, hierarchy, hourglass, megabyte, spacebyte, transformer
from lmlab.models.chunkers import LearnedChunker, Whitespace
from lmlab.models.entropy import EntropyMarker
from lmlab.models.language_model import LanguageModel
from lmlab.models.marks import AtMarks, Marked
from lmlab.models.ngrams import WithNgrams
from lmlab.models.stack import Stack
from lmlab.models.toucan import AddToInput, Toucan, WithInput
from lmlab.models.unpool import Repeat
from lmlab.models.word_marks import WordMarker
from lmlab.models.words import word_model
from lmlab.objectives.ends import NextTokenAndEnd
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.words import SpaceWords, Words

PAPER = Paper(
    title="Byte architectures side by side",
    year=2026,
    url="this code base",
    claim="Each paper compares its architecture with two or three others, at sizes, on texts and by recipes of its own; "
    "here all of them read the same bytes, at equal FLOPs per byte.",
)

SETUPS = {
    "smoke": Setup(Mixture(None, 400_000), 100_000, 2048, 256, 125, 4e-3, 10_000),
    "small": Setup(Mixture(None, 2_000_000, validation=0.02, test=0.03), 1_000_000, 4096, 512, 225, 1e-2, 24_000),
    "mid": Setup(
        Mixture(None, 2_000_000, validation=0.02, test=0.03), 100_000_000, 65_536, 2048, 658, 2e-3, 24_000, "bfloat16"
    ),
}
# The best of five by `lmlab sweep`, where it is not the setup's.
LEARNING_RATE = {
    "smoke": {},
    "small": {
        **dict.fromkeys(("bpe_transformer", "megabyte_6", "toucan"), 4e-3),
        **dict.fromkeys(("hat", "hnet_space"), 2.5e-2),
    },
    "mid": {},
}

# Local and global width, heads, window of local attention; state of Mamba-2.
WIDTH = {"smoke": (32, 64, 2, 32, 16), "small": (64, 128, 4, 128, 32), "mid": (256, 512, 8, 512, 64)}
MIDDLE = {"smoke": 64, "small": 96, "mid": 384}  # H-Net's second of three widths; Mamba-2 wants multiples of 32
POOLED = {"smoke": 24, "small": 48, "mid": 256}  # token pooling's one width: its outer networks see the whole row
OUTSIDE = {"smoke": "m1", "small": "m1", "mid": "m2"}  # H-Net's encoder and decoder

# Bytes per token, word and so on of all texts together, as measured; DNA has next to no words.
BYTES_PER_TOKEN = {"smoke": 2.05, "small": 2.28, "mid": 3.11}
BYTES_PER_SPACE = {"smoke": 8.0, "small": 6.3, "mid": 6.3}  # SpaceByte's rule
MARKS = {"smoke": (4.9, 1.37), "small": (8.7, 1.43), "mid": (8.7, 1.43)}  # AU-Net's: bytes per word, words per pair
BYTES_PER_WORD = {"smoke": 9.4, "small": 11.8, "mid": 11.8}  # between white space, at most 31 bytes
PATCH = 6  # bytes, of MegaByte
LEARNED = {"small": 5.2}  # H-Net's of one stage over a training, as measured, for a target of 6
MEAN = 5  # bytes of a chunk where boundaries are drawn or marked by entropy
LONGEST = {"smoke": 16, "small": 64, "mid": 64}  # bytes of a patch that entropy does not end

# Layers of the main network over chunks, and its MLP (token pooling's and Toucan's: of all three networks).
MAIN = {
    "token_pooling": {"smoke": (2, 128), "small": (3, 336), "mid": (4, 1280)},
    "toucan": {"smoke": (2, 80), "small": (3, 288), "mid": (4, 1216)},
    "blt_entropy": {"smoke": (1, 176), "small": (2, 240), "mid": (4, 1664)},
    "aunet_words": {"smoke": (2, 48), "small": (6, 320), "mid": (8, 2624)},
    "hat": {"smoke": (4, 288), "small": (8, 448), "mid": (10, 2752)},
    "ebyte": {"smoke": (2, 208), "small": (4, 384), "mid": (6, 1984)},
    "hnet_space": {"smoke": (4, 272), "small": (6, 272), "mid": (8, 1088)},
    "hnet_1stage": {"smoke": (3, 240), "small": (5, 224), "mid": (7, 1216)},
    "hnet_2stage": {"smoke": (2, 96), "small": (5, 304), "mid": (6, 1344)},
}

# Chunk slots over the planned number, exact where there is a second. A rule's chunks differ from text to text, and the row
# that has most of them decides: Chinese has a word in SpaceByte's sense at every character of three bytes.
# A second stage has one capacity beside the exact one, or else nine programs in place of six would be compiled.
CAPACITY = {"smoke": 3.0, "small": (1.75, 3.0), "mid": (1.5, 3.0)}
RULED = {"smoke": 3.0, "small": (2.25, 4.0), "mid": (2.25, 4.0)}
DEEPER = {"smoke": 3.0, "small": (2.5,), "mid": (2.5,)}
PATCHES = {"smoke": 1.5, "small": (1.25, 2.0), "mid": 1.25}


def run(scale, model, multipliers=(1.0, 1.0), tokenizer=ByteTokenizer(), **changes):
    """The setup's Run, at the arm's learning rate, with what is looked at beside bits per byte."""
    return SETUPS[scale].run(model, multipliers, tokenizer, (EachText("test"), Generation("test")), **changes)


def bpe_transformer(scale):
    """Transformer over BPE tokens."""
    vocab = {"smoke": 512, "small": 1024, "mid": 4096}[scale]
    layers, width, d_ff = {"smoke": (1, 64, 288), "small": (3, 96, 304), "mid": (6, 384, 1472)}[scale]
    backbone = transformer(layers, width, d_ff, n_heads=WIDTH[scale][2])
    tokenizer = BPE(vocab, BYTES_PER_TOKEN[scale])
    return run(scale, LanguageModel(vocab, backbone), (1.0,), tokenizer)


def byte_transformer(scale):
    """The same over bytes, with a sliding window."""
    layers, width, d_ff = {"smoke": (1, 64, 112), "small": (2, 96, 224), "mid": (3, 384, 896)}[scale]
    heads, window = WIDTH[scale][2:4]
    return run(scale, LanguageModel(256, transformer(layers, width, d_ff, heads, window)), (1.0,))


def mambabyte(scale):
    """Mamba-2 over bytes."""
    layers, width, d_state = {"smoke": (1, 64, 32), "small": (3, 96, 32), "mid": (8, 320, 64)}[scale]
    return run(scale, LanguageModel(256, Stack(f"m{layers}", width, d_state=d_state)), (1.0,))


def megabyte_6(scale):
    """MegaByte: patches of 6 bytes, a global model over them, a local one within each."""
    n_layers, d_model = {"smoke": ((2, 1), (96, 32)), "small": ((2, 2), (192, 64)), "mid": ((3, 3), (768, 256))}[scale]
    d_head = d_model[1] // WIDTH[scale][2]
    backbone = megabyte(n_layers, d_model, PATCH, SETUPS[scale].length, d_head, PATCHES[scale])
    return run(scale, LanguageModel(256, backbone))


def spacebyte_words(scale):
    """SpaceByte: global blocks at the first byte of each word."""
    D, E, heads, window, _ = WIDTH[scale]
    n_layers = {"smoke": (1, 4, 1), "small": (1, 4, 1), "mid": (1, 7, 1)}[scale]
    length, mean = SETUPS[scale].length, BYTES_PER_SPACE[scale]
    backbone = spacebyte(n_layers, (E, D), length, mean, D // heads, window, RULED[scale])
    return run(scale, LanguageModel(256, backbone))


def pooling(scale, main):
    """Dynamic token pooling: segments that a predictor draws, one in `MEAN` bytes."""
    D, heads = POOLED[scale], WIDTH[scale][2]
    layers, d_ff = main[scale]
    chunker = GumbelBoundaries(D, D, MEAN, prior=1 / MEAN)
    return hourglass((1, layers, 1), D, d_ff, heads, chunker, capacity=CAPACITY[scale])


def token_pooling(scale):
    """Dynamic token pooling with Gumbel boundaries."""
    return run(scale, LanguageModel(256, pooling(scale, MAIN["token_pooling"])))


def toucan(scale):
    """The same, with a decoder that writes a segment on its own and ends it."""
    backbone = pooling(scale, MAIN["toucan"])
    backbone = backbone.clone(encoder=WithInput(backbone.encoder), unpool=AddToInput(backbone.d_model))
    return run(scale, Toucan(256, backbone), objective=NextTokenAndEnd())


def blt_entropy(scale):
    """BLT: patches where a small language model is surprised, hashed n-grams, cross-attention to and from patches."""
    D, E, heads, window, _ = WIDTH[scale]
    layers, d_ff = MAIN["blt_entropy"][scale]
    ngrams, rows = {"smoke": ((3, 4), 509), "small": ((3, 4, 5), 4093), "mid": ((3, 4, 5), 50_021)}[scale]
    small = Stack("T1", D // 2, D, n_heads=heads // 2, rotary_dim=D // heads, window=window)
    marker = EntropyMarker(LanguageModel(256, small), MEAN, longest=LONGEST[scale])
    chunker, longest, capacity = AtMarks(0, MEAN), LONGEST[scale], CAPACITY[scale]
    backbone = blt((1, layers, 1), (D, E), (2 * D, d_ff), chunker, heads, window, longest, capacity=capacity)
    return run(scale, LanguageModel(256, WithNgrams(Marked(marker, backbone), ngrams, rows)))


def aunet_words(scale):
    """AU-Net: words, and pairs of them."""
    D, E, heads, window, _ = WIDTH[scale]
    layers, d_ff = MAIN["aunet_words"][scale]
    widths, windows = (D, (D + E) // 2, E), (window, window, None)
    d_ffs, capacity = (2 * D, D + E, d_ff), (RULED[scale], DEEPER[scale])
    backbone = aunet((1, 1, layers), widths, d_ffs, (heads,) * 3, windows, MARKS[scale], capacity)
    return run(scale, LanguageModel(256, Marked(WordMarker((1, 2)), backbone)), (1.0,) * 3)


def words(scale, symbols, main):
    """A model of words between white space, each as `symbols` vectors; encoder and decoder see one word."""
    D, E, heads, _, _ = WIDTH[scale]
    layers, d_ff = main[scale]
    tokenizer = Words(SpaceWords(), 31, BYTES_PER_WORD[scale], symbols)
    backbone = word_model(tokenizer, D, 2 * D, heads, 1, 1, transformer(layers, E, d_ff, heads), RULED[scale])
    return run(scale, LanguageModel(tokenizer.vocab_size, backbone), tokenizer=tokenizer)


def hat(scale):
    """HAT: one vector a word."""
    return words(scale, 1, MAIN["hat"])


def ebyte(scale):
    """eByte: two vectors a word."""
    return words(scale, 2, MAIN["ebyte"])


def hnet(scale, main, targets, capacity=CAPACITY, chunker=LearnedChunker, **parts):
    """H-Net: Mamba-2 around chunks, one stage for each of `targets`."""
    D, E, heads, window, d_state = WIDTH[scale]
    layers, d_ff = main[scale]
    layout, widths = [f"T{layers}"], (D, MIDDLE[scale])[: len(targets)]
    for _ in targets:
        layout = [OUTSIDE[scale], layout, OUTSIDE[scale]]
    capacities = (capacity[scale], DEEPER[scale])[: len(targets)]
    backbone = hierarchy(
        layout,
        (*widths, E),
        (*(0 for _ in targets), d_ff),
        heads,
        window,
        d_state,
        (*targets, 0.0),
        (*capacities, None),
        chunker,
        **parts,
    )
    return run(scale, LanguageModel(256, backbone), (1.0,) * (1 + len(targets)))


def hnet_space(scale):
    """Chunks at white space."""
    mean = BYTES_PER_SPACE[scale]
    return hnet(scale, MAIN["hnet_space"], (mean,), RULED, lambda width, target: Whitespace(mean), unpool=Repeat)


def hnet_1stage(scale):
    """Learned chunks of 6 bytes or so."""
    achieved = LEARNED.get(scale)
    return hnet(scale, MAIN["hnet_1stage"], (6.0,), chunker=partial(LearnedChunker, achieved=achieved))


def hnet_2stage(scale):
    """Learned chunks of learned chunks, 3 x 3."""
    return hnet(scale, MAIN["hnet_2stage"], (3.0, 3.0))


def at_best_rate(build):
    """scale -> the Run at the learning rate that the sweep chose."""

    def tuned(scale):
        made = build(scale)
        rate = LEARNING_RATE[scale].get(build.__name__, made.optimizer.learning_rate)
        return dataclasses.replace(made, optimizer=dataclasses.replace(made.optimizer, learning_rate=rate))

    return tuned


LABELS = {
    bpe_transformer: "Transformer (BPE)",
    byte_transformer: "Transformer (bytes)",
    mambabyte: "MambaByte",
    megabyte_6: "MegaByte (P = 6)",
    spacebyte_words: "SpaceByte",
    token_pooling: "Token pooling (Gumbel)",
    toucan: "Toucan",
    blt_entropy: "BLT (entropy)",
    aunet_words: "AU-Net 3",
    hat: "HAT",
    ebyte: "eByte",
    hnet_space: "H-Net (space)",
    hnet_1stage: "H-Net (1-stage)",
    hnet_2stage: "H-Net (2-stage)",
}
ARMS = tuple(Arm(build.__name__, label, at_best_rate(build)) for build, label in LABELS.items())
NAMES = tuple(arm.name for arm in ARMS)
TEXTS = {"english": "English", "chinese": "Chinese", "code": "Code", "dna": "DNA"}

TEXT_TABLE = Table(
    name="texts",
    title="Bits per byte at matched FLOPs per byte, text by text",
    arms=NAMES,
    measured=(
        Column("mflops_per_byte", "MFLOPs", "per byte, measured chunks", None, 3),
        Column("useful", "Spent", "training FLOPs over planned", None, 2),
        Column("computed", "Computed", "with empty slots, over planned", None, 2),
        Column("bpb", "All", "bits per byte", "lower", 3),
        *(Column(f"{text}/bpb", label, "bits per byte", "lower", 3) for text, label in TEXTS.items()),
    ),
)
CHUNK_TABLE = Table(
    name="chunks",
    title="How each cuts them",
    arms=NAMES,
    measured=(
        Column("bytes_per_chunk", "All", "bytes per chunk", None, 2),
        *(Column(f"{text}/bytes_per_chunk", label, "bytes per chunk", None, 2) for text, label in TEXTS.items()),
    ),
    note="Of the innermost stage; of BPE, tokens. A chunk ends with its document or window at the latest.",
)
ROBUSTNESS = robustness(NAMES, "Of all texts together.")
COST = Table(
    name="cost",
    title="What it costs",
    arms=NAMES,
    measured=(
        Column("parameters", "Parameters", "", None, 0),
        Column("bytes_per_second", "Training", "bytes/s", "higher", 0),
        Column("generated_bytes_per_second", "Generation", "bytes/s, 16 rows", "higher", 0),
        Column("step_megabytes", "Memory", "MB of a training step", "lower", 0),
    ),
    note="Speeds of a shared machine: compare neighbours, no more. Memory as the compiler plans it, for the largest of the "
    "capacities that a step may need: a slot for every byte.",
)

EXPERIMENT = Experiment(
    paper=PAPER,
    scales=("smoke", "small", "mid"),
    arms=ARMS,
    tables=(TEXT_TABLE, CHUNK_TABLE, ROBUSTNESS, COST),
    anchor="byte_transformer",
)
