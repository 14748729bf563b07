"""The runs that a run comes after: the one it goes on from, its teacher, its donor; and the state that they leave it."""

import os

import jax

from lmlab.errors import UserError
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.tokenizer_file import TokenizerFile
from lmlab.training import checkpoints, processes
from lmlab.training.directory import TOKENIZER, check
from lmlab.training.sharding import place_parameters


def trained(run, directory, train):
    """{"before", "teacher" or "donor": (parameters on the host, tokenizer)} of what `run` in `directory` comes after.

    `train(run, directory)` trains each, in `directory`-before and so on; where a converted model stands there, that is
    taken. Empty where there is nothing to come after, or a checkpoint to go on from. UserError as from `train`, and if
    a converted model is not the run's.
    """
    runs = run.precursors(os.fspath(directory).rstrip("/"))
    if not runs:
        return {}
    folder = checkpoints.folder(directory)
    begun = processes.first(lambda: check(run, directory) and checkpoints.newest_whole(folder)[0])
    (begun,) = processes.from_first(begun or 0)
    # Before its first periodic checkpoint a run may roll back to where it began.
    if begun and not (run.spikes.policy == "rollback" and begun < run.checkpoint_every):
        return {}
    return {name: _read(name, other, where) or _train(other, where, train) for name, (other, where) in runs.items()}


def _read(name, run, directory):
    """A converted model that stands for the one that `run` would train; None where there is none."""
    if not checkpoints.is_model(directory):
        return None
    model, params = checkpoints.load_model(directory)
    if model != run.model:
        called = {"before": "the model that the run goes on from"}.get(name, f"the run's {name}")
        raise UserError(f"The model in {directory} is not {called}: they differ in more than their weights.")
    path = os.path.join(directory, TOKENIZER)
    return jax.device_get(params), TokenizerFile(path).read() if os.path.exists(path) else ByteTokenizer()


def _train(run, directory, train):
    params, data = train(run, directory)
    return jax.device_get(processes.gather(params)), data.baked.tokenizer  # what stays on devices, steps may take


def _replaced(params, known):
    """`params`, nested dicts, with those of `known` in their places."""
    if not isinstance(known, dict):
        return known
    return params | {name: _replaced(params[name], value) for name, value in known.items()}


def begin(run, state, shardings, tokenizer, before):
    """`state` before the first step, as what `trained` returned leaves it. UserError where the run reads the text in
    other tokens than those that the run before it, its teacher or its donor was trained with."""
    for name, own in (("before", "student"), ("teacher", "teacher"), ("donor", "student")):
        expected = getattr(tokenizer, own, tokenizer)  # without a pair of tokenizers all read the text in one
        found = before[name][1] if name in before else expected
        found = getattr(found, "student", found)  # of a run that itself read a pair
        if expected.fingerprint != found.fingerprint:
            whom = {"before": "the run before it"}.get(name, f"its {name}")
            raise UserError(f"The run reads the text in other tokens than those that {whom} was trained with.")
    if "before" in before:
        params = before["before"][0]
        if run.model != run.after.model:
            params = _replaced(jax.device_get(processes.gather(state.params)), params)
        state = state.replace(params=place_parameters(params, shardings.params))
    if "teacher" not in before:
        return state
    teacher, donor = (before.get(name, (None,))[0] for name in ("teacher", "donor"))
    fresh = jax.device_get(processes.gather(state.params))
    params = run.objective.begin(run.model, fresh, teacher, tokenizer, donor, run.seed)
    state = state.replace(params=place_parameters(params, shardings.params))
    if not hasattr(run.objective, "begun"):
        return state
    remembered = run.objective.begun(run.model, teacher, tokenizer)
    return state.replace(objective=place_parameters(remembered, shardings.objective))
