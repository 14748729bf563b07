"""State dicts in torch's zip files (`torch.save` since 1.6), read and written without torch.

Such a file is an uncompressed zip: data.pkl holds a pickle of tensors that name their storages, data/0, data/1, ...
hold the storages' bytes. The pickle is read by an unpickler that admits a short list of names and calls nothing else,
and the storages are mapped, not read.
"""

import collections
import io
import os
import pickle
import struct
import sys
import zipfile
from typing import NamedTuple

import ml_dtypes
import numpy as np

from lmlab.errors import UserError

DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
STORAGES = {dtype: name for name, dtype in DTYPES.items()}

# Configuration objects that some training scripts leave beside the tensors: they are passed over, never built.
INERT = {
    *((f"omegaconf.{m}", n) for m, n in [("listconfig", "ListConfig"), ("dictconfig", "DictConfig")]),
    *(("omegaconf.base", n) for n in ("Metadata", "ContainerMetadata")),
    *(("omegaconf.nodes", f"{n}Node") for n in ("Any", "Boolean", "Bytes", "Float", "Integer", "Path", "String")),
    *(("builtins", n) for n in ("bool", "bytes", "dict", "float", "int", "list", "str", "tuple")),
    *(("__builtin__", n) for n in ("bool", "dict", "float", "int", "list", "long", "str", "tuple", "unicode")),
    ("collections", "defaultdict"),
    ("typing", "Any"),
}

ALIGNMENT = 64  # of a storage in the file, as torch.save has it
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # pickled magic number of torch.save before 1.6


def read(path):
    """{name: array} of a flat state dict. The arrays are read-only views of the mapped file, in the stored dtypes.

    UserError for a file that is missing, truncated, in another format, or whose pickle names anything but tensors.
    """
    try:
        raw = np.asarray(np.memmap(path, np.uint8, "r")) if os.path.getsize(path) else np.zeros(0, np.uint8)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    if raw[: len(LEGACY)].tobytes() == LEGACY:
        raise UserError(f"{path} is in torch's format from before 1.6: load it with torch and save it again.")
    if raw[:2].tobytes() != b"PK":
        raise UserError(f"{path} is not a file of torch.save: those are zip archives.")
    try:
        with zipfile.ZipFile(path) as archive:
            return _state_dict(path, raw, archive)
    except (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} is truncated or damaged: {_line(error)}.") from error


def _line(error):
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _state_dict(path, raw, archive):
    members = {info.filename: info for info in archive.infolist()}
    roots = [name[: -len("data.pkl")] for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise UserError(f"{path} is a zip archive, but not one of torch.save: it has no data.pkl.")
    if roots[0] + "constants.pkl" in members:
        raise UserError(f"{path} is a TorchScript archive, not a state dict.")

    def member(name):
        return _bytes(raw, archive, members[roots[0] + name])

    order = member("byteorder").tobytes().decode() if roots[0] + "byteorder" in members else "little"
    if order not in ("little", "big"):
        raise zipfile.BadZipFile(f"its byte order is {order!r}")
    state = _unpickle(path, member("data.pkl").tobytes())
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in dict.keys(state)):
        raise UserError(f"{path} does not hold a state dict.")
    arrays, storages = {}, {}
    for name, value in dict.items(state):
        if isinstance(value, _Inert):
            continue
        if not isinstance(value, _Tensor) or not isinstance(value.storage, _Storage):
            raise UserError(f"{path} does not hold a flat state dict: its entry {name!r} is no tensor.")
        if value.storage not in storages:
            storages[value.storage] = _storage(value.storage, member, order)
        arrays[name] = _array(name, value, storages[value.storage])
    return arrays


def _bytes(raw, archive, info):
    """The content of a member: a view of the file, if it is stored without compression."""
    if info.compress_type != zipfile.ZIP_STORED:
        return np.frombuffer(archive.read(info), np.uint8)
    head = raw[info.header_offset : info.header_offset + 30].tobytes()
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"{info.filename} is not where the archive says")
    begin = info.header_offset + 30 + sum(struct.unpack("<26x2H", head))
    data = raw[begin : begin + info.file_size]
    if data.size != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} is cut off")
    return data


