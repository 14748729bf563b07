"""From an experiment to finished run directories: train, evaluate, look, write result.json."""

import itertools
import json
import os
import platform

import numpy as np

from lmlab import config
from lmlab.errors import UserError


def run_directory(root, experiment, scale, arm, seed):
    """Where a run lives."""
    return os.path.join(root, experiment, scale, arm, f"seed{seed}")


def run_arm(run, directory, arm, on_metrics=lambda step, values: None):
    """Train `run` to its end in `directory` (resuming what is there) and write result.json; returns its content.

    A directory that already holds the result of this very run is left as it is.
    """
    from lmlab.training.loop import claim, train

    path = os.path.join(directory, "result.json")
    if os.path.exists(path):
        claim(run, directory)
        return config.load_json(path)
    params, data = train(run, directory, on_metrics)
    metrics = {}
    for evaluator in run.evaluators:
        metrics |= evaluator(run.model, params, data)
    train_lines, evaluations = read_metrics(directory)
    last = train_lines[-1]
    nominal = 1.0 / run.tokenizer.bytes_per_token
    metrics |= {
        "validation_bpb": evaluations[-1]["bpb"],
        "bytes_per_second": float(np.median([line["bytes_per_second"] for line in train_lines])),
        "mflops_per_byte": measured_flops_per_byte(run, metrics) / 1e6,
    }
    passages = look(run, params, data)
    result = {
        "arm": arm,
        "seed": run.seed,
        "steps": run.steps,
        "train_bytes": last["bytes"],
        "train_flops": last["flops"],
        "seconds": last["seconds"],
        "parameters": _parameters(run),
        "flops_per_byte": sum(run.model.flops(run.length).values()) * nominal,
        "metrics": metrics,
        "sample": sample_text(run, params, data, passages[0]["bytes"][:48]),
        "passages": passages,
        "machine": machine(),
    }
    with open(path + ".new", "w", encoding="utf-8") as f:
        json.dump(result, f)
    os.replace(path + ".new", path)
    return result


def _parameters(run):
    from lmlab.models.language_model import count_parameters

    return count_parameters(run.model)


def read_metrics(directory):
    """(training lines, evaluation lines) of a run."""
    lines = {"train": [], "evaluation": []}
    with open(os.path.join(directory, "metrics.jsonl"), encoding="utf-8") as f:
        for line in f:
            values = json.loads(line)
            lines[values["kind"]].append(values)
    return lines["train"], lines["evaluation"]


def measured_flops_per_byte(run, metrics):
    """Forward FLOPs per source byte at the compression that the test split showed."""
    return sum(run.model.flops(run.length, _ratios(metrics)).values()) / (
        metrics["bytes_per_chunk"] if "stage0/bytes_per_chunk" not in metrics else 1.0
    )


def _ratios(metrics):
    """Positions per chunk of each stage, from the cumulative bytes per chunk; none for isotropic models."""
    ratios, before, stage = [], 1.0, 0
    while f"stage{stage}/bytes_per_chunk" in metrics:
        now = metrics[f"stage{stage}/bytes_per_chunk"]
        ratios.append(now / before)
        before, stage = now, stage + 1
    return tuple(ratios)


def excerpt(document, size):
    """About `size` bytes from the middle of a document, from a line's start, whole characters."""
    start = document.find(b"\n", len(document) // 2) + 1
    text = document[start : start + size]
    return text.decode("utf-8", "ignore").encode()


def look(run, params, data, count=2, size=480):
    """Passages of the test split as the model reads them."""
    from lmlab.evaluation.passages import read_passage

    texts = [excerpt(d, size) or d[:size] for d in itertools.islice(data.baked.documents("test"), 50)]
    texts.sort(key=lambda t: -sum(65 <= b <= 122 for b in t))  # prose and code before tables of numbers
    texts = texts[:count]
    return [read_passage(run.model, params, data.baked.tokenizer, t, run.length, run.batch_size) for t in texts]


def sample_text(run, params, data, prompt, new=200, temperature=0.8, top_p=0.95, seed=0):
    """A continuation of the prompt (bytes), prompt included."""
    import jax

    from lmlab.decoding.generate import generate

    tokenizer = data.baked.tokenizer
    ids = np.concatenate([[tokenizer.bos], tokenizer.encode(bytes(prompt))])
    new_tokens = max(1, round(new / tokenizer.bytes_per_token))
    out = generate(run.model, params, [ids], new_tokens, tokenizer.eos, jax.random.key(seed), temperature, top_p)[0]
    kept = out[: int(np.argmax(out == tokenizer.eos))] if (out == tokenizer.eos).any() else out
    return (bytes(prompt) + tokenizer.decode(kept)).decode("utf-8", "replace")


def load_run(directory):
    """(run, model, params) of a run directory's newest checkpoint. UserError if there is none."""
    import jax

    from lmlab.training import checkpoints
    from lmlab.training.sharding import make_mesh
    from lmlab.training.step import make_init

    path = os.path.join(directory, "run.json")
    if not os.path.exists(path):
        raise UserError(f"{directory} is not a run directory: it has no run.json.")
    run = config.from_json(config.load_json(path))
    init, shardings = make_init(run, run.optimizer.build(run.steps), make_mesh(run.mesh))
    abstract = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
        jax.eval_shape(init, jax.random.key(0)),
        shardings,
    )
    with checkpoints.checkpointer(os.path.join(os.path.abspath(directory), "checkpoints")) as saved:
        if checkpoints.latest_step(saved) is None:
            raise UserError(f"{directory} holds no checkpoint yet.")
        return run, run.model, checkpoints.restore(saved, abstract).params


def load_data(run):
    """The baked data of a run."""
    from lmlab.data.bake import bake
    from lmlab.evaluation.bits_per_byte import Data

    return Data(bake(run.corpus, run.tokenizer), run.length, run.batch_size)


def machine():
    """What the numbers were measured on."""
    import jax

    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), model)
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def table_view(experiment, table, results):
    """`TableView` of a table from finished results."""
    from lmlab.report.results import summarise
    from lmlab.report.tables import Row, TableView

    summaries = summarise(results, [c.key for c in table.measured])
    rows = [
        Row(name, experiment.arm(name).label, table.reported.get(name, {}), summaries.get(name, {}))
        for name in table.arms
    ]
    return TableView(table.title, list(table.reported_columns), list(table.measured), rows, table.source, table.note)


def save_table(path, experiment, scale, results, provenance):
    """What was measured, without the texts: one entry per run. `load_table` reads it."""
    fields = ("arm", "seed", "steps", "train_bytes", "train_flops", "seconds", "parameters", "flops_per_byte", "metrics")
    content = {
        "experiment": experiment.name,
        "scale": scale,
        "provenance": provenance,
        "results": [{f: getattr(r, f) for f in fields} for r in results],
    }
    with open(path + ".new", "w", encoding="utf-8") as f:
        json.dump(content, f, indent=1)
    os.replace(path + ".new", path)


def load_table(path):
    """(results, provenance) of a file that `save_table` wrote."""
    from lmlab.report.results import Result

    content = config.load_json(path)
    results = [Result(**entry, sample="", passages=[]) for entry in content["results"]]
    return results, content["provenance"]
