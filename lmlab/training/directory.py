"""A run directory: whose it is, what data it was trained on, by which commits, and that one process writes it."""

import contextlib
import fcntl
import json
import os
import subprocess
import time

from lmlab import config
from lmlab.errors import UserError

RUN, DATA, TOKENIZER, COMMITS, TOKEN = "run.json", "data.json", "tokenizer.json", "commits.txt", "token"
# Fields of a run that say where it is computed and what is kept of it, not what it is: another call may change them, as
# when it goes on with fewer devices, or after a batch that halted it.
CHANGEABLE = ("mesh", "remat", "keep_last", "keep_every", "spikes.policy", "spikes.patience")


def check(run, directory):
    """UserError if `directory` holds another run, or something that is none; True if it holds this one, which may differ
    in what is `CHANGEABLE`."""
    path = os.path.join(directory, RUN)
    if os.path.exists(path):
        if identity(_held(path)) != identity(config.to_json(run)):
            raise UserError(f"{directory} holds another run: choose another directory with --dir.")
        return True
    if os.path.lexists(directory) and not os.path.isdir(directory):
        raise UserError(f"{directory} is a file, not a run directory.")
    if os.path.isdir(directory) and not set(os.listdir(directory)) <= {RUN + ".new", "lock"}:
        raise UserError(f"{directory} is not empty and holds no run.")
    return False


@contextlib.contextmanager
def claimed(run, directory):
    """Make `directory` this run's, or check that it is, and keep other processes from writing it meanwhile.

    Writes run.json, run.txt (for people) and one line in commits.txt per commit that trained it.
    """
    check(run, directory)
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(directory, exist_ok=True)
            lock = stack.enter_context(open(os.path.join(directory, "lock"), "w", encoding="utf-8"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"Another process is training in {directory}.") from None
            path = os.path.join(directory, RUN)
            if not check(run, directory) or config.load_json(path) != config.to_json(run):
                write(path, json.dumps(config.to_json(run), indent=1))
            write(os.path.join(directory, "run.txt"), config.to_text(run) + "\n")
            now, before = commit(), commits(directory)
            if now not in before:
                write(os.path.join(directory, COMMITS), "\n".join([*before, now]) + "\n")
        except OSError as error:
            raise UserError(f"Cannot write the run directory {directory}: {error.strerror or error}.") from error
        yield


def withdraw(directory):
    """Take back what `claimed` has written, and the directory if nothing else is in it."""
    for name in (RUN, "run.txt", COMMITS, "lock"):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(directory, name))
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def pin(directory, baked):
    """Remember what the run reads, and its tokenizer; UserError if it has changed since the run began."""
    path = os.path.join(directory, DATA)
    if os.path.exists(path):
        return require_same(directory, baked)
    baked.tokenizer.save(os.path.join(directory, TOKENIZER))
    write(path, json.dumps({"identity": baked.identity, "splits": baked.manifest["splits"]}, indent=1))


def require_same(directory, baked):
    """UserError unless `baked` is what the run in `directory` reads."""
    if config.load_json(os.path.join(directory, DATA)).get("identity") != baked.identity:
        raise UserError(f"The corpus or its tokenizer has changed since {directory} was begun: train elsewhere.")


def mark(directory, token):
    """Leave a number in the claimed directory, by which `shared` knows it."""
    write(os.path.join(directory, TOKEN), str(token))


def shared(directory, token, patience=20):
    """UserError if this process does not see the very directory that the first one has marked with `token`, within
    `patience` seconds: a bucket that is mounted as a file system may remember for some that a file was not there."""
    path, until = os.path.join(directory, TOKEN), time.monotonic() + patience
    while not (os.path.exists(path) and open(path, encoding="utf-8").read() == str(token)):  # noqa: SIM115
        if time.monotonic() > until:
            raise UserError(f"{directory} is not on a file system that all processes share.")
        time.sleep(0.2)


def tokenizer_of(run, directory):
    """The tokenizer that the run in `directory` was trained with."""
    if not os.path.exists(os.path.join(directory, DATA)):
        raise UserError(f"{directory} holds no {DATA}: its training has not begun.")
    return run.tokenizer.load(os.path.join(directory, TOKENIZER))


def commits(directory):
    """Commits of the code that trained the run, oldest first."""
    path = os.path.join(directory, COMMITS)
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        return f.read().split()


def write(path, text):
    """A text file, whole or not at all."""
    with open(path + ".new", "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(path + ".new", path)


def _held(path):
    """run.json as this version of lmlab writes it: fields that came later are as by default."""
    data = config.load_json(path)
    try:
        return config.to_json(config.from_json(data))
    except (UserError, TypeError):  # it names classes that are not lmlab's, or are no longer
        return data


def identity(data):
    """A run's JSON without what is `CHANGEABLE` of it and of the runs that it comes after."""
    if isinstance(data, list):
        return [identity(value) for value in data]
    if not isinstance(data, dict):
        return data
    data = {name: identity(value) for name, value in data.items()}
    if str(data.get("class")).endswith(":Run"):
        for path in CHANGEABLE:
            parent, _, name = path.rpartition(".")
            (data.get(parent, {}) if parent else data).pop(name, None)
    return data


def commit():
    """Commit of the code that runs, "-dirty" if it has changes, or "unknown"."""
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        out = subprocess.run(
            ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return out.stdout.strip() or "unknown"
