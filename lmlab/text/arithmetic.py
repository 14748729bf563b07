"""Plain arithmetic coding of a whole text by a model of the next byte: what equal-info windows are measured against.

The range coder is that of the library constriction (`pip install lmlab[arithmetic]`). It ends on words of 32 bits, which
a long text does not feel and a window of a few bits would: those have a coder of their own (`lmlab.text.equal_info`).
"""

from collections.abc import Callable, Sequence

import numpy as np

from lmlab.errors import UserError


def _library():
    try:
        import constriction
    except ImportError as error:
        raise UserError("Arithmetic coding needs the library constriction: pip install lmlab[arithmetic].") from error
    return constriction.stream


def _model(stream, next_bytes, context):
    return stream.model.Categorical(next_bytes([context])[0], perfect=False)


def compress(data: bytes, next_bytes: Callable[[Sequence[bytes]], np.ndarray], context: int = 8) -> np.ndarray:
    """The code of a text, uint32. `next_bytes`: strings -> probabilities [n, 256]; the last `context` bytes are shown."""
    stream = _library()
    encoder = stream.queue.RangeEncoder()
    for at, byte in enumerate(data):
        encoder.encode(byte, _model(stream, next_bytes, data[max(0, at - context) : at]))
    return encoder.get_compressed()


def decompress(
    code: np.ndarray, length: int, next_bytes: Callable[[Sequence[bytes]], np.ndarray], context: int = 8
) -> bytes:
    """The `length` bytes that `compress` coded by the same model on the same machine."""
    stream = _library()
    decoder, data = stream.queue.RangeDecoder(np.asarray(code, np.uint32)), bytearray()
    for _ in range(length):
        data.append(int(decoder.decode(_model(stream, next_bytes, bytes(data[max(0, len(data) - context) :])))))
    return bytes(data)
