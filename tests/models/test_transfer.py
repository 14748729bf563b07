"""Rows for a new vocabulary: what both tokenizers have is kept, and each method is what it says."""

import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.models import transfer
from lmlab.models.build import transformer
from lmlab.models.language_model import LanguageModel
from lmlab.models.transfer import METHODS, fvt, grams, pursuit, shared, sparsemax, transferred
from lmlab.text.bpe import train_bpe
from lmlab.text.bytes import ByteTokenizer

A = train_bpe([b"the reader reads what the writer writes, the reader " * 9], 275)
B = train_bpe([b"her weather was rather wet, the weather wrote to another brother " * 9], 280)
RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((A.vocab_size, 24)).astype(np.float32)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("new", [A, B, ByteTokenizer()], ids=["itself", "subword", "bytes"])
def test_an_unchanged_token_keeps_its_row(name, new):
    made = METHODS[name](ROWS, A, new)
    assert made.shape == (new.vocab_size, 24) and made.dtype == np.float32 and np.isfinite(made).all()
    known = {A.token_bytes(i): i for i in range(A.vocab_size) if A.token_bytes(i)}
    same = [i for i in range(new.vocab_size) if new.token_bytes(i) in known and i not in (new.bos, new.eos)]
    assert len(same) >= 254
    np.testing.assert_array_equal(made[same], ROWS[[known[new.token_bytes(i)] for i in same]])
    np.testing.assert_array_equal(made[[new.bos, new.eos]], ROWS[[A.bos, A.eos]])
    if new is A:
        np.testing.assert_array_equal(made, ROWS)


def fresh(new=B):
    """Ids of `new` that A does not have."""
    return np.setdiff1d(np.arange(new.vocab_size), shared(A, new)[0])


def test_fvt_is_the_mean_of_the_pieces():
    made = fvt(ROWS, A, B)
    assert len(fresh()) > 10
    for i in fresh():
        np.testing.assert_allclose(made[i], ROWS[A.encode(B.token_bytes(int(i)))].mean(0), atol=1e-6)


def test_mean_is_the_mean_of_all_rows():
    np.testing.assert_allclose(transfer.mean(ROWS, A, B)[fresh()], np.tile(ROWS.mean(0), (len(fresh()), 1)), atol=1e-6)


def test_focus_sums_alike_tokens():
    """In a space where a new token lies on a shared one, it gets that one's row."""
    to, source = shared(A, B)
    space = RNG.standard_normal((B.vocab_size, 40))
    space[fresh()[0]] = 100 * space[to[7]]
    made = transfer.focus(ROWS, A, B, 30 * space)
    likeness = (space[to] @ space[to[7]]) / np.linalg.norm(space[to], axis=1) / np.linalg.norm(space[to[7]])
    weights = sparsemax(likeness[None])[0]
    assert weights.argmax() == 7 and 1 <= np.count_nonzero(weights) < len(to)
    np.testing.assert_allclose(made[fresh()[0]], weights @ ROWS[source], atol=1e-6)


def test_tokenadapt_lies_between_pieces_and_neighbours():
    i = next(int(i) for i in fresh() if len(A.encode(B.token_bytes(int(i)))) > 1)
    parts = A.encode(B.token_bytes(i))
    local = transfer.tokenadapt(ROWS, A, B, share=0.0)[i]
    near = transfer.tokenadapt(ROWS, A, B, share=1.0, neighbours=1)[i]
    weights = np.linalg.lstsq(ROWS[parts].T, local, rcond=None)[0]
    np.testing.assert_allclose(weights @ ROWS[parts], local, atol=1e-5)
    assert abs(weights.sum() - 1) < 1e-5 and (weights > 0).all()
    assert (np.abs(ROWS - near).max(1) < 1e-6).any()  # the row of one old token
    mixed = transfer.tokenadapt(ROWS, A, B, share=0.25, neighbours=1)[i]
    np.testing.assert_allclose(mixed, 0.75 * local + 0.25 * near, atol=1e-6)


def test_local_and_global_are_tokenadapts_two_parts():
    parts = [METHODS[f"tokenadapt_{name}"](ROWS, A, B).astype(np.float64) for name in ("local", "global")]
    np.testing.assert_allclose(METHODS["tokenadapt"](ROWS, A, B), 0.7 * parts[0] + 0.3 * parts[1], atol=1e-6)
    assert np.abs(parts[0] - parts[1])[fresh()].max() > 0.1


def test_random_rows_are_distributed_as_the_old_ones():
    rows = 3 + ROWS * np.linspace(0.1, 2, 24, dtype=np.float32)
    many = train_bpe([bytes(RNG.integers(97, 123, 20_000).tolist())], 900)
    made = transfer.random(rows, A, many)[fresh(many)]
    assert np.abs((made.mean(0) - rows.mean(0)) / rows.std(0)).max() < 0.2
    assert np.abs(made.std(0) / rows.std(0) - 1).max() < 0.2
    np.testing.assert_array_equal(made, transfer.random(rows, A, many)[fresh(many)])


