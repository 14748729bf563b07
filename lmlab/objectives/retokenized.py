"""Learning to predict the rows of any tokenizer's tokens, and models that begin with such rows (ZeTT)."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from lmlab.errors import UserError
from lmlab.models.hypernetwork import Retokenized, retokenized
from lmlab.models.language_model import forward
from lmlab.objectives.next_token import NextToken


@dataclasses.dataclass(frozen=True)
class PredictRows(NextToken):
    """Trains the hypernetwork of a `Retokenized` on batches of `SampledTokenizers`: next-token prediction by the
    frozen base, plus `mimic` times how far the rows of old tokens are missed, per target. For the first `warm_up`
    steps the rows of old tokens alone are learned.

    `teacher`: the Run that trains the base, first. `weights`: where that lies, or a converted model with its tokenizer.
    """

    teacher: Any = None
    weights: str = ""
    warm_up: int = 100
    mimic: float = 0.5

    pair = False  # the base reads the run's own tokenizer

    def __post_init__(self):
        if self.warm_up < 0 or self.mimic < 0:
            raise UserError("A hypernetwork's warm_up and mimic are at least 0.")

    def begin(self, model, params, teacher, tokenizer, donor=None, seed=0):
        """The teacher's parameters as the frozen base's, as NumPy arrays. UserError unless the models are the same."""
        if model.base != self.teacher.model:
            raise UserError("The base of a hypernetwork is its teacher's model: they differ.")
        return {**params, "frozen": {"model": teacher["params"]}}

    def init_state(self, model):
        """Steps taken."""
        return {"steps": jnp.zeros((), jnp.int32)}

    def next_state(self, state, metrics):
        """One more."""
        return {"steps": state["steps"] + 1}

    def __call__(self, model, params, batch, key, state):
        """Returns (sum of loss, sum of weights, metrics); see `NextToken`. "dropped_share" is that of the text's
        bytes that rows have no room for."""
        nats, weight, metrics = self.loss(forward(model, params, batch, key), batch)
        pieces_NP = batch["old_pieces"].reshape(-1, batch["old_pieces"].shape[-1])
        missed = model.apply(params, pieces_NP, batch["old_tokens"].reshape(-1), method="distance") * weight
        loss = jnp.where(state["steps"] < self.warm_up, missed, nats + self.mimic * missed)
        dropped = jnp.sum(batch["dropped_bytes"])
        metrics |= {"dropped_share": dropped, "dropped_share_of": dropped + metrics["target_bytes"]}
        return loss, weight, metrics | {"mimic": missed, "mimic_of": weight}


@dataclasses.dataclass(frozen=True)
class FromHypernetwork(NextToken):
    """Next-token prediction of a base model that begins under another tokenizer, with rows that a hypernetwork
    predicts.

    `teacher`: the Run that trains the hypernetwork, first. `weights`: where that lies.
    """

    teacher: Any = None
    weights: str = ""

    pair = True

    def begin(self, model, params, teacher, tokenizer, donor=None, seed=0):
        """Parameters before the first step, as NumPy arrays. UserError for a model that is not the hypernetwork's base
        but for its vocabulary."""
        of = self.teacher.model
        if not isinstance(of, Retokenized) or model != of.base.clone(vocab_size=model.vocab_size):
            raise UserError("A hypernetwork makes rows for its own base model alone: this one differs from it.")
        fresh = {name: np.asarray(params["params"][name]) for name in params["params"] if name in ("embedding", "head")}
        return retokenized(of, teacher, tokenizer.teacher, tokenizer.student, fresh)
