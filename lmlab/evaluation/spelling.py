"""What a model that was retrofitted with characters (XRayEmb) knows of its vocabulary."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lmlab.data.spelled_words import spelled_vocabulary

AT_ONCE = 1024


@partial(jax.jit, static_argnums=0)
def _encoded(model, params, characters_MW):
    return model.apply(params, characters_MW, method="encode")


@partial(jax.jit, static_argnums=0)
def _spelled(model, params, x_MD):
    return model.apply(params, x_MD, method="spell")


@dataclasses.dataclass(frozen=True)
class VocabularySpelling:
    """Of the tokens that were held out of the learning of encoder and generator, and of those that were not."""

    split: str = "test"  # not looked at: the vocabulary is

    def __call__(self, model, params, data):
        """Of tokens held out: {"recovered": % whose own row is the nearest, by cosine, to the vector of their
        characters, of the rows of all tokens that are no longer than the model's words; "spelled": % that are written
        exactly from their row}; "recovered/known" and "spelled/known", likewise of the others. Where there are none,
        both are left out."""
        characters, known, held = spelled_vocabulary(data.baked.tokenizer, model.longest)
        rows = np.asarray(params["params"]["embedding"], np.float32)[: len(known)]
        asked = np.flatnonzero(known | held)
        right, written = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
        space = jnp.asarray(_unit(rows[asked]))
        for first in range(0, len(asked), AT_ONCE):
            ids = asked[first : first + AT_ONCE]
            here = np.pad(ids, (0, min(AT_ONCE, len(asked)) - len(ids)), mode="edge")  # one shape for all
            vectors = _unit(np.asarray(_encoded(model, params, jnp.asarray(characters[here]))))
            right[here] = asked[np.asarray(jnp.argmax(vectors @ space.T, axis=1))] == here
            written[here] = (np.asarray(_spelled(model, params, jnp.asarray(rows[here]))) == characters[here]).all(1)
        hits, groups = {"recovered": right, "spelled": written}, {"": held, "/known": known}
        return {
            name + which: 100 * float(hit[of].mean())
            for which, of in groups.items()
            for name, hit in hits.items()
            if of.any()
        }


def _unit(x_MD):
    return x_MD / np.maximum(np.linalg.norm(x_MD, axis=1, keepdims=True), 1e-12)
