"""A head over very many tokens that computes the logits of a few: those that an inverted file finds for a state."""

import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.kernels.nearest import InvertedFile, inverted_file, search
from lmlab.models.language_model import LanguageModel


class NearestHead(LanguageModel):
    """A `LanguageModel` whose logits are -1e30 but for the `k` largest that are found; these are exact.

    `with_nearest_head` adds the index of its rows to variables. Where every list is probed, these are the k largest of
    all, so that greedy decoding is that of the plain model. Cached generation is as ever.
    """

    probes: int = 8
    k: int = 64

    def _logits(self, y):
        index = InvertedFile(*(self.get_variable("index", name) for name in InvertedFile._fields))
        flat = y.reshape(-1, y.shape[-1])
        top_NK, ids_NK = search(index, flat, self.k, self.probes)
        ids_NK = jnp.where(ids_NK < 0, self.vocab_size, ids_NK)
        logits_NV = jnp.full((len(flat), self.vocab_size), -1e30)
        logits_NV = logits_NV.at[jnp.arange(len(flat))[:, None], ids_NK].set(top_NK, mode="drop")
        return logits_NV.reshape(*y.shape[:-1], self.vocab_size)


def with_nearest_head(model, params, lists, probes=8, k=64, seed=0):
    """(`NearestHead` of a plain `LanguageModel`, its variables). UserError for another kind of model."""
    if type(model) is not LanguageModel:
        raise UserError("Only a plain language model of tokens has a head whose rows can be looked up.")
    if probes < 1 or k < 1:
        raise UserError("A head looks at one list or more for one token or more.")
    own = params["params"]
    index = inverted_file(own["embedding"] if model.tied else own["head"].T, lists, seed)
    changed = NearestHead(model.vocab_size, model.backbone, model.tied, probes=probes, k=k)
    return changed, params | {"index": index._asdict()}
