"""State dicts in torch's files: what torch wrote reads equal; what is damaged or hostile is refused."""

import io
import os
import pathlib
import pickle
import random
import zipfile

import ml_dtypes
import numpy as np
import pytest

from lmlab.convert import torch_file
from lmlab.errors import UserError

# Written by torch.save of torch 2.13, with an omegaconf ListConfig among the tensors: a Linear's bfloat16 state dict
# (with _metadata), views of one storage, a Parameter, every kind of number.
OF_TORCH = pathlib.Path(__file__).with_name("torch.pt")
BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
EXPECTED = {
    "weight": (np.arange(6).reshape(2, 3) / 4).astype(ml_dtypes.bfloat16),
    "bias": np.array([-1.0, 1e9], ml_dtypes.bfloat16),
    "base": BASE,
    "transposed": BASE.T,
    "strided": BASE[1:3, ::2],
    "expanded": np.full(4, 5, np.float32),
    "parameter": np.ones(2, np.float16),
    "double": np.array([1e-300]),
    "scalar": np.array(7),
    "int32": np.array([-(2**31)], np.int32),
    "int8": np.array([-3, 4], np.int8),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


def assert_equal(got, expected):
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape, name
        np.testing.assert_array_equal(got[name], array)


def repacked(path, members):
    """The file of torch with some members replaced, added, or (None) left out."""
    with zipfile.ZipFile(OF_TORCH) as old, zipfile.ZipFile(path, "w") as new:
        root = old.namelist()[0].split("/")[0]
        content = {n.split("/", 1)[1]: old.read(n) for n in old.namelist()} | members
        for name, data in content.items():
            if data is not None:
                new.writestr(f"{root}/{name}", data)
    return path


def test_what_torch_wrote_reads_equal():
    arrays = torch_file.read(OF_TORCH)
    assert_equal(arrays, EXPECTED)
    assert np.shares_memory(arrays["transposed"], arrays["base"])  # one storage, not copied
    assert not arrays["base"].flags.writeable and not arrays["weight"].flags.owndata


def test_round_trip(tmp_path):
    torch_file.write(tmp_path / "a.pt", EXPECTED)
    assert_equal(torch_file.read(tmp_path / "a.pt"), EXPECTED)
    torch_file.write(tmp_path / "none.pt", {})
    assert torch_file.read(tmp_path / "none.pt") == {}
    with pytest.raises(TypeError, match="complex64"):
        torch_file.write(tmp_path / "b.pt", {"c": np.zeros(2, np.complex64)})


def test_torch_reads_what_was_written(tmp_path):
    torch = pytest.importorskip("torch")
    torch_file.write(tmp_path / "a.pt", EXPECTED)
    for mmap in (False, True):
        state = torch.load(tmp_path / "a.pt", weights_only=True, mmap=mmap)
        assert list(state) == list(EXPECTED)
        for name, tensor in state.items():
            bits = EXPECTED[name].dtype == ml_dtypes.bfloat16
            array = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if bits else tensor.numpy()
            assert array.dtype == EXPECTED[name].dtype
            np.testing.assert_array_equal(array, EXPECTED[name])


def test_what_this_torch_writes_reads_equal(tmp_path):
    torch = pytest.importorskip("torch")
    x = torch.arange(12.0).reshape(3, 4).to(torch.bfloat16)
    torch.save({"x": x, "xt": x.T, "y": x[1:, 1:3].float()}, tmp_path / "a.pt")
    expected = np.arange(12.0).reshape(3, 4).astype(ml_dtypes.bfloat16)
    expected = {"x": expected, "xt": expected.T, "y": expected[1:, 1:3].astype(np.float32)}
    assert_equal(torch_file.read(tmp_path / "a.pt"), expected)


def test_big_endian_and_compressed_members(tmp_path):
    swapped = {f"data/{i}": data for i, data in enumerate(swapped_storages())}
    path = repacked(tmp_path / "big.pt", {"byteorder": b"big"} | swapped)
    assert_equal(torch_file.read(path), EXPECTED)
    with zipfile.ZipFile(OF_TORCH) as old, zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert_equal(torch_file.read(tmp_path / "z.pt"), EXPECTED)
    no_marker = repacked(tmp_path / "old.pt", {"byteorder": None})  # before torch 2.0
    assert_equal(torch_file.read(no_marker), EXPECTED)


def swapped_storages():
    """Bytes of the storages of the file in order of their keys, each number's bytes reversed."""
    sizes = [e.dtype.itemsize for n, e in EXPECTED.items() if n not in ("transposed", "strided")]
    with zipfile.ZipFile(OF_TORCH) as f:
        root = f.namelist()[0].split("/")[0]
        for i, size in enumerate(sizes):
            data = np.frombuffer(f.read(f"{root}/data/{i}"), np.uint8)
            yield data.reshape(-1, size)[:, ::-1].tobytes()


def test_truncated_at_any_length(tmp_path):
    whole = OF_TORCH.read_bytes()
    path = tmp_path / "cut.pt"
    for length in [*range(0, len(whole), 61), len(whole) - 22, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="truncated or damaged|not a file of torch.save") as e:
            torch_file.read(path)
        assert "\n" not in str(e.value)


def test_damage_never_ends_in_a_traceback(tmp_path):
    whole, path, random_ = OF_TORCH.read_bytes(), tmp_path / "damaged.pt", random.Random(0)
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(random_.randint(1, 4)):
            data[random_.randrange(len(data))] = random_.randrange(256)
        path.write_bytes(data)
        try:
            assert isinstance(torch_file.read(path), dict)
        except UserError as error:
            refused += "\n" not in str(error)
    assert refused > 100


class Evil:
    def __init__(self, call, *args):
        self.call = call, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "name, payload",
    [
        ("posix.system", lambda mark: pickle.dumps({"w": Evil(os.system, f"touch {mark}")})),
        (f"{open.__module__}.open", lambda mark: pickle.dumps({"w": Evil(open, str(mark), "w")})),
        ("builtins.getattr", lambda mark: pickle.dumps({"w": Evil(getattr, 1, "real")})),
        ("builtins.eval", lambda mark: pickle.dumps({"w": Evil(eval, f"open({str(mark)!r}, 'w')")})),
        ("os.system", lambda mark: b"cos\nsystem\n(X\x04\x00\x00\x00truetR."),
        ("torch.load", lambda mark: b"ctorch\nload\n."),
        ("omegaconf.OmegaConf", lambda mark: b"comegaconf\nOmegaConf\n."),
        ("torch._utils._rebuild_tensor_v3", lambda mark: b"ctorch._utils\n_rebuild_tensor_v3\n."),
    ],
)
def test_hostile_pickles_are_refused_by_name_and_not_run(name, payload, tmp_path):
    mark = tmp_path / "mark"
    path = repacked(tmp_path / "evil.pt", {"data.pkl": payload(mark)})
    with pytest.raises(UserError) as e:
        torch_file.read(path)
    assert f"names {name}, which no state dict needs" in str(e.value)
    assert not mark.exists()


