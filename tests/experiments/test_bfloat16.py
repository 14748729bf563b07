"""Every kind of model takes weights that are cast in its products, as training in bfloat16 gives them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.linen import meta

from lmlab import experiment
from lmlab.models.language_model import abstract_init
from lmlab.training.precision import compute_weights
from lmlab.training.step import remembered


def kinds(module):
    """The classes that a module is built of."""
    parts = (getattr(module, name) for name in module.__dataclass_fields__ if name != "parent")
    return {type(module)}.union(*(kinds(part) for part in parts if isinstance(part, nn.Module)))


def distinct():
    """{name: Run} of the first arm with each set of classes."""
    found = {}
    for name in experiment.names():
        loaded = experiment.load(name)
        for arm in loaded.at("smoke"):
            run = loaded.resolve(arm.name, "smoke")
            if isinstance(run, experiment.Study):
                continue
            found.setdefault((frozenset(kinds(run.model)), type(run.objective)), (f"{name}/{arm.name}", run))
    return dict(found.values())


RUNS = distinct()


@pytest.mark.parametrize("name", RUNS)
def test_the_loss_is_traced_in_bfloat16(name):
    run = RUNS[name]
    shapes = run.corruption.shapes(64) | getattr(run.tokenizer, "annotation_shapes", lambda length: {})(64)
    dtypes = {name: jnp.float32 if name == "weights" else jnp.int32 for name in shapes}
    rows = getattr(run.corruption, "rows", 2)  # of tokenizers that are drawn for a batch
    batch = {name: jax.ShapeDtypeStruct((rows, *shape), dtypes[name]) for name, shape in shapes.items()}
    state = remembered(run.objective, run.model)

    def loss(params, batch, key):
        arguments = (run.model, compute_weights(params, "bfloat16"), batch, key)
        return run.objective(*arguments, state)[0] if state != () else run.objective(*arguments)[0]

    traced = jax.eval_shape(loss, meta.unbox(abstract_init(run.model)), batch, jax.random.key(0))
    assert traced.shape == () and traced.dtype == jnp.float32
