"""Agreement with the original BLT: hashes and patches exactly, whole tiny models of Meta's code and of Hugging
Face's."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels.compaction import compact, spans
from lmlab.models.chunkers import FixedStride, Whitespace
from lmlab.models.entropy import EntropyMarker, entropy, entropy_starts
from lmlab.models.hierarchy import Hierarchy
from lmlab.models.language_model import LanguageModel
from lmlab.models.marks import AtMarks, Marked
from lmlab.models.ngrams import PRIMES, WithNgrams, ngram_hash
from lmlab.models.patch_attention import PatchDecoder, PatchQueries, PatchVectors
from lmlab.models.stack import Stack
from tests.models import llama
from tests.paths import fixture


@pytest.fixture(scope="module")
def pure():
    """What Meta's pure functions give."""
    return fixture("blt_patching_hash.npz")


def starts_of(lengths, L):
    """Our starts, [B, L] bool: the last byte of every patch that ends within the row."""
    ends = np.cumsum(lengths, axis=1) - 1
    return np.stack([np.isin(np.arange(L), e[n > 0]) for e, n in zip(ends, lengths, strict=True)])


@pytest.mark.parametrize("n", [2, 3, 4, 8])
@pytest.mark.parametrize("function", [0, 1, 2])
def test_hashes_are_exact(pure, n, function):
    assert tuple(pure["primes"]) == PRIMES
    padded = np.pad(pure["tokens"], ((0, 0), (n - 1, 0))).astype(np.int32)
    window = np.lib.stride_tricks.sliding_window_view(padded, n, axis=1)
    ours = jax.jit(lambda w: ngram_hash(w, function, 30_000))(window)
    np.testing.assert_array_equal(ours, pure[f"hash_n{n}_f{function}_mod30000"])


@pytest.mark.parametrize("rows", [1, 97, 500_002, 1 << 24])
def test_hashes_wrap_as_signed_64_bit_integers(rows):
    window = np.random.default_rng(0).integers(0, 1 << 12, (200, 8)).astype(np.int32)
    window[0], window[1] = 0, (1 << 12) - 1
    for function, prime in enumerate(PRIMES):
        powers = np.array([pow(prime, i, 1 << 64) for i in range(8)], np.uint64).view(np.int64)
        with np.errstate(over="ignore"):
            expected = (window.astype(np.int64) * powers).sum(-1) % rows
        np.testing.assert_array_equal(ngram_hash(window, function, rows), expected)


@pytest.mark.parametrize(
    "name, threshold, rise, longest",
    [
        ("t1.335_addNone_mono0_next1", 1.335442066192627, None, None),
        ("t2.500_addNone_mono0_next1", 2.5, None, None),
        ("t2.500_addNone_mono0_next0", 2.5, None, None),
        ("t2.500_maxlen3_next1", 2.5, None, 3),
        ("t1.000_add0.3_mono0_next1", 1.0, 0.3, None),
        ("t0.800_addNone_mono1_next1", -1.0, 0.8, None),
    ],
)
def test_entropy_patches_are_exact(pure, name, threshold, rise, longest):
    """With a rise, the original has no entropy to compare its second with and starts a patch there in any case; and
    never at the third, by a slip of its mask."""
    H = pure["entropies"]
    ones = np.ones(H.shape, np.int32)
    ours = np.array(entropy_starts(jnp.asarray(H), ones, threshold, rise, longest))
    lengths = pure[f"entropy_{name}"]
    theirs = starts_of(lengths, H.shape[1])
    if name.endswith("next0"):  # the last patch ends there because the row does
        ours[:, -1] = True
    from_ = 3 if rise is not None else 0
    np.testing.assert_array_equal(ours[:, from_:], theirs[:, from_:])
    assert ours[:, 0].all() and theirs[:, 0].all()


def test_entropies_are_in_nats(pure):
    np.testing.assert_allclose(entropy(jnp.asarray(pure["logits_for_entropy"])), pure["entropy_nats"], atol=1e-5)


def test_space_patches_are_the_chunks_of_whitespace(pure):
    """The special ids stand below the bytes there; here they are above, and as spacelike."""
    tokens = np.where(pure["tokens"] < 4, 254, pure["tokens"] - 4).astype(np.int32)
    ones = np.ones(tokens.shape, np.int32)
    ours = Whitespace().apply({}, None, tokens, ones).start_BL
    np.testing.assert_array_equal(ours, starts_of(pure["space_next1"], 80))
    c = compact(ours, 80)
    np.testing.assert_array_equal(c.slot_BL, pure["decoder_patch_ids_from_space_next1"])
    of, inside = spans(c, ones)
    np.testing.assert_array_equal(of.slot_BL[inside], pure["patch_ids_from_space_next1"][np.asarray(inside)])


def test_static_patches_are_a_stride_behind_padding(pure):
    """The original puts all but one id of the first patch in front of the row."""
    lengths = pure["static_next1"]
    lengths[:, 0] -= 3
    ours = FixedStride(4).apply({}, None, pure["tokens"], np.ones((2, 80), np.int32)).start_BL
    np.testing.assert_array_equal(ours[:, :77], starts_of(lengths, 77))


def backbone(theta, d_ff):
    """BLT's hierarchy at the sizes of both fixtures, with the original's doubled residual."""
    local = dict(n_heads=4, rotary_dim=12, rotary_base=theta, window=16)
    return Hierarchy(
        encoder=Stack("T1", 48, d_ff[0], final_norm=False, **local),
        chunker=AtMarks(0, 4.5),
        pool=PatchQueries(48, 4, doubled_residual=True),
        inner=Stack("T2", 96, d_ff[1], n_heads=4, rotary_dim=24, rotary_base=theta, final_norm=False),
        unpool=PatchVectors(96, 48),
        decoder=PatchDecoder("T2", 48, d_ff[0], doubled_residual=True, **local),
    )