def tensor(offset, shape, strides, size=24, kind="FloatStorage", key="2"):
    """data.pkl of {"w": a tensor over the storage of "base"}."""
    out = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value[1:] if isinstance(value, tuple) and value[:1] == ("persistent",) else None

    storage = ("persistent", "storage", kind, key, "cpu", size)
    Pickler(out, 2).dump({"w": (storage, offset, shape, strides, False, None)})
    # The pair of the tuple and the value becomes the pair of the call and its result.
    key, arguments = out.getvalue().split(b"w", 1)
    return key + b"wctorch._utils\n_rebuild_tensor_v2\n" + arguments.removesuffix(b"s.") + b"Rs."


def test_tensors_stay_inside_their_storage(tmp_path):
    def read(data):
        return torch_file.read(repacked(tmp_path / "a.pt", {"data.pkl": data}))["w"]

    np.testing.assert_array_equal(read(tensor(2, (2, 3), (6, 1))), BASE[:2, 2:5])
    np.testing.assert_array_equal(read(tensor(23, (1,), (99,))), [23])
    for bad in [
        tensor(24, (1,), (1,)),
        tensor(0, (25,), (1,)),
        tensor(1, (4, 6), (6, 1)),
        tensor(-1, (2,), (1,)),
        tensor(23, (2,), (-1,)),
        tensor(0, (2,), (1, 1)),
        tensor(0, (2.0,), (1,)),
        tensor(0, (2,), (1,), size=25),
        tensor(0, (2,), (1,), size="24"),
        tensor(0, (2,), (1,), key="99"),
        tensor(0, (2,), (1,), key="../data.pkl"),
        tensor(0, (2,), (1,), kind="QInt8Storage"),
        tensor(0, (2**40,), (2**40,)),
    ]:
        with pytest.raises(UserError, match="truncated or damaged"):
            read(bad)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}",
        b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x05sb.",  # an instance that hides its methods
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__code__K\x05sb.",
        b"ccollections\nOrderedDict\n}X\x05\x00\x00\x00itemsK\x05sb.",
        pickle.dumps([1]),
        pickle.dumps({1: 2}),
        pickle.dumps({"step": 3}),
        pickle.dumps({"state_dict": {}}),
        b"(" * 5000 + b"l" * 5000 + b".",
    ],
)
def test_pickles_of_something_else(data, tmp_path):
    path = repacked(tmp_path / "a.pt", {"data.pkl": data})
    try:
        assert torch_file.read(path) == {}
    except UserError as error:
        assert "truncated or damaged" in str(error) or "does not hold a" in str(error)


def test_files_of_other_formats(tmp_path):
    def sentence(name, data):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError) as e:
            torch_file.read(tmp_path / name)
        return str(e.value)

    assert "not a file of torch.save" in sentence("text.pt", b"hello\n")
    assert "format from before 1.6" in sentence("legacy.pt", torch_file.LEGACY + b"\x80\x02M\xe9\x03.")
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(2))
    assert "has no data.pkl" in sentence("numpy.pt", buffer.getvalue())
    script = repacked(tmp_path / "script.pt", {"constants.pkl": b"\x80\x02)."})
    assert "TorchScript" in sentence("script.pt", script.read_bytes())
    for path, reason in [("none.pt", "No such file"), ("", "Is a directory")]:
        with pytest.raises(UserError, match=reason):
            torch_file.read(tmp_path / path)
