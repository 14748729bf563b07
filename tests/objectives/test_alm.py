"""Approximate likelihood matching: the original's losses and gradients, equal tokenizers, and training with a teacher."""

import dataclasses
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.models.build import hierarchy, transformer
from lmlab.models.language_model import LanguageModel, init
from lmlab.models.transfer import omp
from lmlab.objectives import alm
from lmlab.objectives.alm import ALM
from lmlab.objectives.transferred import Transferred
from lmlab.runner import load_data, load_run
from lmlab.text.bpe import BPE
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.pairs import Beside
from lmlab.training import checkpoints
from lmlab.training.loop import train
from tests.training import tiny

ARRAYS = np.load(pathlib.Path(__file__).parent / "tokenkit_alm_loss.npz")
CASES = [name for name in ARRAYS.files if name.startswith("loss|")]


def side(logits, who):
    """Chunks of the original's arrays, which speak of tokens where ours speak of targets."""
    ids, matrix = ARRAYS[f"ids_{who}"], ARRAYS["A_student" if who == "student" else "B_teacher"]
    matrix = matrix & (ARRAYS[f"loss_mask_{who}"][..., None] > 0)
    chunk = np.where(matrix.any(-1), matrix.argmax(-1), -1)
    shifted = [np.concatenate([x[:, 1:], np.full_like(x[:, :1], fill)], axis=1) for x, fill in ((ids, 0), (chunk, -1))]
    return alm.chunks(logits, *shifted, matrix.shape[-1], ARRAYS[f"space_mask_{who}"])


def original(student_logits, case):
    _, name, mode, per = case.split("|")
    sizes = (1, 2, 4) if per == "chunks1,2,4" else (1,)
    student, teacher = side(student_logits, "student"), side(ARRAYS["teacher_logits"], "teacher")
    if "merge_by_space_prob" in mode:
        student, teacher = alm.merged(student, teacher, 0.1)
    found = alm.matched(student, teacher, name, 100.0, "append_space" in mode, sizes)
    total, weight = alm.mean(*found, "chunk" if per == "chunk_count" else "token")
    return total / weight / len(sizes)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_of_the_original(case):
    loss, gradient = jax.value_and_grad(original)(jnp.asarray(ARRAYS["student_logits"]), case)
    if np.isnan(ARRAYS[case]):  # 0 x inf of the chunks that are none: here they count for nothing
        assert np.isfinite(loss)
    else:
        np.testing.assert_allclose(loss, ARRAYS[case], rtol=1e-5)
    if (stored := "grad" + case.removeprefix("loss")) in ARRAYS:
        np.testing.assert_allclose(gradient, ARRAYS[stored], rtol=1e-3, atol=1e-7)
    assert np.isfinite(gradient).all()


def test_log1mexp_of_the_original():
    np.testing.assert_allclose(alm.log1mexp(ARRAYS["log1mexp_x"]), ARRAYS["log1mexp_y"], rtol=1e-5)
    assert np.isfinite(jax.vmap(jax.grad(alm.log1mexp))(jnp.asarray(ARRAYS["log1mexp_x"]))).all()


@pytest.mark.parametrize("name", sorted(alm.TEMPERED | alm.PLAIN))
def test_equal_likelihoods_cost_least(name):
    t = jnp.linspace(-9.0, -0.1, 12)
    here = alm.difference(name, t, t, 1.0)
    for other in (t * 1.2, t * 0.8):
        assert (alm.difference(name, t, other, 1.0) > here + 1e-6).all()
    if name not in ("binary_ce",):
        np.testing.assert_allclose(here, 0.0, atol=1e-5)


def test_the_limit_of_growing_temperatures():
    t, s = jnp.array([-3.0, -0.5, -7.0]), jnp.array([-1.0, -2.0, -6.0])
    # In float32 the two logarithms near p = 1 leave few digits at higher temperatures.
    near = 500 * alm.difference("binary_kl", t, s, 500.0)
    np.testing.assert_allclose(near, alm.difference("binary_kl_temp_limit", t, s, 1.0), rtol=0.03)


