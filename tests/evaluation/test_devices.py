"""Over several devices an evaluation equals that of one, and takes the kernels that training takes."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

COMMON = """
import dataclasses, functools, json, pathlib, sys
import jax, numpy as np
from lmlab.data.bake import bake
from lmlab.decoding import generate
from lmlab.evaluation import scoring
from lmlab.evaluation.bits_per_byte import BitsPerByte, Data
from lmlab.kernels import dispatch
from lmlab.models.build import hierarchy
from lmlab.models.language_model import LanguageModel, abstract_init, init
from lmlab.training.sharding import Mesh, make_mesh, parameter_shardings, place_whole, row_sharding
from lmlab.training.step import make_init, make_step
from tests.training import tiny

run = tiny.run(pathlib.Path(sys.argv[1]), mesh=Mesh(data=1, fsdp=2, sequence=2, tensor=2))
mesh = make_mesh(run.mesh)
"""

EQUAL = COMMON + """
backbone = run.model.backbone.clone(capacity=(1.0, 2.0))  # exact: all devices must choose the same capacity
model = run.model.clone(backbone=backbone)
params = jax.jit(functools.partial(init, model))(jax.random.key(0))
params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)
alone = jax.device_put(params, jax.devices()[0])
spread = jax.device_put(params, parameter_shardings(abstract_init(model), mesh))
assert dispatch.mesh_of(spread) == mesh and dispatch.mesh_of(alone) is None
baked = bake(run.corpus, run.tokenizer)
data = Data(baked, run.length, run.batch_size)
over = dataclasses.replace(data, place=lambda b: place_whole(b, row_sharding(mesh)))
seen, expected = BitsPerByte("test")(model, spread, over), BitsPerByte("test")(model, alone, data)
assert seen.keys() == expected.keys()
for name, value in expected.items():
    np.testing.assert_allclose(seen[name], value, rtol=1e-5, err_msg=name)
prompts = [np.array([254, 97, 98]), np.array([254]), np.arange(97, 110)]  # three rows over two parts
out = [generate.generate(model, p, prompts, 8, eos=-1, temperature=0.0) for p in (spread, alone)]
np.testing.assert_array_equal(*out)
print("equal")
"""

BRANCHES = COMMON + """
from lmlab.decoding.branches import branches_of
from lmlab.decoding.tree import Tree
from lmlab.models.build import transformer
model = LanguageModel(64, transformer(2, 32, 64, n_heads=2))
params = jax.jit(functools.partial(init, model))(jax.random.key(0))
params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)
spread = jax.device_put(params, parameter_shardings(abstract_init(model), mesh))
prompts = [np.array([1, 2]), np.array([3]), np.arange(4, 9)]
trees = [branches_of(model, p, prompts, 8) for p in (spread, jax.device_put(params, jax.devices()[0]))]
ends = [[tree.roots[0]] * 2 + [tree.roots[2]] for tree in trees]
for step in range(70):  # more than there are slots for at first
    (a, p), (b, q) = (tree.extend(e, [step % 9, step % 7, step % 5]) for tree, e in zip(trees, ends))
    np.testing.assert_allclose(p, q, atol=1e-5)
    ends = [a, b]
assert all(isinstance(tree, Tree) and tree._slots > 128 for tree in trees)
print("equal")
"""

FORMS = COMMON + """
# As on several TPUs: without a mesh nobody knows how to split a Pallas kernel.
dispatch._on_tpu = lambda: dispatch._mesh.get() is not None
backbone = hierarchy(["m1", ["T1"], "m1"], (128, 256), (0, 256), n_heads=2, d_state=128, target=4.0, capacity=2.0)
run = dataclasses.replace(run, model=LanguageModel(256, backbone), length=128)

def kernels(jaxpr, split=False):
    "Names of the Pallas kernels of a program; each must be run by the devices on their own parts."
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "pallas_call":
            assert split, eqn
            yield eqn.params["name_and_src_info"].name if "name_and_src_info" in eqn.params else eqn.params["name"]
        program = lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=program):
            value = getattr(value, "jaxpr", value)
            if hasattr(value, "eqns"):
                yield from kernels(value, split or eqn.primitive.name == "shard_map")

class Traced(Exception):
    pass

def traced(module, name, call):
    "The kernels of the program `module.name`, as `call` would compile it."
    program, found = getattr(module, name), []
    def trace(*args):
        found.extend(kernels(program.trace(*args).jaxpr.jaxpr))
        raise Traced
    setattr(module, name, trace)
    try:
        call()
    except Traced:
        return set(found)
    finally:
        setattr(module, name, program)

optimizer = run.optimizer.build(run.steps)
make, shardings = make_init(run, optimizer, mesh)
zeros = np.zeros((8, 128), np.int32)
batch = {"tokens": zeros, "targets": zeros, "segment_ids": zeros + 1, "weights": zeros + 1.0, "target_bytes": zeros}
state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), jax.eval_shape(make, jax.random.key(0)))
step = set(kernels(make_step(run, optimizer, mesh, shardings).trace(state, batch).jaxpr.jaxpr))
params = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state.params, shardings.params)
scored = traced(scoring, "_forward", lambda: scoring.score(run.model, params, batch))
started = traced(generate, "_start", lambda: generate.generate(run.model, params, [np.arange(9)], 4, eos=-1))
print(json.dumps([sorted({name.split("_segmented")[0] for name in names}) for names in (step, scored, started)]))
"""


def child(code, tmp_path):
    env = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(ROOT),
        "LMLAB_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_an_evaluation_and_samples_over_eight_devices_equal_one(tmp_path):
    assert child(EQUAL, tmp_path).endswith("equal\n")


def test_branches_over_eight_devices_equal_those_of_one(tmp_path):
    assert child(BRANCHES, tmp_path).endswith("equal\n")


def test_evaluation_and_generation_take_the_kernels_of_training(tmp_path):
    step, scored, started = (set(names) for names in json.loads(child(FORMS, tmp_path)))
    forward = {"ssd", "linear_scan", "gather", "spread", "causal_conv_silu", "splash_mha_fwd"}
    assert scored == forward == step & forward
    assert started == forward - {"causal_conv_silu"}  # a prompt's convolution begins with a state: the XLA form