def cross(w, prefix, names):
    """Parameters of one `PatchAttention`."""
    norm_q, norm_kv, q, k, v, o = (w[f"{prefix}.{name}.weight"] for name in names)
    return {
        "norm_q": {"scale": norm_q},
        "norm_kv": {"scale": norm_kv},
        "wq": q.T,
        "wkv": np.concatenate([k.T, v.T], axis=1),
        "wo": o.T,
    }


def hierarchy_params(w, p, names, layer_names):
    """Parameters of `backbone` from the names of either code under the prefix `p`."""
    encoder, decoder, main = f"{p}local_encoder.", f"{p}local_decoder.", f"{p}global_transformer."
    return {
        "encoder": llama.stack(w, encoder, 4, layer_names),
        "pool": {
            "projection": w[encoder + "patch_embedding_projection.weight"].T,
            "attention": cross(w, encoder + "cross_attn_layers.0", names),
        },
        "inner": llama.stack(w, main, 4, layer_names),
        "unpool": {"projection": w[decoder + "patch_embedding_projection.weight"].T},
        "decoder": llama.stack(w, decoder, 4, layer_names, decoder + "norm.weight")
        | {f"cross_{i}": cross(w, f"{decoder}cross_attn_layers.{i}", names) for i in range(2)},
    }


META_CROSS = ("cross_attn_norm_q", "cross_attn_norm_kv", "wq", "wk", "wv", "wo")
HF_CROSS = ("q_norm", "k_norm", "q_proj", "k_proj", "v_proj", "o_proj")


class Given(nn.Module):
    """A marker of places that the test knows."""

    starts: tuple

    def __call__(self, tokens_BL, segment_ids_BL):
        return jnp.asarray(self.starts, jnp.int32), jnp.zeros(())


def test_metas_model():
    """Logits up to the end of the first document of each row: from there on the original lets the bytes of the next
    document read the last patch of this one, and hashes n-grams across the border."""
    arrays = fixture("blt_tiny_model.npz")
    w = {k[2:]: arrays[k] for k in arrays.files if k.startswith("w/")}
    tokens = arrays["tokens"].astype(np.int32)
    args = json.loads(str(arrays["args_json"]))
    core = backbone(args["rope_theta"], (128, 256))
    start = starts_of(arrays["patch_lengths"], 80)
    model = LanguageModel(260, WithNgrams(Marked(Given(tuple(map(tuple, start))), core), (3, 4), 97, 2, 0))
    tables = [w[f"encoder_hash_tok_embedding.{i}.weight"] for i in range(4)]
    params = {
        "embedding": w["local_encoder.tok_embeddings.weight"],
        "head": w["local_decoder.output.weight"].T,
        "backbone": {
            "table": np.concatenate(tables),
            "backbone": {"backbone": hierarchy_params(w, "", META_CROSS, llama.META)},
        },
    }
    output = jax.jit(model.apply)({"params": params}, tokens)
    np.testing.assert_array_equal(output.stages[0].start_BL, start)
    np.testing.assert_allclose(output.logits[0], arrays["logits"][0], atol=2e-5)
    end = int(np.argmax(tokens[1] == args["eos_id"]))
    np.testing.assert_allclose(output.logits[1, : end + 1], arrays["logits"][1, : end + 1], atol=2e-5)


def test_hugging_faces_model_with_its_entropy_model():
    """Entropies under their window, patches, logits and loss, from the bytes alone; but for the last byte, which ends a
    patch there because the row ends."""
    arrays = fixture("blt_hf_tiny.npz")
    w = {k[2:]: arrays[k] for k in arrays.files if k.startswith("w/")}
    tokens = arrays["input_ids"].astype(np.int32)
    entropy_model = LanguageModel(260, Stack("T1", 32, 64, n_heads=2, rotary_dim=16, window=8))
    core = backbone(5e5, (96, 192))
    marker = EntropyMarker(entropy_model, threshold=0.83)
    model = LanguageModel(260, WithNgrams(Marked(marker, core), (3, 4), 97, 2, 0))
    patcher = {
        "embedding": w["model.patcher.embed_tokens.weight"],
        "head": w["model.patcher.lm_head.weight"].T,
        "backbone": llama.stack(w, "model.patcher.", 2, llama.HF, "model.patcher.norm.weight"),
    }
    H = entropy(jax.jit(entropy_model.apply)({"params": patcher}, tokens).logits)
    np.testing.assert_allclose(H, arrays["entropies"], atol=1e-5)
    params = {
        "embedding": w["model.local_encoder.embed_tokens.weight"],
        "head": w["lm_head.weight"].T,
        "backbone": {
            "table": w["model.encoder_hash_tok_embedding.weight"],
            "backbone": {
                "marker": {"model": patcher},
                "backbone": hierarchy_params(w, "model.", HF_CROSS, llama.HF),
            },
        },
    }
    output = jax.jit(model.apply)({"params": params}, tokens)
    np.testing.assert_array_equal(output.stages[0].start_BL[:, :-1], starts_of(arrays["patch_lengths"], 48))
    np.testing.assert_allclose(output.logits[:, :-1], arrays["logits"][:, :-1], atol=2e-5)
    log_p = jax.nn.log_softmax(output.logits[:, :-1])
    loss = -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).mean()
    np.testing.assert_allclose(loss, arrays["loss"], atol=1e-5)