def test_sparsemax_is_the_nearest_point_of_the_simplex():
    x = RNG.standard_normal((20, 7)) * 2
    p = sparsemax(x)
    np.testing.assert_allclose(p.sum(1), 1)
    assert (p >= 0).all() and (p == 0).any()
    others = RNG.dirichlet(np.ones(7), (20, 200))
    assert (((others - x[:, None]) ** 2).sum(-1) >= ((p - x) ** 2).sum(-1)[:, None] - 1e-12).all()


def test_pursuit_finds_a_planted_sparse_code():
    atoms = RNG.standard_normal((120, 64))
    planted = np.stack([RNG.choice(120, 4, replace=False) for _ in range(300)])
    weights = RNG.uniform(1, 2, (300, 4)) * RNG.choice([-1, 1], (300, 4))
    targets = np.einsum("mk,mka->ma", weights, atoms[planted])
    chosen, c = pursuit(atoms, targets, 8)
    np.testing.assert_allclose(np.einsum("mk,mka->ma", c, atoms[chosen]), targets, atol=1e-8)
    code, expected = np.zeros((300, 120)), np.zeros((300, 120))
    np.add.at(code, (np.arange(300)[:, None], chosen), c)
    np.put_along_axis(expected, planted, weights, axis=1)
    exact = np.isclose(code, expected, atol=1e-8).all(1)
    assert exact.mean() > 0.95  # an early wrong atom stays with a coefficient, but of 8 the planted 4 are rarely missed


def test_pursuit_fits_all_coefficients_again():
    """The residual of k atoms is orthogonal to all of them, and shrinks with k."""
    atoms, targets = RNG.standard_normal((50, 16)), RNG.standard_normal((9, 16))
    sizes = []
    for k in (1, 4, 16, 40):
        chosen, c = pursuit(atoms, targets, k)
        residual = targets - np.einsum("mk,mka->ma", c, atoms[chosen])
        np.testing.assert_allclose(np.einsum("ma,mka->mk", residual, atoms[chosen]), 0, atol=1e-9)
        sizes.append((residual**2).sum())
    assert (np.diff(sizes) < 1e-12).all() and sizes[-1] < 1e-12


def test_omp_moves_a_sparse_combination_of_the_donor_exactly():
    to, source = shared(A, B)
    donor = RNG.standard_normal((B.vocab_size, 64))
    for i in fresh():
        donor[i] = 2.0 * donor[to[i % 50]] - 1.5 * donor[to[60 + i % 70]]
    made = transfer.omp(ROWS, A, B, donor, k=2)
    expected = [2.0 * ROWS[source[i % 50]] - 1.5 * ROWS[source[60 + i % 70]] for i in fresh()]
    exact = np.isclose(made[fresh()], expected, atol=1e-4).all(1)
    assert exact.mean() > 0.8


def test_vectors_of_bytes_are_alike_for_alike_tokens():
    vectors = dict(zip([B.token_bytes(i) for i in range(B.vocab_size)], grams(B), strict=True))
    assert vectors[b"rather"] @ vectors[b" rather"] > vectors[b"rather"] @ vectors[b" was"]


def test_random_rows_of_embedding_and_head_are_drawn_apart_and_with_the_seed():
    model = LanguageModel(B.vocab_size, transformer(1, 24, 32, n_heads=2))
    old = {"params": {"embedding": ROWS, "head": ROWS.T}}
    new = {"params": {"embedding": np.zeros((B.vocab_size, 24)), "head": np.zeros((24, B.vocab_size))}}
    made = [transferred(model, new, old, A, B, "random", seed=seed)["params"] for seed in (0, 0, 1)]
    drawn = [rows[fresh()] for each in made for rows in (each["embedding"], each["head"].T)]
    standard = [((rows - ROWS.mean(0)) / ROWS.std(0)).ravel() for rows in drawn]
    likeness = np.corrcoef(standard)[[0, 0, 0, 1, 1], [1, 2, 4, 3, 5]]
    np.testing.assert_allclose(likeness, [0, 1, 0, 1, 0], atol=4 / len(standard[0]) ** 0.5)


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_takes_over_everything_but_its_rows(tied):
    def params(model, seed):
        import jax

        from lmlab.models.language_model import init

        return jax.device_get(init(model, jax.random.key(seed)))

    backbone = transformer(1, 16, 32, n_heads=2)
    old, new = LanguageModel(A.vocab_size, backbone, tied), LanguageModel(B.vocab_size + 3, backbone, tied)
    teacher, fresh_params = params(old, 0), params(new, 1)
    made = transferred(new, fresh_params, teacher, A, B, "fvt")["params"]
    assert set(made) == set(fresh_params["params"])
    n = B.vocab_size
    np.testing.assert_array_equal(made["embedding"][:n], fvt(teacher["params"]["embedding"], A, B))
    np.testing.assert_array_equal(made["embedding"][n:], fresh_params["params"]["embedding"][n:])
    if not tied:
        np.testing.assert_array_equal(made["head"][:, :n].T, fvt(teacher["params"]["head"].T, A, B))
    with pytest.raises(UserError, match="made by zero, mean"):
        transferred(new, fresh_params, teacher, A, B, "best")
    with pytest.raises(UserError, match="but the model only"):
        transferred(old, teacher, teacher, A, B, "mean")
    with pytest.raises(UserError, match="The old tokenizer has"):
        transferred(new, fresh_params, {"params": {"embedding": ROWS[:100]}}, A, B, "mean")
