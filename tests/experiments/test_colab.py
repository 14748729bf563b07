"""The notebooks: clean on disk, and every cell runs, in a directory of its own and without a network.

Each has one variable STEPS, which the tests set low, as they do what there is to evaluate. At full length:
pytest -m slow tests/experiments/test_colab.py
"""

import ast
import json
import os
import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "experiments" / "colab").glob("*.ipynb"))
OFFLINE = """
import socket
def refuse(self, address, connect=socket.socket.connect):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"the notebook asks for {address}")
    return connect(self, address)
socket.socket.connect = refuse
"""
# What the reader would see, as data: printed by a last cell.
PROBES = {
    "look_inside_hnet": """{
        "starts": [[passage["stages"][0] for passage in seen[i]] for i in LOOKS],
        "bpb": [float(b) for b in bpb], "F": [float(f) for f in F], "test": test}""",
    "bytes_against_subwords": """{
        "flops": flops, "metrics": {result.arm: result.metrics for result in results},
        "read": {label: passage["stages"] for label, passage in read.items()}}""",
    "write_a_chunker": """{
        "starts": starts.tolist(), "difference": float(difference),
        "metrics": {name: result.metrics for name, result in results.items()}, "sample": results["ours"].sample}""",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Baked corpora, shared by the notebooks."""
    return tmp_path_factory.mktemp("cache")


def execute(name, steps, folder, cache):
    """Run a notebook with STEPS = `steps` (None: as it is): (what its probe gives, all its output as text)."""
    notebook = nbformat.read(ROOT / "experiments" / "colab" / f"{name}.ipynb", 4)
    if steps is not None:
        for cell in notebook.cells:
            cell.source = re.sub(r"(?m)^STEPS = \d+", f"STEPS = {steps}", cell.source)
            cell.source = re.sub(r"\b(validation|test)=0[\d.]+", r"\1=0.01", cell.source)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(OFFLINE))
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json; print('PROBE' + json.dumps({PROBES[name]}))"))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "LMLAB_CACHE": str(cache),
        "JAX_COMPILATION_CACHE_DIR": os.path.expanduser("~/.cache/lmlab/jax-tests"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    if steps is None:  # as the reader runs it, not compiled as in tests
        environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}
    client = NotebookClient(notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    text = "".join(o.get("text", "") + "".join(o.get("data", {}).values()) for o in outputs)
    return json.loads(text.rsplit("PROBE", 1)[1]), text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_stored_clean(path):
    text = path.read_text()
    notebook = nbformat.reads(text, 4)
    nbformat.validate(notebook)
    assert nbformat.writes(notebook) + "\n" == text, "one source line per line, as nbformat writes it"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) and all(re.fullmatch("[a-z-]+", i) for i in ids)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            ast.parse(re.sub(r"(?m)^\s+%pip .*$", "    pass", cell.source))
    assert sum(cell.source.count("STEPS = ") for cell in notebook.cells) == 1
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "import lmlab\nexcept ImportError" in first.source
    assert not re.search(r"://\w", first.source), "the reader names the repository"


def test_every_notebook_is_executed():
    assert {path.stem for path in NOTEBOOKS} == set(PROBES)


def check_look(probe, text):
    """Boundaries moved at every look, the model learned, and the histogram is one of all chunks."""
    starts = probe["starts"]
    assert all(starts[i] != starts[i + 1] for i in range(len(starts) - 1))
    assert probe["bpb"][-1] < probe["bpb"][0] - 1 and len(set(probe["F"])) > 3
    assert sum(probe["test"]["stage0/chunk_lengths"]) == pytest.approx(1, abs=1e-3)
    assert text.count("iVBORw0KGgo") == 2, "two figures, as PNG"
    assert text.count('class="lmlab"') == 3, "chunks of two sentences, and surprisal"


def check_against(probe, text):
    """FLOPs per byte are matched, every arm learned, and the same line cuts otherwise in upper case under BPE."""
    flops = list(probe["flops"].values())
    assert len(flops) == 3 and max(flops) < 1.05 * min(flops)
    assert all(0 < m["bpb"] < 7 and m["upper_case"] > m["clean"] for m in probe["metrics"].values())
    tokens = [sum(stages[0]) for label, stages in probe["read"].items() if "BPE" in label]
    assert tokens[0] < tokens[1], "upper case takes more tokens"
    assert "Reported by the paper" in text and text.count("<svg") > 2


def check_chunker(probe, text):
    """The reader's own chunker is in the table with a measurement, beside both rules, and it generates."""
    assert set(probe["metrics"]) == {"stride", "whitespace", "ours"} and "Word heads (ours)" in text
    cost = {name: metrics["mflops_per_byte"] for name, metrics in probe["metrics"].items()}
    assert 0.9 < cost["ours"] / cost["stride"] < 1.1
    assert len({metrics["bpb"] for metrics in probe["metrics"].values()}) == 3
    assert probe["difference"] < 1e-4 and 5 < sum(probe["starts"]) < len(probe["starts"]) / 2
    assert len(probe["sample"]) > 100


CHECKS = {"look_inside_hnet": check_look, "bytes_against_subwords": check_against, "write_a_chunker": check_chunker}


@pytest.mark.parametrize("name", PROBES)
def test_every_cell_runs_offline(name, tmp_path, cache):
    CHECKS[name](*execute(name, 20, tmp_path, cache))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_every_cell_runs_at_full_length(name, tmp_path, cache):
    CHECKS[name](*execute(name, None, tmp_path, cache))
