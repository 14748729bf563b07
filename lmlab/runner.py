"""From an experiment to finished run directories: train, evaluate, look, write result.json."""

import codecs
import dataclasses
import datetime
import itertools
import json
import os
import platform
import sys
import time
import zlib

import numpy as np

from lmlab import config
from lmlab.errors import Interrupted, UserError


def run_directory(root, experiment, scale, arm, seed, changes=()):
    """Where a run lives; `changes` (overrides, another corpus) give it a directory of its own."""
    suffix = f"-{zlib.crc32(json.dumps(changes).encode()):08x}" if changes else ""
    return os.path.join(root, experiment, scale, arm, f"seed{seed}{suffix}")


def run_arm(run, directory, arm, on_metrics=lambda step, values: None, profile=None):
    """Train `run` to its end in `directory` (resuming what is there) and write result.json; returns its content.
    `profile`: as in `train`.

    A `Study` is measured instead. A directory that already holds the result of this very run is left as it is. With
    several processes all call this; the first writes and returns the result, the others return None.
    """
    from lmlab.evaluation.study import Study

    if isinstance(run, Study):
        return _measure(run, directory, arm)
    from lmlab.training import processes
    from lmlab.training.directory import check
    from lmlab.training.loop import train
    from lmlab.training.precision import compute_copy
    from lmlab.training.profile import Profile
    from lmlab.training.signals import StopSignal
    from lmlab.training.watchdog import Watchdog

    path = os.path.join(directory, "result.json")
    with Watchdog("the processes to look for a result"):
        there = processes.first(lambda: check(run, directory) and os.path.exists(path))
        (finished,) = processes.from_first(bool(there))
    if finished:
        Profile(profile, directory, run.steps)  # says that nothing is traced
        return processes.first(lambda: config.load_json(path))
    params, data = train(run, directory, on_metrics, profile)
    params, metrics = compute_copy(params, run.precision), {}
    with StopSignal() as stop, Watchdog() as watch:
        if processes.several():
            stop.defer(processes.anywhere())  # else the others would wait for one that has stopped

        def between_batches():
            watch.wait_for("a batch of the last evaluation")
            stop.check()

        data = dataclasses.replace(data, check=between_batches)
        for evaluator in run.evaluators:
            metrics |= evaluator(run.model, params, data)
        params = processes.gather(params)
        watch.wait_for("the sample and the result")
        return processes.first(lambda: _write_result(run, directory, arm, params, data, metrics))


def _measure(study, directory, arm):
    """What `run_arm` does with a `Study`, in one process."""
    from lmlab.training.directory import check, claimed, commits, withdraw, write

    path = os.path.join(directory, "result.json")
    if check(study, directory) and os.path.exists(path):
        return config.load_json(path)
    study.check()  # before anything is written
    with claimed(study, directory):
        began = time.perf_counter()
        try:
            metrics = measured(study, directory)
        except UserError as error:
            if not isinstance(error, Interrupted):
                withdraw(directory)  # nothing of it is done, nor can be
            raise
        result = {
            "arm": arm,
            "seed": study.seed,
            **_cost(study, directory),
            "seconds": time.perf_counter() - began,
            "metrics": metrics,
            "provenance": {"commits": commits(directory), "date": _now(), "machine": machine()},
        }
        write(path, json.dumps(result))
    return result


def measured(study, directory):
    """What a study in `directory` measures, once its models are trained beside it, in the precision of their runs."""
    from lmlab.training.loop import train
    from lmlab.training.precision import compute_copy

    trained = {}
    for name, (run, where) in study.precursors(os.fspath(directory).rstrip("/")).items():
        params, data = train(run, where)
        trained[name] = run.model, compute_copy(params, run.precision), data
    return study.measure(**trained)


def _cost(study, directory):
    """What the models of a study took, all together."""
    firsts = study.precursors(os.fspath(directory).rstrip("/")).values()
    lasts = [read_metrics(where)[0][-1] for _, where in firsts]
    return {
        "steps": sum(run.steps for run, _ in firsts),
        "train_bytes": sum(last["bytes"] for last in lasts),
        "train_flops": sum(last["flops"] for last in lasts),
        "parameters": sum(_parameters(run) for run, _ in firsts),
        "flops_per_byte": 0,
    }