def test_merging_closes_chunks_where_the_teacher_expects_a_word():
    logp, count = jnp.array([[-1.0, -2.0, -3.0, -4.0, -5.0]]), jnp.array([[1, 2, 1, 3, 0]])
    teacher = alm.Chunks(logp, count, jnp.log(jnp.array([[0.05, 0.5, 0.01, 0.9, 0.9]])))
    student = alm.Chunks(2 * logp, count, jnp.log(jnp.array([[0.2, 0.3, 0.4, 0.5, 0.6]])))
    s, t = alm.merged(student, teacher, 0.1)
    np.testing.assert_allclose(t.logp_BC[0, :2], [-3, -7])
    np.testing.assert_allclose(s.logp_BC[0, :2], [-6, -14])
    assert t.count_BC.tolist() == [[3, 4, 0, 0, 0]]
    np.testing.assert_allclose(jnp.exp(s.space_BC[0, :2]), [0.3, 0.5], rtol=1e-6)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))


def run(tmp_path, tokenizer, teachers, objective, model=None, method="fvt", **changes):
    """A student and its teacher, alike but for their vocabulary."""
    base = dict(length=32, steps=4, evaluate_every=4, checkpoint_every=2)
    backbone = transformer(1, 32, 64, n_heads=2)
    teacher = dataclasses.replace(tiny.plain(tmp_path), model=LanguageModel(300, backbone), tokenizer=teachers, **base)
    model = model or LanguageModel(256 if isinstance(tokenizer, ByteTokenizer) else 300, backbone)
    objective = dataclasses.replace(objective, teacher=teacher, method=method)
    student = dataclasses.replace(teacher, model=model, tokenizer=Beside(tokenizer, teachers), objective=objective)
    return dataclasses.replace(student, **changes)


def test_equal_tokenizers_reduce_to_a_term_per_token(tmp_path):
    made = run(tmp_path, ByteTokenizer(), ByteTokenizer(), ALM(append_space=False, threshold=0.0))
    data = load_data(made)
    batch = data.windows("train").batch(range(4))
    params, other = init(made.model, jax.random.key(0)), init(made.objective.teacher.model, jax.random.key(1))
    state = made.objective.init_state(made.model) | {"teacher": other}
    total, weight, metrics = jax.jit(made.objective, static_argnums=0)(made.model, params, batch, None, state)

    def logp(model, params):
        logits = jax.nn.log_softmax(model.apply(params, batch["tokens"], batch["segment_ids"]).logits)
        return jnp.take_along_axis(logits, batch["targets"][..., None], axis=-1)[..., 0]

    t, s = logp(made.objective.teacher.model, other), logp(made.model, params)
    terms = alm.difference("binary_ce", t, s, 100.0)
    expected = jnp.sum(terms * batch["weights"]) / jnp.sum(batch["weights"])
    np.testing.assert_allclose(total / weight, expected, rtol=1e-4)
    assert metrics["alm_of"] == metrics["in_chunks"] == weight == jnp.sum(batch["weights"])


def test_sums_of_rows_add_up_to_those_of_the_batch(tmp_path):
    """Chunks are what is summed and weighed, however rows differ in them."""
    made = run(tmp_path, ByteTokenizer(), BPE(290), ALM())
    data, model = load_data(made), made.model
    batch = data.windows("train").batch([0, 1, -1, 2])
    state, params = made.objective.init_state(model), init(model, jax.random.key(0))
    of = lambda rows: made.objective(model, params, {k: v[rows] for k, v in batch.items()}, None, state)[:2]  # noqa: E731
    whole, parts = of(slice(0, 4)), [of(slice(0, 1)), of(slice(1, 4))]
    assert float(parts[0][1]) != float(parts[1][1]) and float(whole[1]) > 0
    np.testing.assert_allclose(whole, np.sum(parts, axis=0), rtol=1e-5)


