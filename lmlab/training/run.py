"""Run: everything that one training needs, as one frozen tree."""

import dataclasses
import os
from typing import Any

from lmlab.data.corpora import Files, require_replaceable
from lmlab.data.corruptions import NextTokens
from lmlab.errors import UserError
from lmlab.models.language_model import has_parameters
from lmlab.objectives.next_token import NextToken
from lmlab.text.pairs import TEACHERS
from lmlab.training.optimizers import AdamW
from lmlab.training.sharding import Mesh
from lmlab.training.spikes import Spikes


@dataclasses.dataclass(frozen=True)
class Run:
    """One training. Sizes are in tokens of the run's own tokenizer (bytes, for byte models)."""

    model: Any  # a flax.linen module; it is its own configuration
    corpus: Any  # where documents come from, and how they are split
    tokenizer: Any  # ByteTokenizer() or BPE(...)
    optimizer: AdamW
    steps: int
    batch_size: int  # rows
    length: int  # tokens per row
    corruption: Any = NextTokens()  # from windows to what is read and what is asked
    objective: Any = NextToken()
    evaluators: tuple = ()  # asked behind the training; what they need is looked at before: their `check(run)` and `split`
    evaluate_every: int = 100  # steps
    checkpoint_every: int = 100  # steps
    keep_last: int = 2  # checkpoints; of two, one may be damaged
    keep_every: int = 0  # steps: checkpoints that are kept for good; 0: none
    log_every: int = 10  # steps
    precision: str = "float32"
    accumulate: int = 1  # microbatches that a step's batch goes through one after another
    remat: bool = False  # compute every block again backward
    mesh: Mesh = Mesh()
    spikes: Spikes = Spikes()
    seed: int = 0
    after: Any = None  # a Run that comes first, whose parameters this one takes over; any others start anew

    def __post_init__(self):
        if self.keep_last < 2:
            raise UserError(f"A run keeps its last two checkpoints or more (keep_last), not {self.keep_last}.")
        positive = ("steps", "batch_size", "length", "evaluate_every", "checkpoint_every", "log_every")
        for name in (*positive, "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(f"A run needs {name} of at least 1, not {getattr(self, name)}.")
        if self.keep_every < 0 or self.keep_every % self.checkpoint_every:
            raise UserError(
                f"keep_every={self.keep_every} must be a multiple of checkpoint_every={self.checkpoint_every}, so that "
                "what is to be kept is written."
            )
        if self.seed < 0:
            raise UserError(f"A seed is at least 0, not {self.seed}.")
        for name in ("evaluate_every", "checkpoint_every"):
            if getattr(self, name) % self.log_every:
                raise UserError(
                    f"{name}={getattr(self, name)} must be a multiple of log_every={self.log_every}, so that no logged "
                    "interval is cut in two."
                )
        if len({type(e) for e in self.evaluators}) < len(self.evaluators):
            raise UserError("A run takes one evaluator of each kind: the metrics of two would overwrite one another.")
        if self.after is not None and not has_parameters(self.model, self.after.model):
            raise UserError("A run goes on from the parameters of another only where its own model has them all.")
        pair = TEACHERS[0] in getattr(self.tokenizer, "annotation_shapes", lambda length: {})(self.length)
        if getattr(self.objective, "pair", pair) != pair:  # an objective may need one, or none
            raise UserError(
                "The run's objective reads the text in its teacher's own tokens: its tokenizer cannot be a pair."
                if pair
                else "The run's objective needs two tokenizers, the run's own and its teacher's: Beside(new, old)."
            )
        extra = self.corruption.extra_ids(self.length)
        if self.model.vocab_size < self.tokenizer.vocab_size + extra:
            and_extra = f" and the corruption {extra}" if extra else ""
            raise UserError(
                f"The tokenizer has {self.tokenizer.vocab_size} ids{and_extra} but the model only {self.model.vocab_size}."
            )
        if hasattr(self.objective, "check"):
            self.objective.check(self)  # UserError where the rest of the run does not suit it

    def precursors(self, directory=""):
        """{name: (Run, where)} of what is trained before this run in `directory`: "before", whose parameters it goes on
        from, and the "teacher" and "donor" of its objective, which may say where its teacher lies."""
        runs = {"before": self.after} | {name: getattr(self.objective, name, None) for name in ("teacher", "donor")}
        lies = {"teacher": getattr(self.objective, "weights", "")}
        return {name: (run, lies.get(name) or f"{directory}-{name}") for name, run in runs.items() if run is not None}

    def reading(self, path):
        """This run, and those that train its objective's teacher and donor, on the files at `path`. The run before
        keeps its corpus. UserError if that or this run's own are words of a text."""
        for run in filter(None, (self, self.after)):
            require_replaceable(run.corpus)
        return self._with(lambda run: run.reading(path), corpus=Files(os.path.abspath(path)))

    def seeded(self, seed):
        """This run, and all that it trains first, with another seed; the run before with one that is as far from it as
        now."""
        after = self.after and self.after.seeded(seed + self.after.seed - self.seed)
        return self._with(lambda run: run.seeded(seed), seed=seed, after=after)

    def _with(self, change, **fields):
        """This run with other fields, and `change` made to the runs that its objective has trained first."""
        firsts = {name: change(run) for name, (run, _) in self.precursors().items() if name != "before"}
        objective = dataclasses.replace(self.objective, **firsts) if firsts else self.objective
        return dataclasses.replace(self, objective=objective, **fields)

    def flops(self, ratios=()):
        """Forward FLOPs per token of a window by part, chunks as planned or at `ratios`."""
        return self.corruption.flops(self.model, self.length, ratios)

    def flops_per_byte(self):
        """Forward FLOPs per source byte by part, at the nominal compression of tokenizer and chunkers."""
        parts = self.flops()
        return {name: value / self.tokenizer.bytes_per_token for name, value in parts.items()}

    def source_bytes(self):
        """Nominal source bytes of the whole training."""
        tokens = getattr(self.corruption, "text_tokens", lambda length: length)(self.length)
        return round(self.steps * self.batch_size * tokens * self.tokenizer.bytes_per_token)
