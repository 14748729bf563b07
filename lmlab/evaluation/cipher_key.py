"""Has a model deciphered what it reads? The key of a substitution cipher, read off the states of a frozen model (lexinvariant
models, Huang et al. 2023, arXiv 2305.16349, section 3)."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmlab.data.batches import evaluation_batches
from lmlab.errors import UserError
from lmlab.evaluation.cipher import cipher, excerpts
from lmlab.evaluation.rows import Rows
from lmlab.evaluation.scoring import on_host
from lmlab.kernels.dispatch import compiled_for, mesh_of


@partial(jax.jit, static_argnums=(0, 1))
def _states(model, mesh, params, batch):
    def read(module, tokens_BL, segment_ids_BL):
        return module.backbone(module.embed_tokens(tokens_BL), tokens_BL, segment_ids_BL)[0]

    with compiled_for(mesh, whole_rows=True):
        return model.apply(params, batch["tokens"], batch["segment_ids"], method=read).astype(jnp.float32)


def _read_out(probe, h_ND):
    """float32 [N, 256]: of each state, logits of the byte that was read last, before it was enciphered."""
    return jax.nn.relu(h_ND @ probe["in"] + probe["bias"]) @ probe["out"]


@partial(jax.jit, static_argnums=(2, 3, 4))
def _fitted(h_ND, plain_N, steps, batch_size, hidden, seed):
    """The two-layer probe behind so many steps of Adam, on states drawn anew in each."""
    first, second, draws = jax.random.split(jax.random.key(seed), 3)
    D = h_ND.shape[1]
    probe = {
        "in": jax.random.normal(first, (D, hidden)) * D**-0.5,
        "bias": jnp.zeros(hidden),
        "out": jax.random.normal(second, (hidden, 256)) * hidden**-0.5,
    }
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def loss(probe, at_B):
        return optax.softmax_cross_entropy_with_integer_labels(_read_out(probe, h_ND[at_B]), plain_N[at_B]).mean()

    def step(carry, key):
        probe, state = carry
        gradient = jax.grad(loss)(probe, jax.random.randint(key, (batch_size,), 0, len(h_ND)))
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(probe, updates), state), None

    (probe, _), _ = jax.lax.scan(step, (probe, optimizer.init(probe)), jax.random.split(draws, steps))
    return probe


def votes_right(cipher_N, plain_N, said_N):
    """(symbols, those whose majority of what was said is right) of one window: bytes as they stand, as they were, and as a
    probe says that they were. Of equal majorities the smallest byte counts."""
    symbols = np.unique(cipher_N)
    right = [plain_N[cipher_N == s][0] == np.bincount(said_N[cipher_N == s]).argmax() for s in symbols]
    return len(symbols), int(np.sum(right))


def by_frequency(cipher_N, frequent):
    """What counting says that a text was: its most frequent byte the most frequent of `frequent`, and so on."""
    counts = np.bincount(cipher_N, minlength=256)
    guess = np.empty(256, np.int64)
    guess[np.argsort(-counts, kind="stable")] = frequent
    return guess[cipher_N]


@dataclasses.dataclass(frozen=True)
class CipherKey:
    """Precision of the key that a probe of two layers reads off the states of excerpts, each under a key of its own: the
    bytes of a window vote on what each symbol in it stands for.

    The probe is fitted to the states of the train split, and asked about `split`; the model stays as it is.
    """

    split: str = "test"
    max_bytes: int = 100_000
    train_bytes: int = 200_000
    window: int = 100  # bytes
    steps: int = 2000
    batch_size: int = 1024  # states
    hidden: int = 256
    seed: int = 0

    def __post_init__(self):
        if min(self.window, self.steps, self.batch_size, self.hidden, self.max_bytes, self.train_bytes) < 1:
            raise UserError("A probe of a cipher's key needs windows, steps, batches, layers and texts of 1 or more.")

    def check(self, run):
        """UserError for a run that does not read plain bytes, or whose rows do not hold two windows."""
        if run.tokenizer.vocab_size != 256:
            raise UserError("A cipher of bytes is for models that read bytes.")
        if run.length <= 2 * self.window:
            raise UserError(f"Rows of {run.length} bytes do not hold two windows of {self.window}, to see a key become known.")

    def __call__(self, model, params, data):
        """{"key": % of the symbols of the last window of an excerpt that are read off right, "key/first": of the first
        window, "key/by_frequency": of the last, by the frequencies of the excerpt's bytes; "key_bytes": % of all bytes}.
        UserError where no excerpt holds two windows."""
        size, found = data.length - 1, {}
        for split, most in (("train", self.train_bytes), (self.split, self.max_bytes)):
            plain = excerpts(list(data.baked.documents(split)), size, most, self.seed)
            hidden = [cipher(text, self.seed) for text in plain]
            found[split] = [_as_bytes(plain), _as_bytes(hidden), self._states(model, params, data, hidden)]
        plain, _, states = found["train"]
        probe = _fitted(np.concatenate(states), np.concatenate(plain), self.steps, self.batch_size, self.hidden, self.seed)
        frequent = np.argsort(-np.bincount(np.concatenate(plain), minlength=256), kind="stable")
        sums, right, total = {"key": np.zeros(2), "key/first": np.zeros(2), "key/by_frequency": np.zeros(2)}, 0, 0
        for plain, hidden, states in zip(*found[self.split], strict=True):
            said = np.asarray(jnp.argmax(_read_out(probe, states), axis=1))
            right, total = right + int((said == plain).sum()), total + len(plain)
            if len(plain) < 2 * self.window:
                continue
            last, first = slice(-self.window, None), slice(self.window)
            sums["key"] += votes_right(hidden[last], plain[last], said[last])
            sums["key/first"] += votes_right(hidden[first], plain[first], said[first])
            sums["key/by_frequency"] += votes_right(hidden[last], plain[last], by_frequency(hidden, frequent)[last])
        if not sums["key"][0]:
            raise UserError(f"No {self.split} excerpt holds two windows of {self.window} bytes, to see a key become known.")
        return {name: 100 * float(good / symbols) for name, (symbols, good) in sums.items()} | {"key_bytes": 100 * right / total}

    def _states(self, model, params, data, texts):
        """float32 [bytes, D] of each text: the states that have read its bytes."""
        found, mesh = [], mesh_of(params)
        for batch in evaluation_batches(Rows(texts, data.length, data.baked.tokenizer), data.batch_size):
            data.check()
            rows = on_host(_states(model, mesh, params, data.place(batch)))
            found += [row[1 : 1 + len(text)] for row, text in zip(rows, texts[len(found) :], strict=False)]
        return found


def _as_bytes(texts):
    return [np.frombuffer(text, np.uint8).astype(np.int32) for text in texts]
