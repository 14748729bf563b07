"""A folder with a fake `gcloud`, and the scripts called with it on the PATH."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted(p.name for p in (ROOT / "tpu").glob("*.sh") if p.name not in ("common.sh", "worker.sh"))
SETTINGS = {
    "NAME": "lab",
    "PROJECT": "a-project",
    "ZONE": "a-zone",
    "TYPE": "v5p-32",
    "RUNTIME": "v2-alpha-tpuv5",
    "REPOSITORY": "https://example.com/lab.git",
    "COMMIT": "abc1234",
    "EVERY": "0",
}


def bash_is_new():
    """The scripts need bash 5."""
    if shutil.which("bash") is None:
        return False
    return int(subprocess.check_output(["bash", "-c", "echo ${BASH_VERSINFO[0]}"])) >= 5


needs_bash = pytest.mark.skipif(not bash_is_new(), reason="the scripts need bash 5 or newer")


class Cloud:
    """What the fake gcloud answers, and what it was asked."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir()
        shutil.copy(pathlib.Path(__file__).parent / "fake_gcloud", folder / "bin" / "gcloud")
        self.answers(states=["READY"], statuses=["running"])

    def answers(self, states=None, statuses=None):
        """Answers in the order of the calls; the last one for ever. A state may be several words: of several nodes."""
        for name, lines in (("states", states), ("statuses", statuses)):
            if lines is not None:
                (self.folder / name).write_text("".join(line + "\n" for line in lines))

    def fail(self, status, pattern):
        """Calls whose words match the shell pattern end with `status`."""
        (self.folder / "fail").write_text(f"{status} {pattern}\n")

    def calls(self):
        """Every call since the last time, as lists of words."""
        path = self.folder / "calls"
        if not path.exists():
            return []
        text = path.read_text()
        path.unlink()
        return [call.split("\0") for call in text.split("\0\1\0")[:-1]]

    def environment(self, settings=SETTINGS):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LMLAB_TPU_")}
        return kept | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "FAKE": str(self.folder),
            **{f"LMLAB_TPU_{name}": value for name, value in settings.items()},
        }

    def run(self, script, *arguments, settings=SETTINGS):
        """A finished call of tpu/SCRIPT, in the folder, with `settings` in the environment."""
        return self._run([str(ROOT / "tpu" / script), *arguments], settings)

    def paste(self, text):
        """A finished shell that read `text`."""
        return self._run(["bash", "-euc", text], {})

    def _run(self, command, settings):
        return subprocess.run(
            command, env=self.environment(settings), cwd=self.folder, capture_output=True, text=True, timeout=60
        )
