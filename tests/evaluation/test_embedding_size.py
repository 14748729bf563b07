import jax

from lmlab import experiment
from lmlab.evaluation.embedding_size import EmbeddingSize
from lmlab.models.language_model import count_parameters, init


def size_of(arm):
    model = experiment.load("byte2word").resolve(arm, "smoke").model
    params = init(model, jax.random.key(0), 256)
    return EmbeddingSize()(model, params, None)["embedding_parameters"], count_parameters(model), params["params"]


def test_of_subwords_it_is_their_table_and_of_words_what_reads_their_bytes_too():
    subwords, total, _ = size_of("bert")
    assert subwords == 513 * 128 < total
    words, total, params = size_of("byte2word")
    rest = {name: part for name, part in params["backbone"].items() if name not in ("encoder", "pool")}
    assert words + sum(x.size for x in jax.tree.leaves((rest, params["head"]))) == total
    assert words > params["embedding"].size