def test_a_run_trains_its_teacher_first_and_resumes_without_it(tmp_path):
    made = run(tmp_path, ByteTokenizer(), BPE(290), ALM(next_token=0.1))
    seen, directory = [], tmp_path / "run"
    params, data = train(made, str(directory), lambda step, values: seen.append(values))
    assert seen and all(np.isfinite(v["loss"]) for v in seen)
    _, model, teacher = load_run(str(directory) + "-teacher")
    assert model == made.objective.teacher.model
    tokenizer, fresh = data.baked.tokenizer, jax.device_get(init(made.model, jax.random.key(0)))
    begun = made.objective.begin(made.model, fresh, jax.device_get(teacher), tokenizer)["params"]
    jax.tree.map(np.testing.assert_array_equal, begun["backbone"], teacher["params"]["backbone"])
    letter = int(tokenizer.teacher.encode(b"q")[0])
    np.testing.assert_array_equal(begun["embedding"][ord("q")], teacher["params"]["embedding"][letter])
    shared = dataclasses.replace(made, objective=dataclasses.replace(made.objective, weights=str(directory) + "-teacher"))
    other, _ = train(shared, str(tmp_path / "other"))  # the teacher is not trained again
    jax.tree.map(np.testing.assert_array_equal, params, other)
    assert not (tmp_path / "other-teacher").exists()
    shutil.rmtree(str(directory) + "-teacher")
    shutil.rmtree(directory / "checkpoints" / "4")
    again, _ = train(made, str(directory))
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_a_donor_gives_the_space_of_a_pursuit(tmp_path):
    made = run(tmp_path, BPE(270), BPE(290), Transferred(k=3), method="omp")
    tokenizer = load_data(made).baked.tokenizer
    teacher, fresh, donor = (jax.device_get(init(made.model, jax.random.key(i))) for i in range(3))
    begun = made.objective.begin(made.model, fresh, teacher, tokenizer, donor)["params"]
    rows = teacher["params"]["embedding"], tokenizer.teacher, tokenizer.student
    np.testing.assert_array_equal(begun["embedding"][:270], omp(*rows, donor["params"]["embedding"][:270], k=3))
    head = [x["params"]["head"].T for x in (teacher, donor)]
    np.testing.assert_array_equal(begun["head"].T[:270], omp(head[0], *rows[1:], head[1][:270], k=3))


def test_a_hierarchy_over_bytes_learns_from_subwords(tmp_path):
    hnet = hierarchy(["m1", ["T1"], "m1"], (32, 64), (0, 64), n_heads=2, d_state=8, target=4.0, capacity=2.0)
    made = run(tmp_path, ByteTokenizer(), BPE(290), ALM(), LanguageModel(256, hnet), "")
    data = load_data(made)
    tokenizer, batch = data.baked.tokenizer, data.windows("train").batch(range(4))
    teacher, params = init(made.objective.teacher.model, jax.random.key(1)), init(made.model, jax.random.key(0))
    state = made.objective.begun(made.model, teacher, tokenizer)

    def loss(params, teacher):
        return made.objective(made.model, params, batch, jax.random.key(2), state | {"teacher": teacher})[0]

    own, teachers = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, teacher)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(own))
    assert all(np.abs(g).max() == 0 for g in jax.tree.leaves(teachers))  # it is frozen


def test_what_does_not_fit_a_teacher_ends_in_a_sentence(tmp_path):
    made = run(tmp_path, ByteTokenizer(), BPE(290), Transferred())
    with pytest.raises(UserError, match="other tokens than those that its teacher"):
        train(dataclasses.replace(made, tokenizer=ByteTokenizer()), str(tmp_path / "a"))
    checkpoints.save_model(str(tmp_path / "bytes"), made.model, init(made.model, jax.random.key(0)))
    with pytest.raises(UserError, match="is not the run's teacher"):
        named = dataclasses.replace(made.objective, weights=str(tmp_path / "bytes"))
        train(dataclasses.replace(made, objective=named), str(tmp_path / "c"))
    with pytest.raises(UserError, match="only where its backbone is"):
        train(dataclasses.replace(made, model=LanguageModel(256, transformer(1, 48, 64, n_heads=2))), str(tmp_path / "b"))
    with pytest.raises(UserError, match="compares by one of"):
        ALM(difference="kl")
    with pytest.raises(UserError, match="Beside"):
        ALM(teacher=made.objective.teacher)(made.model, None, {}, None, None)