class _Inert:
    """Stands for an object that is never built: takes whatever the pickle feeds it, and keeps nothing."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass


class _Storage(NamedTuple):
    kind: str
    key: str
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple


class _Unpickler(pickle.Unpickler):
    """Builds dicts, tuples, numbers, strings and descriptions of tensors; whatever else is named is refused.

    What a pickle can reach it can also call or set attributes on, so it reaches no array and no shared function.
    """

    def __init__(self, file, path):
        super().__init__(file)
        self._path = path

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *args: _described(*args)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, requires_grad, hooks: data
        if module == "torch" and name in DTYPES:
            return name
        if (module, name) in INERT:
            return type(name, (_Inert,), {})
        named = ascii(f"{module}.{name}")[1:-1]
        raise UserError(f"{self._path} is refused: its pickle names {named}, which no state dict needs.")

    def persistent_load(self, pid):
        what, kind, key, _, size = pid
        if what != "storage" or kind not in DTYPES or type(key) is not str or type(size) is not int:
            raise pickle.UnpicklingError(f"{pid!r} is no storage")
        return _Storage(kind, key, size)


def _unpickle(path, data):
    try:
        return _Unpickler(io.BytesIO(data), path).load()
    except UserError:
        raise
    except Exception as error:  # a damaged or hostile pickle can make the unpickler raise anything
        raise zipfile.BadZipFile(f"its pickle does not read ({_line(error)})") from error


def _described(storage, offset, shape, strides, requires_grad, hooks, metadata=None):
    numbers = (offset, *shape, *strides)
    if not all(type(n) is int and n >= 0 for n in numbers) or len(shape) != len(strides) or metadata:
        raise pickle.UnpicklingError(f"no tensor has shape {shape} and strides {strides} at {offset}")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _storage(storage, member, order):
    dtype, data = DTYPES[storage.kind], member(f"data/{storage.key}")
    if data.size != storage.size * dtype.itemsize:
        raise zipfile.BadZipFile(f"storage {storage.key} has {data.size} bytes, not {storage.size * dtype.itemsize}")
    if order != sys.byteorder:
        data = data.view(f"u{dtype.itemsize}").byteswap()
    return data.view(dtype)


def _array(name, tensor, storage):
    """A view of `storage`, which it must lie in: offset and strides come from the file."""
    _, offset, shape, strides = tensor
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    if offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) >= storage.size:
        raise zipfile.BadZipFile(f"{name} reaches past the end of its storage")
    item = storage.dtype.itemsize
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, [s * item for s in strides], writeable=False)


def write(path, arrays):
    """Write {name: array} as a state dict that `torch.load` reads, `weights_only=True` included.

    TypeError for a dtype that has no torch storage.
    """
    with open(path, "wb") as f, zipfile.ZipFile(f, "w") as archive:

        def put(name, data):
            info = zipfile.ZipInfo(f"archive/{name}")
            info.file_size = len(data)
            pad = -(f.tell() + 30 + len(info.filename) + 4) % ALIGNMENT
            info.extra = struct.pack("<2sH", b"FB", pad) + b"Z" * pad
            with archive.open(info, "w") as member:
                member.write(data)

        put("data.pkl", _pickle(arrays))
        put("byteorder", sys.byteorder.encode())
        for i, array in enumerate(arrays.values()):
            put(f"data/{i}", np.asarray(array, order="C").reshape(-1).view(np.uint8))
        put("version", b"3\n")


def _pickle(arrays):
    """data.pkl of a state dict, in the opcodes that torch's own unpickler of weights knows."""
    out = [b"\x80\x02ccollections\nOrderedDict\n)R("]
    for i, (name, array) in enumerate(arrays.items()):
        if array.dtype not in STORAGES:
            raise TypeError(f"{name} has dtype {array.dtype}, for which torch has no storage.")
        out += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(("]
        out += [_text("storage"), f"ctorch\n{STORAGES[array.dtype]}\n".encode(), _text(str(i)), _text("cpu")]
        out += [_integer(array.size), b"tQ", _integer(0)]
        strides = [int(np.prod(array.shape[d + 1 :], dtype=np.int64)) for d in range(array.ndim)]
        for numbers in (array.shape, strides):
            out += [b"(", *map(_integer, numbers), b"t"]
        out.append(b"\x89ccollections\nOrderedDict\n)RtR")
    return b"".join([*out, b"u."])


def _text(text):
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(n):
    if n < 2**31:
        return b"J" + struct.pack("<i", n)
    return b"\x8a" + bytes([8]) + struct.pack("<q", n)
