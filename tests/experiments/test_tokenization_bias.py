"""The two ways of encoding differ on the chain that is used: else two of the table's arms would be one."""

from lmlab import experiment
from lmlab.data.corpora import split_of


def test_the_chain_s_text_is_not_encoded_alike():
    arms = [experiment.load("tokenization_bias").resolve(arm, "small") for arm in ("greedy", "merges")]
    corpus = arms[0].corpus
    texts = [d.data for d in corpus.documents() if split_of(d.data, corpus.validation, corpus.test) == "train"]
    greedy, merges = (arm.tokenizer.train(texts) for arm in arms)
    assert greedy.tokens == merges.tokens
    assert all(len(greedy.encode(text)) > 1.02 * len(merges.encode(text)) for text in texts[:10])
