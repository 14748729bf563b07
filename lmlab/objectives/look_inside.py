"""What XRayEmb learns: first from the vocabulary of a trained model alone, then from text with its words spelled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.data.spelled_words import spelled_vocabulary
from lmlab.errors import UserError
from lmlab.models.language_model import forward
from lmlab.objectives.transferred import Transferred

PARTS = {"encoder", "generator"}  # of a model that its host lacks


def grafted(model, params, host):
    """Fresh variables of an `XRay` with those of its host in their places; ids that the host lacks get the mean row.
    UserError where they are not the host's but for those ids, encoder and generator."""
    result, known = dict(params["params"]), host["params"]
    missing = model.vocab_size - len(known["embedding"])
    if missing < 0 or set(known) - set(result) or set(result) - set(known) - PARTS or _widths(known) - _widths(result):
        raise UserError("A model is retrofitted with characters only where it is the teacher's but for them.")

    def longer(rows_VD):
        rows_VD = np.asarray(rows_VD)
        return np.concatenate([rows_VD, np.tile(rows_VD.mean(0), (missing, 1))])

    result |= known | {"embedding": longer(known["embedding"])}
    if "head" in known:
        result["head"] = np.ascontiguousarray(longer(np.asarray(known["head"]).T).T)
    return {"params": result}


def _widths(params):
    """Every parameter's path and shape, without the ids of embedding and head."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    ids = {"embedding": 0, "head": 1}
    return {
        (jax.tree_util.keystr(path), tuple(n for i, n in enumerate(np.shape(leaf)) if i != ids.get(path[0].key)))
        for path, leaf in leaves
    }


@dataclasses.dataclass(frozen=True)
class Spelling(Transferred):
    """Next-token prediction of text whose words of several tokens are spelled: the tokens' nats, and `generation` times
    those of the characters. For an `XRay` and batches of `SpelledWords`.

    The model begins as its teacher, one of the same kind or a `LanguageModel` without characters.
    """

    generation: float = 1.0

    pair = False  # the teacher reads the run's own tokenizer

    def check(self, run):
        """UserError for a model without characters, and where the text's words may be of other lengths than its."""
        of_text, of_model = getattr(run.corruption, "longest", 0), getattr(run.model, "longest", None)
        if of_model is None:
            raise UserError("Words are spelled by a model that reads and writes their characters (XRay), and by no other.")
        if of_text != of_model:
            raise UserError(f"The text's words have up to {of_text} bytes (longest), but the model's {of_model}.")

    def begin(self, model, params, teacher, tokenizer, donor=None, seed=0):
        """The teacher's parameters, or fresh ones with the teacher's in their places."""
        if self.teacher.model == model:
            return teacher
        if model.backbone != self.teacher.model.backbone:
            raise UserError("A model takes over the teacher's weights only where its backbone is the teacher's.")
        return grafted(model, params, teacher)

    def __call__(self, model, params, batch, key):
        """Returns (sum of loss, sum of weights, metrics); see `NextToken`. "nats" are those of tokens and characters,
        and "targets" counts both."""
        output = forward(model, params, batch, key)
        loss, weight, metrics = self.loss(output, batch)
        spelled = jnp.sum(output.spelled_BL * batch["weights"])
        there_BS = batch["input_segment_ids"] > 0
        characters = jnp.sum((batch["inputs"] >= 0) & there_BS[..., None]) + jnp.sum(there_BS)  # and an end each
        metrics |= {"nats": metrics["nats"] + spelled, "targets": weight + characters}
        metrics |= {"spelled": spelled, "spelled_of": characters.astype(jnp.float32)}
        return loss + self.generation * spelled, weight, metrics


@dataclasses.dataclass(frozen=True)
class LookInside(Spelling):
    """Encoder and generator from the vocabulary alone: `at_once` tokens a step, drawn from those that are not held out,
    and the sum of the four losses of `XRay.look_inside`. The text is not looked at and the host does not change; as
    weights decay by themselves, an optimizer with decay is refused.

    What it remembers are the characters of the tokens.
    """

    at_once: int = 256

    def check(self, run):
        """UserError where lengths differ, as `Spelling`, and where weights decay, the host's with them."""
        super().check(run)
        if run.optimizer.weight_decay:
            raise UserError("A host stays as it is only without decay: set optimizer.weight_decay=0.")

    def step_flops(self, model):
        """Forward FLOPs of a step: each token is read twice and written twice."""
        return 2 * self.at_once * model.word_flops()

    def init_state(self, model):
        """No token: what `begun` puts in their place."""
        characters = jnp.full((model.vocab_size, model.longest), -1, jnp.int32)
        return {"characters": characters, "known": jnp.zeros(model.vocab_size)}

    def begun(self, model, teacher, tokenizer):
        """The state before the first step, as NumPy arrays."""
        characters, known, _ = spelled_vocabulary(tokenizer, model.longest)
        missing = model.vocab_size - len(known)
        return {
            "characters": np.pad(characters, ((0, missing), (0, 0)), constant_values=-1),
            "known": np.pad(known, (0, missing)).astype(np.float32),
        }

    def next_state(self, state, metrics):
        """The same."""
        return state

    def __call__(self, model, params, batch, key, state):
        """Returns (sum of loss, sum of weights, metrics). "nats" are those of the rows' characters."""
        ids_M = jax.random.categorical(key, jnp.where(state["known"] > 0, 0.0, -1e30), shape=(self.at_once,))
        characters_MW = state["characters"][ids_M]
        rows_MD = jax.lax.stop_gradient(params["params"]["embedding"])[ids_M].astype(jnp.float32)
        found = model.apply(params, rows_MD, characters_MW, method="look_inside")
        sizes_M = jnp.sum(characters_MW >= 0, axis=1)
        weight, nats = jnp.float32(self.at_once), jnp.sum(found["generation"] * (sizes_M + 1))
        metrics = {"nats": nats, "targets": jnp.sum(sizes_M + 1.0), "target_bytes": jnp.sum(sizes_M)}
        for name, losses_M in found.items():
            metrics |= {name: jnp.sum(losses_M), f"{name}_of": weight}
        return sum(jnp.sum(losses_M) for losses_M in found.values()), weight, metrics
