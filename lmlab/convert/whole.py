"""Files that are written whole or not at all."""

import os

from lmlab.errors import UserError


def write(path, call):
    """`call(name)` with a name beside `path`, then rename: whole or not at all."""
    new = path + ".new"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        try:
            call(new)
            os.replace(new, path)
        except BaseException:
            if os.path.exists(new):
                os.remove(new)
            raise
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error
