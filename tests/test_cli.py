"""Bad input ends in one sentence and exit code 2, before anything is compiled or written."""

import fnmatch
import glob
import json
import os
import pathlib
import subprocess
import sys

import pytest

from lmlab.cli import main
from lmlab.commands import common
from lmlab.kernels import aot
from tests.command import run

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (["show", "hnett"], "did you mean hnet?"),
        (["show", "hnet/hnet_1stag"], "did you mean hnet_1stage?"),
        (["train", "hnet"], "Name an arm of hnet"),
        (["show", "hnet/llamabyte", "--scale", "huge"], "no scale 'huge'"),
        (["show", "hnet/llamabyte", "--set", "model.backbone.d_modle=4"], "did you mean model.backbone.d_model?"),
        (["show", "hnet/llamabyte", "--set", "d_model=4"], "did you mean model.backbone.d_model?"),
        (["show", "hnet/llamabyte", "--set", "model.d_modl=4"], "did you mean model.backbone.d_model?"),
        (["show", "byt5/byt5", "--set", "model.decoder.layer=4"], "did you mean model.decoder.layers?"),
        (["show", "hnet/llamabyte", "--set", "steps=many"], "steps"),
        (["show", "hnet/llamabyte", "--set", "steps"], "--set takes FIELD=VALUE"),
        (["show", "hnet/llamabyte", "--set", "model.vocab_size=100"], "256 ids"),
        (["show", "hnet/llamabyte", "--set", "model.backbone.layout=Q4"], "Layer string 'Q4'"),
        (["show", "hnet/hnet_1stage", "--set", "model.backbone.chunker.target=1"], "more than one position on average, not 1.0"),
        (["show", "hnet/hnet_1stage", "--set", "model.backbone.capacity=(-1.0, 2.0)"], "capacity is above 0, not (-1.0, 2.0)"),
        (["show", "token_pooling/gumbel", "--set", "model.backbone.chunker.prior=0.0"], "lies between 0 and 1, not 0.0"),
        (["show", "magnet/magnet", "--set", "model.backbone.chunker.priors=(0.2,)"], "latin, cyrillic, devanagari, not 1"),
        (["show", "mrt5/mrt5_30", "--set", "model.encoder.before=9"], "behind 0 to 3 of 3 blocks, not 9"),
        (["show", "charformer/gbst", "--set", "model.encoder.front.downsample=0"], "No model can be built with model.encoder"),
        (["train", "hnet/llamabyte", "--set", "mesh.fsdp=7"], "does not divide"),
        (["train", "hnet/llamabyte", "--profile", "5:3"], "--profile takes steps as FIRST:END"),
        (["train", "hnet/llamabyte", "--profile", "1:999"], "--profile 1:999 is past the end: the run has 120 steps"),
        (["train", "hnet/llamabyte", "--set", "spikes.policy=wait"], "The policy for loss spikes is halt, skip or rollback"),
        (["compile", "hnet/llamabyte", "--table", "/dev/null"], "has no table of compiled arms"),
        (["inspect", "nowhere", "--step", "3"], "is not a run directory"),
        (["inspect", "nowhere", "a_file", "--step", "3"], "name no file beside it"),
        (["table", "hnet", "--seeds", "one"], "--seeds takes integers"),
        (["data", "hnet/llamabyte", "--corpus", "no_such_corpus"], "There is no corpus at "),
        (["data", "hnet/llamabyte", "--corpus", "/dev/null"], "The corpus is empty"),
        (["data", "charbench/bytes", "--corpus", "."], "text made for what is asked about it"),
        (["results", "hnet", "--scale", "mid"], "No results of hnet at scale mid"),
        (["sample", "nowhere"], "is not a run directory"),
        (["inspect", "nowhere"], "is not a run directory"),
        (["inspect", "nowhere", "no_such_file"], "Cannot read no_such_file"),
        (["sample", "nowhere", "--top-p", "0"], "--top-p in (0, 1]"),
        (["audit", "nowhere"], "is not a run directory"),
        (["audit", "nowhere", "--share", "2"], "--share between 0 and 1"),
    ],
)
def test_one_sentence_and_code_2(argv, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert sentence in err and err.startswith("lmlab: ") and err.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_torn_run_directory(capsys, tmp_path):
    (tmp_path / "run.json").write_text('{"class": ')
    code, _, err = run(capsys, "sample", str(tmp_path))
    assert code == 2 and "not valid JSON" in err
    (tmp_path / "run.json").write_text(json.dumps({"class": "os:system", "command": "true"}))
    code, _, err = run(capsys, "sample", str(tmp_path))
    assert code == 2 and "not lmlab's" in err


def test_list_and_show(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0 and "hnet/hnet_2stage" in out
    code, out, _ = run(capsys, "show", "hnet/hnet_1stage", "--scale", "paper")
    assert code == 0 and "679,405,312" in out and "inner/attention" in out
    code, out, _ = run(capsys, "show", "hnet", "--scale", "paper")
    assert code == 0 and "llamabyte: the paper's own layout" in out


@pytest.mark.parametrize("path", sorted((ROOT / "experiments" / "results").glob("*.json")), ids=lambda p: p.stem)
def test_committed_results_are_printed(path, capsys):
    name, scale = path.stem.rsplit("_", 1)
    code, out, _ = run(capsys, "results", name, "--scale", scale)
    assert code == 0 and "Measured by `lmlab table" in out
    assert ("Splits: train " in out) == bool(json.loads(path.read_text())["provenance"]["splits"])  # studies have none


REFUSED_AND_STOPPED = """
import os, resource, signal
from lmlab.cli import main
from lmlab.training import loop

def code(*argv):
    try:
        main(["train", "hnet/llamabyte", "--corpus", "text", *argv])
    except SystemExit as stop:
        return stop.code

def stop_first(*args, place=loop.place):
    os.kill(os.getpid(), signal.SIGTERM)
    return place(*args)

codes = [code("--processes", "2"), code("--distributed"), code("--device", "gpu")]
def fill_first(*args, place=loop.place):
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return place(*args)

loop.place = stop_first
codes.append(code("--device", "cpu", "--set", "batch_size=2"))
loop.place = fill_first  # each checkpoint holds more than this
print(*codes, code("--device", "cpu", "--set", "batch_size=2", "--set", "checkpoint_every=2", "--set", "log_every=2"))
"""


def test_what_is_missing_is_refused_and_a_stopped_run_and_a_full_disk_have_codes_of_their_own(tmp_path):
    from tests.training import tiny

    tiny.corpus(tmp_path)
    env = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    env |= {"PYTHONPATH": str(ROOT), "LMLAB_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", REFUSED_AND_STOPPED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    said = [line for line in done.stderr.splitlines() if line.startswith("lmlab: ")]
    assert done.stdout.splitlines()[-1] == "2 2 2 75 74", done.stdout + done.stderr
    assert len(said) == 5 and "go with --distributed" in said[0] and "did not find one another" in said[1]
    assert "The accelerator that was asked for is not there" in said[2]
    assert said[3] == "lmlab: Stopped at step 1; the same command resumes."
    assert "Cannot write the checkpoint of step 2" in said[4] and "File too large" in said[4]
    assert "Traceback" not in done.stderr


def test_help_of_the_installed_command():
    done = subprocess.run([sys.executable, "-m", "lmlab.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "inspect" in done.stdout


QUIET = """
from lmlab.commands.common import prepare
prepare()
import jax
print(jax.default_backend())
"""


@pytest.mark.skipif(not aot.available() or bool(glob.glob("/dev/accel*")), reason="needs libtpu and no TPU")
def test_libtpu_without_a_tpu_is_quiet():
    env = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS" and not k.startswith("TPU_")}
    env |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, env=env)
    assert (done.stdout, done.stderr) == ("cpu\n", "")


@pytest.mark.parametrize("found", ["/dev/accel0", "/dev/vfio/0", None])
def test_libtpu_is_told_nothing_where_a_tpu_may_be(found, monkeypatch):
    monkeypatch.setattr(common.glob, "glob", lambda pattern: [found] if found and fnmatch.fnmatch(found, pattern) else [])
    monkeypatch.setattr(os, "environ", {"TPU_WORKER_HOSTNAMES": "mine"})
    common._expect_no_tpu()
    assert os.environ["TPU_WORKER_HOSTNAMES"] == "mine"
    assert ("TPU_ACCELERATOR_TYPE" in os.environ) == (found is None)
