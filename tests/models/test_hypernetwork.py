"""A frozen model under any tokenizer: rows are the hypernetwork's, nothing else changes, and only it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.data.bake import stream_of
from lmlab.data.sampled_tokenizers import SampledTokenizers
from lmlab.decoding.generate import generate
from lmlab.errors import UserError
from lmlab.models.build import transformer
from lmlab.models.hypernetwork import Hypernetwork, Retokenized, predicted, retokenized
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.nearest_head import NearestHead, with_nearest_head
from lmlab.models.transfer import fvt, shared
from lmlab.models.two_way import TwoWay
from lmlab.objectives.retokenized import FromHypernetwork, PredictRows
from lmlab.text.bpe import train_bpe
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.sampled import Sampler, vocabulary_of
from tests.parameters import moved

TEXTS = [b"the reader reads what the writer writes, and the weather wrote to another brother %d " % i * 5 for i in range(9)]
OLD, NEW = train_bpe(TEXTS, 272), train_bpe([b"her weather was rather wet, the weather wrote to another brother " * 9], 280)
BASE = LanguageModel(272, transformer(1, 16, 32, n_heads=2))
BODY = TwoWay("T1", 16, 32, n_heads=2, rotary_dim=4)
MODEL = Retokenized(272, BASE, Hypernetwork(BODY, 5))
FRESH = init(MODEL, jax.random.key(0))
VARIABLES = moved(FRESH)
READING = SampledTokenizers(Sampler(272), rows=4, pieces=5, texts=6, old=16)
WINDOWS = READING.windows(stream_of(TEXTS, OLD), 24, OLD)
BATCH = WINDOWS.batch([0, 3, 5, 2], [(0, 8 + i) for i in range(4)])


def test_rows_are_those_of_a_plain_model():
    """The model of a batch is the base with predicted rows in its tables."""
    drawn = WINDOWS.drawn(0, 2)
    output = jax.jit(MODEL.apply)(VARIABLES, BATCH["tokens"], BATCH["segment_ids"], BATCH["pieces"]).logits
    plain = retokenized(MODEL, VARIABLES, OLD, drawn.tokenizer)
    expected = jax.jit(BASE.apply)(plain, BATCH["tokens"], BATCH["segment_ids"]).logits
    np.testing.assert_allclose(output, expected, atol=2e-4)
    old = VARIABLES["frozen"]["model"]
    np.testing.assert_array_equal(plain["params"]["embedding"][-2:], old["embedding"][-2:])
    jax.tree.map(np.testing.assert_array_equal, plain["params"]["backbone"], old["backbone"])


def test_a_tied_base_stays_tied():
    tied = MODEL.clone(base=BASE.clone(tied=True))
    variables = init(tied, jax.random.key(0))
    plain = retokenized(tied, variables, OLD, NEW)["params"]
    assert plain["embedding"].shape == (280, 16) and "head" not in plain
    batch = [BATCH[name] for name in ("tokens", "segment_ids", "pieces")]
    assert jax.eval_shape(tied.apply, variables, *batch).logits.shape == (4, 24, 272)


@pytest.mark.parametrize("new", [NEW, ByteTokenizer(), OLD], ids=["subword", "bytes", "itself"])
def test_a_fresh_hypernetwork_is_the_mean_of_the_pieces(new):
    made = retokenized(MODEL, FRESH, OLD, new)["params"]
    of = np.flatnonzero((vocabulary_of(OLD, new, 6) >= 0).sum(axis=1) <= 5)  # longer ones are cut
    for name, turned in (("embedding", lambda x: x), ("head", lambda x: x.T)):
        expected = fvt(turned(np.asarray(FRESH["frozen"]["model"][name])), OLD, new)
        np.testing.assert_allclose(turned(made[name])[of], expected[of], atol=1e-5)
    assert len(of) > 250 and len(shared(OLD, new)[0]) >= 254


def test_pieces_are_read_in_order_and_padding_is_not_read():
    pieces = np.array([[100, 101, 102, -1, -1], [102, 101, 100, -1, -1], [100, 101, 102, 103, -1]])
    embedding, _ = predicted(MODEL, VARIABLES, pieces)
    assert np.abs(embedding[0] - embedding[1]).max() > 1e-3 and np.abs(embedding[0] - embedding[2]).max() > 1e-3
    np.testing.assert_allclose(predicted(MODEL, VARIABLES, pieces[:, :4])[0], embedding, atol=1e-5)


def test_gradients_reach_the_hypernetwork_alone():
    objective = PredictRows(warm_up=3)

    @jax.jit
    def gradient(state):
        loss = lambda v: objective(MODEL, v, BATCH, None, state)[0]  # noqa: E731
        return jax.grad(loss)(VARIABLES)

    state = objective.init_state(MODEL)
    early = gradient(state)
    for _ in range(3):
        state = objective.next_state(state, {})
    late = gradient(state)
    for found in (early, late):
        assert all(not np.any(g) for g in jax.tree.leaves(found["frozen"]))
        assert all(np.any(g) for g in jax.tree.leaves(found["params"]))
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(jax.tree.leaves(early), jax.tree.leaves(late), strict=True))


def test_the_warm_up_learns_old_rows_from_their_pieces():
    """Without a network the rows of tokens written whole are met, and of those written in parts not."""
    distance = lambda v, at: float(  # noqa: E731
        MODEL.apply(v, BATCH["old_pieces"].reshape(16, 5)[at], BATCH["old_tokens"].reshape(16)[at], method="distance")
    )
    parts = BATCH["old_pieces"].reshape(16, 5)
    whole, split = parts[:, 1] < 0, parts[:, 1] >= 0
    assert whole.sum() >= 8 and split.any()
    assert distance(FRESH, whole) < 1e-10 < distance(FRESH, split)
    for pieces, token in zip(parts, BATCH["old_tokens"].reshape(16), strict=True):
        assert OLD.decode(pieces[pieces >= 0]) == OLD.token_bytes(token)


def test_a_batch_is_its_text_under_its_own_tokenizer():
    drawn = WINDOWS.drawn(0, 2)
    np.testing.assert_array_equal(BATCH["pieces"].reshape(272, 5), vocabulary_of(OLD, drawn.tokenizer, 5))
    assert WINDOWS.drawn(0, 3).tokenizer.fingerprint != drawn.tokenizer.fingerprint
    for row, index in enumerate([0, 3, 5, 2]):
        text = b"".join(OLD.decode(tokens) for *_, tokens in WINDOWS.documents(index))
        used = BATCH["segment_ids"][row] > 0
        ids = np.append(BATCH["tokens"][row][used], BATCH["targets"][row][used][-1:])
        assert text.startswith(drawn.tokenizer.decode(ids)[:-1]) and len(drawn.tokenizer.decode(ids)) > 20
        lengths = drawn.tokenizer.token_lengths()[BATCH["targets"][row]]
        np.testing.assert_array_equal(BATCH["target_bytes"][row], np.where(BATCH["weights"][row] > 0, lengths, 0))
    # Two processes that read half of the rows each hold the whole together.
    halves = [WINDOWS.batch([0, 3], [(0, 8), (0, 9)]), WINDOWS.batch([5, 2], [(0, 10), (0, 11)])]
    for name, whole in BATCH.items():
        np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), whole)
    with pytest.raises(UserError, match="rows that share a tokenizer"):
        WINDOWS.batch([0, 1], [(0, 3), (0, 4)])


def test_an_evaluation_is_always_alike():
    first, second = (READING.windows(stream_of(TEXTS, OLD), 24, OLD).batch([0, 1, -1, 2]) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert not first["weights"][2].any() and first["weights"][3].any()


def test_bad_settings_end_in_one_sentence():
    with pytest.raises(UserError, match="must be the run's batch_size"):
        MODEL.apply(VARIABLES, BATCH["tokens"][:2], BATCH["segment_ids"][:2], BATCH["pieces"][:2])
    with pytest.raises(UserError, match="must divide"):
        SampledTokenizers(Sampler(272), rows=3)
    with pytest.raises(UserError, match="at least 2 pieces"):
        dataclasses.replace(READING, pieces=1)
    with pytest.raises(UserError, match="they differ"):
        run = dataclasses.make_dataclass("Other", ["model"])(BASE.clone(vocab_size=300))
        PredictRows(run).begin(MODEL, FRESH, VARIABLES, OLD)
    with pytest.raises(UserError, match="its own base model alone"):
        run = dataclasses.make_dataclass("Other", ["model"])(MODEL)
        FromHypernetwork(run).begin(LanguageModel(272, transformer(1, 8, 32, n_heads=2)), FRESH, VARIABLES, OLD)


def test_a_head_that_probes_every_list_is_the_whole_head():
    model, params = BASE, {"params": VARIABLES["frozen"]["model"]}
    found, variables = with_nearest_head(model, params, lists=6, probes=12, k=20)
    tokens = jnp.arange(24).reshape(2, 12) * 7
    logits, all_logits = (jax.jit(m.apply)(v, tokens).logits for m, v in ((found, variables), (model, params)))
    kept = logits > -1e29
    assert (kept.sum(axis=-1) == 20).all()
    np.testing.assert_allclose(logits[kept], all_logits[kept], atol=1e-4)
    prompts = [np.array([OLD.bos, 100, 7]), np.array([OLD.bos, 5])]
    continued = [generate(m, v, prompts, 6, -1, temperature=0.0) for m, v in ((found, variables), (model, params))]
    np.testing.assert_array_equal(*continued)
    with pytest.raises(UserError, match="plain language model"):
        with_nearest_head(NearestHead(272, BASE.backbone), params, 4)
