"""What becomes of a model that is trained on in another language: how fast it learns that, and what it forgets."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from lmlab.data.bake import stream_of
from lmlab.data.batches import TrainBatches, Windows
from lmlab.data.corpora import Files, split_of
from lmlab.errors import UserError
from lmlab.evaluation.bits_per_byte import bits_per_byte
from lmlab.kernels.dispatch import compiled_for, mesh_of
from lmlab.objectives.next_token import NextToken
from lmlab.training.optimizers import AdamW, Cosine

STAGES = 8  # more than any model has: all learn at the same rate


@dataclasses.dataclass(frozen=True)
class Continued:
    """Train a float32 copy of the model for `steps` batches on the files at `path`, with its tokenizer as it is.

    The copy starts from the weights that an evaluation sees: of a run in bfloat16, from those that are rounded to it.
    It is trained and scored in float32. The model of the run is left alone. Without a path the text is the run's own:
    then nothing is foreign, and nothing should be forgotten. Documents are drawn as in any corpus, a tenth of them
    for scoring. Of the scored text, each document gives the same share of `max_bytes`; of the other, the first
    `train_bytes` are taken.
    """

    path: str = ""
    steps: int = 40
    learning_rate: float = 1e-3
    train_bytes: int = 20_000_000
    max_bytes: int = 100_000
    seed: int = 0
    split: str = "test"

    def check(self, run):
        """UserError, before any training, if the files are not there or too few to train on some and score others."""
        if self.path:
            self._foreign()

    def __call__(self, model, params, data):
        """Bits per byte: {"target/before", "target/half" of the steps, "target/after"; "source/before",
        "source/after", "forgotten": their difference}. The source is the run's own test text."""
        tokenizer = data.baked.tokenizer
        source = list(data.baked.documents(self.split))
        train, target = self._second(data.baked, source)
        windows = lambda documents: Windows(stream_of(documents, tokenizer), data.length, tokenizer)  # noqa: E731
        source, target = windows(self._excerpts(source)), windows(self._excerpts(target))
        batches = TrainBatches(windows(train), data.batch_size, self.seed)
        mesh = mesh_of(params)
        optimizer = AdamW(self.learning_rate, Cosine(), stage_multipliers=(1.0,) * STAGES).build(self.steps)

        @jax.jit
        def update(params, state, batch, step):
            def loss(params):
                key = jax.random.fold_in(jax.random.key(self.seed), step)
                with compiled_for(mesh, whole_rows=True):
                    total, weight, _ = NextToken()(model, params, batch, key)
                return total / jnp.maximum(weight, 1)

            changes, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, changes), state

        def bits(params, windows):
            return bits_per_byte(model, params, windows, data)[0]

        params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        state = optimizer.init(params)
        result = {"target/before": bits(params, target), "source/before": bits(params, source)}
        for step in range(self.steps):
            data.check()
            if step == self.steps // 2:
                result["target/half"] = bits(params, target)
            params, state = update(params, state, data.place(batches.batch(step)), step)
        result |= {"target/after": bits(params, target), "source/after": bits(params, source)}
        return result | {"forgotten": result["source/after"] - result["source/before"]}

    def _second(self, baked, source):
        """(documents to train on, documents to score)."""
        if not self.path:
            return self._first(baked.documents("train")), source
        train, target = self._foreign()
        return self._first(train), target

    def _foreign(self):
        documents = [d.data for d in Files(self.path).documents()]
        sides = {True: [], False: []}
        for document in documents:
            sides[split_of(document, 0.0, 0.1) == "test"].append(document)
        if not sides[True] or not sides[False]:
            raise UserError(f"{self.path} has too few documents ({len(documents)}) to train on some and score others.")
        return sides[False], sides[True]

    def _first(self, documents):
        taken, size = [], 0
        for document in documents:
            taken.append(document)
            size += len(document)
            if size >= self.train_bytes:
                break
        return taken

    def _excerpts(self, documents):
        share = max(1, self.max_bytes // len(documents))
        return [d[:share].decode("utf-8", "ignore").encode() or d[:share] for d in documents]