def _now():
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _write_result(run, directory, arm, params, data, metrics):
    from lmlab.training.directory import commits, write
    from lmlab.training.goodput import planned_bytes

    train_lines, evaluations = read_metrics(directory)
    last = train_lines[-1]
    nominal = 1.0 / run.tokenizer.bytes_per_token
    metrics |= {
        "validation_bpb": evaluations[-1]["bpb"],
        "useful": last["useful_flops"] / last["flops"],
        "computed": last["computed_flops"] / last["flops"],
        "bytes_per_second": float(np.median([line["bytes_per_second"] for line in train_lines])),
        "steps_per_second": float(np.median([line["steps_per_second"] for line in train_lines])),
    }
    if planned := planned_bytes(directory):
        metrics["step_megabytes"] = planned / 1e6
    if "bytes_per_token" in metrics:
        metrics["mflops_per_byte"] = measured_flops_per_byte(run, metrics) / 1e6
    metrics |= {k: v for k, v in last.items() if k.endswith(("/F", "/G", "/overflow", "/filled"))}
    # Who asks for no evaluation is not shown anything either.
    passages = look(run, params, data) if run.corruption.continues and run.evaluators else []
    result = {
        "arm": arm,
        "seed": run.seed,
        "steps": run.steps,
        "train_bytes": last["bytes"],
        "train_flops": last["flops"],
        "seconds": last["seconds"],
        "parameters": _parameters(run),
        "flops_per_byte": sum(run.flops().values()) * nominal,
        "metrics": metrics,
        "sample": sample_text(run.model, params, data.baked.tokenizer, passages[0]["bytes"][:48]) if passages else "",
        "passages": passages,
        "provenance": {
            "commits": commits(directory),
            "date": _now(),
            "machine": machine(),
            "splits": {name: data.baked.manifest["splits"][name] for name in ("train", "validation", "test")},
        },
    }
    write(os.path.join(directory, "result.json"), json.dumps(result))
    return result


def _parameters(run):
    from lmlab.models.language_model import count_parameters

    return count_parameters(run.model)


def read_metrics(directory):
    """(training lines, evaluation lines) of a run."""
    lines = {}
    with open(os.path.join(directory, "metrics.jsonl"), encoding="utf-8") as f:
        for line in f:
            values = json.loads(line)
            lines.setdefault(values["kind"], []).append(values)
    return lines["train"], lines["evaluation"]


def measured_flops_per_byte(run, metrics):
    """Forward FLOPs per source byte at the compression that `BitsPerByte` measured."""
    ratios, before, stage = [], metrics["bytes_per_token"], 0
    while f"stage{stage}/bytes_per_chunk" in metrics:
        now = metrics[f"stage{stage}/bytes_per_chunk"]
        ratios.append(now / before)
        before, stage = now, stage + 1
    per_position = metrics.get("bytes_per_window_token", metrics["bytes_per_token"])  # that `Run.flops` counts
    return sum(run.flops(tuple(ratios)).values()) / per_position


