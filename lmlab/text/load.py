"""Reading a saved tokenizer back, whichever it is."""

import json
import pathlib

from lmlab.errors import UserError
from lmlab.text.bpe import BPETokenizer
from lmlab.text.bytes import ByteTokenizer


def load_tokenizer(path: str | pathlib.Path) -> ByteTokenizer | BPETokenizer:
    """The tokenizer that `save(path)` wrote.

    Raises:
        UserError: the file is missing or is not a tokenizer that round-trips bytes.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable tokenizer file ({error}).") from error
    if content == {"lmlab": "bytes"}:
        return ByteTokenizer()
    return BPETokenizer.load(path)
