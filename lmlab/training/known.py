"""Finished runs that others come after: what the arms of a table have in common is trained once and then copied."""

import dataclasses
import json
import os
import shutil

from lmlab import config
from lmlab.errors import Interrupted
from lmlab.training import checkpoints
from lmlab.training.directory import RUN, identity, write


class Known:
    """Finished runs by what they are."""

    def __init__(self):
        self._where = {}

    def copy(self, run, directory):
        """Put those that `run` in `directory` comes after, where they are known, to where it would train them.

        Interrupted where they cannot be written.
        """
        for other, where in run.precursors(os.fspath(directory).rstrip("/")).values():
            found = self._where.get(_key(other))
            if found is None:
                self.copy(other, where)
            elif not os.path.lexists(where):
                _copy(found, where, other)

    def add(self, run, directory):
        """Remember `run` in `directory`, as far as that is finished, and what it came after."""
        for other, where in run.precursors(os.fspath(directory).rstrip("/")).values():
            self.add(other, where)
        steps = getattr(run, "steps", None)  # a study has none
        if steps is not None and checkpoints.newest_whole(checkpoints.folder(directory))[0] == steps:
            self._where.setdefault(_key(run), directory)


def _copy(source, directory, run):
    """Whole, or not at all; as `run`, which may be evaluated otherwise."""
    new = directory + ".new"
    try:
        shutil.rmtree(new, ignore_errors=True)  # of a call that was killed
        shutil.copytree(source, new, ignore=shutil.ignore_patterns("lock", "result.json", "profile"))
        write(os.path.join(new, RUN), json.dumps(config.to_json(run), indent=1))
        os.rename(new, directory)
    except OSError as error:  # shutil's own holds one for each file
        shutil.rmtree(new, ignore_errors=True)
        raise Interrupted(f"Cannot copy the finished run in {source} to {directory}: {error.strerror or error}.") from error


def _key(run):
    """All that its parameters depend on: how it is evaluated at its end is none of that."""
    return json.dumps(identity(config.to_json(dataclasses.replace(run, evaluators=()))))
