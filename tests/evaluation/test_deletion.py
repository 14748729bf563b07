import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmlab.data.bake import bake
from lmlab.data.letters import VOWELS, Letters, Merged, WithoutVowels
from lmlab.evaluation.bits_per_byte import Data
from lmlab.evaluation.deletion import Aim, HardDeletion
from lmlab.models.deletion import DELETED, DeletingEncoder
from lmlab.models.encoder_decoder import t5
from lmlab.models.language_model import init
from lmlab.text.bytes import ByteTokenizer


class Deletes(nn.Module):
    """A gate that deletes these bytes."""

    which: tuple

    def __call__(self, h_BSD, tokens_BS, segment_ids_BS):
        return jnp.where(jnp.isin(tokens_BS, jnp.array(self.which)), DELETED, 0.0)

    @nn.nowrap
    def flops(self):
        return 0


def found_of(which, task, planted, folder):
    baked = bake(Letters(400, 12, planted), ByteTokenizer(), str(folder))
    model = t5(256, (1, 1), 16, 32, 2, 8, null=True, encoder=DeletingEncoder, gate=Deletes(which), before=0)
    params = init(model, jax.random.key(0))
    data = Data(baked, 32, 4, task)
    documents = [np.frombuffer(d, np.uint8) for d in baked.documents("test")]
    return Aim()(model, params, data) | HardDeletion()(model, params, data), documents


def test_who_deletes_what_the_task_spares_aims_well(tmp_path):
    found, documents = found_of(tuple(VOWELS.tolist()), WithoutVowels(), None, tmp_path)
    vowels = sum(np.isin(d, VOWELS).sum() for d in documents) / sum(len(d) + 1 for d in documents)
    assert found["aimed"] == 100
    assert found["spared"] == pytest.approx(vowels) and found["deleted"] == pytest.approx(vowels)


def test_who_deletes_by_letter_hits_what_context_tells_in_part(tmp_path):
    found, documents = found_of((ord("A"), ord("x")), Merged(), "triples", tmp_path)
    gone = sum(np.isin(d, [ord("A"), ord("x")]).sum() for d in documents)
    right = sum(d.tobytes().count(b"ABC") for d in documents)
    assert 0 < right < gone
    assert found["aimed"] == pytest.approx(100 * right / gone)
    assert found["spared"] == pytest.approx(2 * right / sum(len(d) + 1 for d in documents))


def test_who_deletes_nothing_aims_at_nothing(tmp_path):
    found, _ = found_of((7,), WithoutVowels(), None, tmp_path)
    assert found["aimed"] == found["deleted"] == 0