def excerpt(document, size):
    """About `size` bytes from the middle of a document, from a line's start, whole characters."""
    start = document.find(b"\n", len(document) // 2) + 1
    text = document[start : start + size]
    return text.decode("utf-8", "ignore").encode()


def look(run, params, data, count=2, size=480):
    """Passages of the test split (or of another, if it is empty) as the model reads them: one of each text of a mixture,
    else `count`."""
    from lmlab.evaluation.passages import read_passage

    split = next(s for s in ("test", "validation", "train") if data.baked.manifest["splits"][s]["documents"])
    if texts := data.baked.texts(split):
        chosen = [_most_readable(documents[:50], size // 2, 1)[0] for documents in texts.values()]
    else:
        chosen = _most_readable(itertools.islice(data.baked.documents(split), 50), size, count)
    return [read_passage(run.model, params, data.baked.tokenizer, t, run.length, run.batch_size) for t in chosen]


def _most_readable(documents, size, count):
    """Excerpts with the most letters: prose and code before tables of numbers."""
    texts = [excerpt(d, size) or d[:size] for d in documents]
    return sorted(texts, key=lambda t: -sum(65 <= b <= 122 or b >= 0x80 for b in t))[:count]


def stream_text(model, params, tokenizer, prompt, new=200, temperature=0.8, top_p=0.95, seed=0):
    """The prompt (bytes) and its continuation as text, piece by piece; no character is ever cut in two."""
    import jax

    from lmlab.decoding.generate import stream

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    ids = np.concatenate([[tokenizer.bos], tokenizer.encode(bytes(prompt))])
    while len(ids) > 1 and not tokenizer.token_bytes(int(ids[-1])):  # the end of a word, which the prompt may break off
        ids = ids[:-1]
    new_tokens = max(1, round(new / tokenizer.bytes_per_token))
    yield decoder.decode(bytes(prompt))
    for tokens in stream(model, params, ids, new_tokens, tokenizer.eos, jax.random.key(seed), temperature, top_p):
        yield decoder.decode(tokenizer.decode(tokens[tokens < tokenizer.vocab_size]))  # marks of a corruption are no text
    yield decoder.decode(b"", final=True)


def sample_text(*args, **kwargs):
    """All of `stream_text` at once."""
    return "".join(stream_text(*args, **kwargs))


def load_run(directory):
    """(run, model, params) of a run directory's newest checkpoint, or of a converted model, which has no run: None.

    UserError if there is neither.
    """
    import jax

    from lmlab.training import checkpoints
    from lmlab.training.sharding import Mesh, make_mesh
    from lmlab.training.step import make_init

    if checkpoints.is_model(directory):
        return None, *checkpoints.load_model(directory)
    run = _read_run(directory)
    init, shardings = make_init(run, run.optimizer.build(run.steps), make_mesh(Mesh()))  # whatever it was trained on
    abstract = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
        jax.eval_shape(init, jax.random.key(0)),
        shardings,
    )
    folder = checkpoints.folder(directory)
    if not os.path.isdir(folder):
        raise UserError(f"{directory} holds no checkpoint yet.")
    step, sentences = checkpoints.readable_step(folder)
    for sentence in sentences:
        print(f"lmlab: {sentence}", file=sys.stderr)
    if step is None:
        raise UserError(f"{directory} holds no checkpoint{' that can be read' if sentences else ' yet'}.")
    with checkpoints.checkpointer(folder, read_only=True) as saved:
        return run, run.model, checkpoints.restore(saved, abstract, step).params


def _read_run(directory):
    path = os.path.join(directory, "run.json")
    if not os.path.exists(path):
        raise UserError(f"{directory} is not a run directory: it has no run.json.")
    return config.from_json(config.load_json(path))


def read_batch(directory, step):
    """The batch of a run's step `step` (from 1) as text: (lines of the metrics that tell of its refusal, for each row
    (number of the window, [(number of the document, whether it begins here, whether it ends here, bytes)])).

    UserError for a step that the run does not have, or a corpus that has changed.
    """
    from lmlab.data.batches import TrainBatches
    from lmlab.training.directory import require_same
    from lmlab.training.writer import read_lines

    run = _read_run(directory)
    if not 1 <= step <= run.steps:
        raise UserError(f"The run in {directory} has the steps 1 to {run.steps}, not {step}.")
    data = load_data(run)
    require_same(directory, data.baked)
    windows, tokenizer = data.windows("train"), data.baked.tokenizer
    rows = [
        (window, [(*where, tokenizer.decode(tokens)) for *where, tokens in windows.documents(window)])
        for window in TrainBatches(windows, run.batch_size, run.seed).rows(step - 1)
    ]
    return [line for line in read_lines(directory) if line["kind"] == "spike" and line["step"] == step], rows


def load_data(run):
    """The baked data of a run."""
    from lmlab.data.bake import bake
    from lmlab.evaluation.bits_per_byte import Data

    return Data(bake(run.corpus, run.tokenizer), run.length, run.batch_size, run.corruption)


def tokenizer_of(run, model, directory):
    """The trained tokenizer of a run; of a converted model (run None) the one in its directory, or bytes."""
    from lmlab.text.bytes import ByteTokenizer
    from lmlab.text.tokenizer_file import TokenizerFile
    from lmlab.training import directory as run_directories

    if run is not None:
        return run_directories.tokenizer_of(run, directory)
    path = os.path.join(directory, run_directories.TOKENIZER)
    if os.path.exists(path):
        return TokenizerFile(path).read()
    if model.vocab_size != ByteTokenizer().vocab_size:
        raise UserError(f"The model has {model.vocab_size} ids, but bytes are {ByteTokenizer().vocab_size}.")
    return ByteTokenizer()


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
    """`TableView` of a table from finished results: a row for each arm with a reported or a measured value."""
    from lmlab.report.results import summarise
    from lmlab.report.tables import Row, TableView

    summaries = summarise(results, [c.key for c in table.measured])
    rows = [
        Row(name, experiment.arm(name).label, table.reported.get(name, {}), summaries.get(name, {}))
        for name in table.arms
        if name in table.reported or name in summaries
    ]
    return TableView(table.title, list(table.reported_columns), list(table.measured), rows, table.source, table.note)


def gather_provenance(results):
    """What the results say of themselves: commits that made them, last date, machines, and bytes of the splits, which
    only runs have."""
    each = [r.provenance for r in results]
    machines = [p["machine"] for p in each]
    splits = [p["splits"] for p in each if "splits" in p]
    sizes = {name: {k: s[k] for k in ("documents", "source_bytes")} for name, s in (splits or [{}])[0].items()}
    return {
        "commit": ", ".join(sorted({c for p in each for c in p["commits"]})),
        "date": max(p["date"] for p in each),
        "machine": machines[0] if all(m == machines[0] for m in machines) else {"several": machines},
        "splits": sizes,
    }


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
