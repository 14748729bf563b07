"""Training state and the jitted step."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from flax.linen import meta
from jax.sharding import NamedSharding, PartitionSpec

from lmlab.kernels.dispatch import ROWS, SEQUENCE, compiled_for
from lmlab.models.encoder_decoder import EncoderDecoder
from lmlab.models.hierarchy import rematerialised
from lmlab.models.language_model import abstract_init
from lmlab.training.optimizers import part_of
from lmlab.training.precision import compute_weights
from lmlab.training.sharding import batch_sharding, parameter_shardings, replicated


@flax.struct.dataclass
class State:
    """Everything that a run must remember; data follows from the step."""

    step: jax.Array  # int32: steps taken
    params: Any  # variables of the model, float32
    optimizer: Any
    key: jax.Array  # of the run; folded with the step where randomness is needed
    recent: Any = ()  # what `Spikes` judges by
    objective: Any = ()  # what the objective remembers from step to step


def remembered(objective, model):
    """What `objective` remembers before the first step of `model`: of most, nothing.

    One that has `init_state(model)` is called with its state as a last argument, which stays as it is within a step, and
    changes by `next_state(state, metrics)` on the sums of the whole batch. `abstract_state(model)`: its shapes with logical
    axes, for a state that is split over devices as parameters are.
    """
    return objective.init_state(model) if hasattr(objective, "init_state") else ()


def make_init(run, optimizer, mesh):
    """Returns (jitted key -> State, shardings of the State)."""

    def build(key):
        params_key, run_key = jax.random.split(key)
        params = meta.unbox(run.model.init(params_key, jnp.zeros((1, 8), jnp.int32)))
        kept = run.spikes.nothing_yet(), remembered(run.objective, run.model)
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), run_key, *kept)

    params = parameter_shardings(abstract_init(run.model), mesh)
    abstract = jax.eval_shape(build, jax.random.key(0))
    optimizer_shardings = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, s: s,
        abstract.optimizer,
        params,
        transform_non_params=lambda _: replicated(mesh),
    )
    kept = [jax.tree.map(lambda _: replicated(mesh), part) for part in (abstract.recent, abstract.objective)]
    if hasattr(run.objective, "abstract_state"):  # of one that remembers a model
        kept[1] = parameter_shardings(run.objective.abstract_state(run.model), mesh)
    shardings = State(replicated(mesh), params, optimizer_shardings, replicated(mesh), *kept)
    return jax.jit(build, out_shardings=shardings), shardings


def squares_by_part(gradient):
    """{"grad_square/<part>": sum of squares} of a gradient."""
    sums = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = f"grad_square/{part_of(path)}"
        sums[name] = sums.get(name, 0.0) + jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    return sums


def make_step(run, optimizer, mesh, shardings):
    """Returns the jitted (state, batch) -> (state, metrics). The old state's buffers are donated.

    The batch goes through in `run.accumulate` microbatches. Losses and gradients are sums, divided once by the weight of
    the whole batch; only what a chunker's own loss averages over is a microbatch. Where `run.spikes` refuses the update
    ("spike" is 1), parameters and optimizer stay as they were.
    """
    model = run.model
    if run.remat:
        model = model.rematerialised() if isinstance(model, EncoderDecoder) else rematerialised(model)
    rows = mesh.shape["data"] * mesh.shape["fsdp"]

    stateful = hasattr(run.objective, "next_state")

    def loss_fn(params, batch, key, state):
        arguments = (model, compute_weights(params, run.precision), batch, key)
        loss, weight, metrics = run.objective(*arguments, state) if stateful else run.objective(*arguments)
        return loss, metrics | {"weight": weight}

    gradient = jax.value_and_grad(loss_fn, has_aux=True)

    def microbatches(v):
        """[B, ..] -> [accumulate, B / accumulate, ..], of every device's own rows."""
        parts = jnp.swapaxes(v.reshape(rows, run.accumulate, -1, *v.shape[1:]), 0, 1)
        return jax.lax.with_sharding_constraint(parts, NamedSharding(mesh, PartitionSpec(None, ROWS, None, SEQUENCE)))

    def accumulated(params, batch, key, state):
        def add(sums, i_part):
            i, part = i_part
            part = jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), part)
            return jax.tree.map(jnp.add, sums, gradient(params, part, jax.random.fold_in(key, i), state)), None

        parts = jax.tree.map(microbatches, batch)
        zero = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), jax.eval_shape(
            gradient, params, jax.tree.map(lambda v: v[: len(v) // run.accumulate], batch), key, state
        ))
        return jax.lax.scan(add, zero, (jnp.arange(run.accumulate), parts))[0]

    def step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        with compiled_for(mesh):
            compute = gradient if run.accumulate == 1 else accumulated
            (loss, metrics), grads = compute(state.params, batch, key, state.objective)
        weight = jnp.maximum(metrics.pop("weight"), 1)
        grads = jax.tree.map(lambda g: g / weight, grads)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        loss, grad_norm = loss / weight, optax.global_norm(grads)
        accepted, recent = run.spikes.judge(state.recent, loss, grad_norm)
        objective = run.objective.next_state(state.objective, metrics) if stateful else ()
        old, new = (state.params, state.optimizer, state.objective), (params, optimizer_state, objective)
        params, optimizer_state, objective = jax.tree.map(lambda n, o: jnp.where(accepted, n, o), new, old)
        own = {"loss": loss, "grad_norm": grad_norm, "spike": 1 - accepted}
        metrics = metrics | own | squares_by_part(grads)
        return State(state.step + 1, params, optimizer_state, state.key, recent, objective), metrics

    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def peak_bytes(compiled):
    """Memory of a device that a compiled step needs: its arguments, what of its results does not take their place, and
    temporaries. None where the backend does not say."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + fresh + memory.temp_size_in_bytes
