"""Training-free tokenizer transplantation via orthogonal matching pursuit (Goddard & Fernandes Neto 2025, arXiv
2506.06607).

The paper's claim: of all ways to give a model another tokenizer without training, it keeps most who writes each new
token's row in a donor model as a sum of few tokens that both vocabularies have, and takes the same sum of the base
model's rows.

    lmlab table omp_transplant --scale smoke
    lmlab table omp_transplant --scale small
    lmlab show omp_transplant --scale paper      a model of Llama 3.2's 1B shape

A base model and a donor are trained on the same text with two BPE tokenizers. The base model then gets the donor's
tokenizer: shared tokens keep their rows, and the others get 0, the mean of all rows, that of their pieces' rows (FVT), a
sum by likeness (FOCUS, of hashed n-grams in place of fastText), a mixture of pieces and alike tokens (TokenAdapt,
likewise), or one by pursuit, in the donor's space or in that of hashed n-grams. All are scored as they are.
"""

from lmlab.comparison import Setup
from lmlab.data.corpora import StandardLibrary
from lmlab.experiment import Arm, Column, Experiment, Paper, Table
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.models.llama import LlamaStack
from lmlab.objectives.transferred import Transferred
from lmlab.text.bpe import BPE
from lmlab.text.pairs import Beside

PAPER = Paper(
    title="Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit",
    year=2025,
    url="arXiv 2506.06607",
    claim="Writing a new token's row as a sum of few shared tokens' rows, with the coefficients that give its row in a "
    "donor model, keeps more of a model under another tokenizer than other ways without training.",
)

SETUPS = {
    "smoke": Setup(StandardLibrary(4_000_000), 320_000, 4096, 256, 128, 3e-3, 20_000),
    "small": Setup(StandardLibrary(validation=0.005, test=0.03), 2_000_000, 4096, 512, 200, 3e-3, 40_000),
    "paper": Setup(StandardLibrary(), 100_000_000_000, 2**21, 8192, 2048, 3e-4, 1_000_000, "bfloat16"),
}
BASES = {"smoke": BPE(400, 1.8), "small": BPE(1024, 2.55), "paper": BPE(128_256, 4.4)}
DONORS = {"smoke": BPE(512, 2.05), "small": BPE(2048, 2.95), "paper": BPE(151_936, 4.4)}
ROWS = {"smoke": 8, "small": 16, "paper": 64}  # in a sum: fewer than channels, or every row would be met exactly


def model(scale, tokenizer):
    """Base and donor are alike but for their vocabulary."""
    if scale == "paper":
        stack = LlamaStack(16, 2048, 8192, 32, 8, 64, rotary_base=5e5, stretch=(32.0, 1.0, 4.0, 8192.0))
    else:
        layers, width, heads = {"smoke": (2, 64, 2), "small": (4, 128, 4)}[scale]
        stack = transformer(layers, width, n_heads=heads)
    return LanguageModel(tokenizer.vocab_size, stack, tied=scale == "paper")


def trained(scale, tokenizer):
    """The base model, or the donor."""
    return SETUPS[scale].run(model(scale, tokenizer), tokenizer=tokenizer)


def transplanted(method, has_donor=False):
    """scale -> Run of the base model with the donor's tokenizer."""

    def run(scale):
        base, new = BASES[scale], DONORS[scale]
        donor = trained(scale, new) if has_donor else None
        objective = Transferred(teacher=trained(scale, base), method=method, donor=donor, k=ROWS[scale])
        return SETUPS[scale].untrained(model(scale, new), Beside(new, base, 1.5), objective=objective)

    return run


ARMS = (
    Arm("base", "Base model, its own tokenizer", lambda scale: trained(scale, BASES[scale]), size="the old tokens"),
    Arm("zero", "Zero", transplanted("zero")),
    Arm("mean", "Mean", transplanted("mean")),
    Arm("fvt", "Mean of the pieces (FVT)", transplanted("fvt")),
    Arm("focus", "FOCUS, n-grams", transplanted("focus")),
    Arm("tokenadapt", "TokenAdapt, n-grams", transplanted("tokenadapt")),
    Arm("omp_ngrams", "OMP, n-grams", transplanted("omp")),
    Arm("omp", "OMP, donor", transplanted("omp", has_donor=True)),
    Arm("donor", "Donor", lambda scale: trained(scale, DONORS[scale])),
)

TABLE = Table(
    name="transplant",
    title="Bits per byte under the donor's tokenizer, without training",
    arms=tuple(arm.name for arm in ARMS),
    reported_columns=(Column("mmlu", "MMLU", "% of the base model", "higher", 1),),
    reported={"zero": {"mmlu": 99.1}, "focus": {"mmlu": 73.4}, "omp": {"mmlu": 99.1}},
    measured=(
        Column("bytes_per_token", "Token", "bytes", None, 2),
        Column("validation_bpb", "Validation", "bits per byte", "lower", 3),
        Column("bpb", "Test", "bits per byte", "lower", 3),
    ),
    source="arXiv 2506.06607, from a secondary text: Llama 3.2 1B with Qwen's tokenizer, k = 64",
    note="The paper's FOCUS trains fastText. Ten steps at a rate of 1e-6 stand for no training.",
)

EXPERIMENT = Experiment(
    paper=PAPER, scales=("smoke", "small", "paper"), arms=ARMS, tables=(TABLE,), anchor="donor"
)
