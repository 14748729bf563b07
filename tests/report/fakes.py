"""Runs that never happened, in the layout of a run directory, for tests and for looking at the page."""

import json
import math
import random

from lmlab.report.results import load_results

TEXT = ("The model reads bytes.\nIt cuts them into chunks: naïve café, “你好，世界”, 🙂 and\ttabs.\n"
        "<script>alert('&amp;')</script> costs more than plain prose does; so does x_{t+1} = f(x_t).\n"
        ).encode() + b"\x00\x1b[31m \xff\xfe end \xe2\x82"
ARMS = {  # arm: (label, stages, final bits per byte, FLOPs per byte, parameters)
    "hnet_2stage": ("H-Net, 2 stages", 2, 2.05, 2.1e7, 5_300_000),
    "hnet_1stage": ("H-Net, 1 stage", 1, 2.11, 2.2e7, 5_100_000),
    "spacebyte": ("SpaceByte", 1, 2.2, 2.2e7, 5_000_000),
    "bpe": ("BPE transformer with a long name", 1, 2.16, 2.0e7, 6_200_000),
    "mambabyte": ("MambaByte", 0, 2.31, 2.3e7, 2_100_000),
    "transformer": ("Byte transformer", 0, 2.42, 2.2e7, 2_000_000),
}


def make_passage(stages, seed=0, text=TEXT):
    """Chunk starts at random (stage 1 among those of stage 0) and surprisal that falls within a chunk."""
    rng = random.Random(seed)
    first = [int(i == 0 or text[i - 1] in b" \n" or rng.random() < 0.12) for i in range(len(text))]
    second = [int(i == 0 or bool(start and rng.random() < 0.4)) for i, start in enumerate(first)]
    bits = [min(rng.expovariate(0.3 if start else 0.8), 14) for start in first]
    return {"bytes": list(text), "surprisal": bits, "stages": [first, second][:stages]}


def make_run(directory, arm, seed=0, steps=400, finished=True, **changes):
    """Write `<directory>/<arm>/seed<seed>/`; returns its path."""
    label, stages, final, flops_per_byte, parameters = ARMS[arm]
    rng = random.Random(f"{arm}{seed}")
    path = directory / arm / f"seed{seed}"
    path.mkdir(parents=True)
    floor = final + rng.gauss(0, 0.01)
    rows = []
    for step in range(1, steps + 1):
        at = {"step": step, "bytes": step * 8192, "flops": step * 8192 * flops_per_byte}
        bpb = floor + 5.5 * math.exp(-step / steps * 40) + 0.9 * math.exp(-step / steps * 4)
        rows.append({"kind": "train", **at, "bpb": bpb + rng.gauss(0, 0.08), "seconds": step * 0.1})
        if step % (steps // 8) == 0:
            rows.append({"kind": "evaluation", **at, "split": "validation", "bpb": bpb + 0.05})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {
        "arm": arm, "seed": seed, "steps": steps, "train_bytes": steps * 8192, "seconds": steps * 0.1 + seed,
        "train_flops": steps * 8192 * flops_per_byte, "parameters": parameters,
        "flops_per_byte": flops_per_byte,
        "metrics": {"bpb": rows[-1]["bpb"], "antspeak": floor + 1.6, "drop": floor + 0.8,
                    "random_case": floor + 1.0, "repeat": floor + 0.4, "bytes_per_second": 51234.5}
        | ({"bytes_per_chunk": 5.2} if stages else {}),
        "sample": f"The {label} says: <script>alert(1)</script>\n\t\x07 \ufffd and so, " + "it ends. " * 9,
        "passages": [make_passage(stages, arm), make_passage(stages, arm, TEXT[:90])],
    } | changes
    if finished:
        (path / "result.json").write_text(json.dumps(result))
    return path


def load_all(root):
    """The finished runs of all directories below `root`."""
    return load_results([path.parent for path in root.rglob("metrics.jsonl")])
