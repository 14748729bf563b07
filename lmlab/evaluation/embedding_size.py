"""How many parameters turn ids into the vectors that a model's main network reads."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class EmbeddingSize:
    """Of a `LanguageModel`: the rows of its ids, and of one whose main network reads words or chunks, what makes those of
    them. The split is that of every evaluator, and is not read."""

    split: str = "test"

    def __call__(self, model, params, data):
        """{"embedding_parameters": rows of ids, pool and encoder}."""
        own = params["params"]
        parts = [own["embedding"], *(own["backbone"].get(name, {}) for name in ("encoder", "pool"))]
        return {"embedding_parameters": sum(x.size for x in jax.tree.leaves(parts))}
