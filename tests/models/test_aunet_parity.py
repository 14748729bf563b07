"""Agreement with the original AU-Net: marks of its regular expressions exactly, whole tiny models with gradients."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.kernels.elementwise import softmax_cross_entropy
from lmlab.models.build import aunet
from lmlab.models.marks import marked
from lmlab.models.transitions import UpAtStarts, UpByCode, UpByMatrix
from lmlab.models.word_marks import WordMarker
from tests.models import llama
from tests.paths import SHARED, fixture


def test_marks_are_the_originals():
    path = SHARED / "fixtures" / "aunet_regex_levels.json"
    if not path.exists():
        pytest.skip("needs ../shared/fixtures/aunet_regex_levels.json, which is not on this machine")
    cases = [c for c in json.loads(path.read_text()) if all(k.startswith("word") for k in c["strategy"])]
    texts = [c["text"].encode() for c in cases]
    width = max(map(len, texts))
    tokens = np.array([list(t.ljust(width, b"\0")) for t in texts], np.int32)
    valid = np.arange(width) < np.array([[len(t)] for t in texts])
    for groups in ((1,), (1, 2)):
        ours = np.asarray(WordMarker(groups).apply({}, tokens, valid.astype(np.int32))[0])
        rows = [i for i, c in enumerate(cases) if len(c["strategy"]) == len(groups)]
        assert rows
        for i in rows:
            assert ours[i, : len(texts[i])].tolist() == cases[i]["levels"], cases[i]["text"]


def reference(text, groups):
    """Levels of ASCII text by the original's expressions."""
    level = np.zeros(len(text), int)
    for i, n in enumerate(groups):
        for match in re.finditer(r"(\S+?\s){%d}" % n, text):
            level[match.end() - 1] = i + 1
    for match in re.finditer(r"[0-9]{1,3}|[^\sA-Za-z0-9]{1,3}[\r\n]*|\s*[\r\n]", text):
        level[match.start()] = len(groups)
    return level


def test_marks_of_any_ascii_text_without_spaces_before_a_newline():
    """With them the original looks ahead."""
    rng, width = np.random.default_rng(0), 60
    texts = ["".join(rng.choice(list("aab1. \n\r\t-"), width)) for _ in range(64)]
    texts = [re.sub(r"[ \t]+(?=\s*[\r\n])", "", t)[:40].rstrip(" \t").ljust(40, "a") for t in texts]
    tokens = np.array([list(t.encode()) for t in texts], np.int32)
    for groups in ((1,), (1, 2, 4)):
        ours = np.asarray(WordMarker(groups).apply({}, tokens, np.ones_like(tokens))[0])
        for row, text in zip(ours, texts, strict=True):
            assert row.tolist() == reference(text, groups).tolist(), repr(text)


def test_spaces_before_a_newline_are_marked_when_it_comes():
    """The original marks the first of them; the second word of a pair ends there anyway."""
    text = b"one two \n three  \n"
    tokens = np.frombuffer(text, np.uint8).astype(np.int32)[None]
    level = np.asarray(WordMarker((1, 2)).apply({}, tokens, np.ones_like(tokens))[0][0])
    assert {i: int(x) for i, x in enumerate(level) if x} == {3: 1, 7: 2, 15: 1, 17: 2}


UPS = {"simple": UpAtStarts, "simple_repeat": UpByCode, "simple_indexed_matmul": UpByMatrix}


def params_of(w, levels, dims):
    """The hierarchy's parameters from the original's names."""

    def stage(s):
        heads = dims[s] // 16
        if s == levels:
            return llama.stack(w, "trunk.", heads)
        t = f"transitions.{s}."
        up = {"norm": {"scale": w[t + "up_norm.weight"]}, "w": w[t + "trans_up.weight"].T}
        if t + "indexed_linear.weight" in w:
            up["offset_w"] = w[t + "indexed_linear.weight"].transpose(2, 0, 1).reshape(dims[s + 1], -1)
        if t + "pos_encoding.weight" in w:
            up["code"] = w[t + "pos_encoding.weight"]
        return {
            "encoder": llama.stack(w, f"encoders.{s}.", heads),
            "pool": {"norm": {"scale": w[t + "down_norm.weight"]}, "w": w[t + "trans_down.weight"].T},
            "inner": stage(s + 1),
            "unpool": up,
            "decoder": llama.stack(w, f"decoders.{s}.", heads, norm="vocab_norm.weight" if s == 0 else None),
        }

    return {"embedding": w["tok_embeddings.weight"], "head": w["vocab.weight"].T, "backbone": stage(0)}


@pytest.mark.parametrize("form", UPS)
def test_logits_loss_and_gradients(form):
    arrays = fixture(f"aunet_tiny_{form}.npz")
    args = json.loads(str(arrays["args_json"]))
    dims, windows = tuple(args["dimensions"]), tuple(args["sliding_windows"])
    backbone = aunet(
        args["layers"], dims, (96, 128, 192), (2, 3, 4), windows, (4.0, 2.0), (None, None), UPS[form],
        args["block"]["rope_theta"],
    )  # fmt: skip
    w, g = [{k[2:]: arrays[k] for k in arrays.files if k.startswith(kind)} for kind in ("w/", "g/")]
    tokens, targets = (arrays[k].astype(np.int32) for k in ("tokens", "targets"))
    with_levels = marked(tokens, arrays["level_mask"].astype(np.int32))

    @jax.jit
    def run(params):
        def loss(params):
            ones = jnp.ones_like(tokens)
            y, stages = backbone.apply({"params": params["backbone"]}, params["embedding"][tokens], with_levels, ones)
            logits = y @ params["head"]
            return jnp.mean(softmax_cross_entropy(logits, targets)), (logits, [s.start_BL for s in stages])

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, (logits, starts)), grads = run(jax.tree.map(jnp.asarray, params_of(w, 2, dims)))
    outer = np.asarray(starts[0])
    np.testing.assert_array_equal(outer, arrays["pool_mask0"])
    for b in range(2):
        at_chunks = np.asarray(starts[1])[b][outer[b]]
        np.testing.assert_array_equal(at_chunks, arrays["pool_mask1"][b, : len(at_chunks)])
    np.testing.assert_allclose(logits, arrays["logits"], atol=2e-5)
    np.testing.assert_allclose(loss, arrays["loss"], atol=1e-6)
    expected = params_of(g, 2, dims)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), grads, expected)
