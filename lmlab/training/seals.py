"""Checksums over the files of a folder, written last: what has no seal is unfinished, what differs from it damaged."""

import hashlib
import json
import os

from lmlab.errors import Interrupted

SEAL, UNFINISHED = "sha256.json", "is unfinished"


def seal(folder):
    """Write the seal of all files below `folder`."""
    path = os.path.join(folder, SEAL)
    with open(path + ".new", "w", encoding="utf-8") as f:
        json.dump({name: [os.path.getsize(p), _sha256(p)] for name, p in _files(folder)}, f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".new", path)


def flaw(folder):
    """What is wrong with a sealed folder, as `UNFINISHED` or "is damaged: ...", or None. Reads every byte; `Interrupted`
    where it cannot, which says nothing about what is written there."""
    path = os.path.join(folder, SEAL)
    if not os.path.exists(path):
        return UNFINISHED
    try:
        with open(path, encoding="utf-8") as f:
            sealed = {name: (size, digest) for name, (size, digest) in json.load(f).items()}
        found = dict(_files(folder))
        if missing := sorted(set(sealed) - set(found)):
            return f"is damaged: {missing[0]} is missing"
        for name, (size, digest) in sealed.items():
            if os.path.getsize(found[name]) != size:
                return f"is damaged: {name} has {os.path.getsize(found[name])} bytes instead of {size}"
            if _sha256(found[name]) != digest:
                return f"is damaged: {name} has changed"
    except (ValueError, TypeError, AttributeError):
        return f"is damaged: {SEAL} has changed"
    except OSError as error:
        raise Interrupted(
            f"The checkpoint in {folder} cannot be read: {error.strerror or error}. Where that lasts, move it away: then an "
            "earlier one is used."
        ) from error
    return None


def _files(folder):
    """(name below `folder`, path) of every file but the seal, in order."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            if os.path.relpath(path, folder) not in (SEAL, SEAL + ".new"):
                yield os.path.relpath(path, folder), path


def _sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
