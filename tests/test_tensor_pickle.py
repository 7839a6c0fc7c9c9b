"""Files that `torch.save` wrote, read without torch: what is a dictionary of tensors, and what is refused unread."""

import collections
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import ModuleError
from headstart.formats.containers.tensor_pickle import read_torch_zip

DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


def saved(path: Path, value: Any, **settings: Any) -> Path:
    torch.save(value, path, **settings)
    return path


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None], *, compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive at `path` with its entries, without the root's name, changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}
    change(entries)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return path


def program(path: Path, text: bytes) -> Path:
    """A sound archive around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", text)
        archive.writestr("archive/data/0", bytes(64))
    return path


# What is read


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    value = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)
    (read,) = read_torch_zip(saved(tmp_path / "t.bin", {"w": value})).values()
    expected = value.float() if dtype is torch.bfloat16 else value
    assert (read.name, read.shape) == ("w", (2, 3))
    assert np.array_equal(read.numpy(), expected.numpy())


def test_views_shares_and_odd_shapes(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(4, 6)
    values = {
        "whole": base, "again": base, "turned": base.t(), "column": base[:, 2], "part": base[1:3], "one": base[2, 3],
        "empty": torch.empty(0, 3), "scalar": torch.tensor(7.0), "parameter": torch.nn.Parameter(torch.ones(2)),
        "strided": base[::2, ::3], "unit": torch.arange(5.0).as_strided((1, 5), (99, 1)),
    }  # fmt: skip
    read = read_torch_zip(saved(tmp_path / "t.bin", values))
    assert list(read) == list(values)
    for name, value in values.items():
        assert np.array_equal(read[name].numpy(), value.detach().numpy()), name
        assert read[name].shape == tuple(value.shape)


def test_the_state_of_a_network_with_its_versions(tmp_path: Path) -> None:
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    assert isinstance(state, collections.OrderedDict)
    read = read_torch_zip(saved(tmp_path / "t.bin", state))
    assert {name: tensor.shape for name, tensor in read.items()} == {n: tuple(v.shape) for n, v in state.items()}


@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    order=st.randoms(use_true_random=False),
    step=st.integers(1, 3),
)
def test_any_view_is_what_torch_reads(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], order: Any, step: int
) -> None:
    dims = list(range(len(shape)))
    order.shuffle(dims)
    value = torch.randn([size * step for size in shape]).permute(dims)
    for dim in dims:
        value = value.narrow(dim, 0, value.shape[dim] // step)
    path = saved(tmp_path_factory.mktemp("any") / "t.bin", {"w": value})
    assert np.array_equal(read_torch_zip(path)["w"].numpy(), torch.load(path, weights_only=True)["w"].numpy())


# What is refused


class Trap:
    """Unpickled by anything that obeys, it calls `open` and leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_nothing_is_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = saved(tmp_path / "t.bin", {"w": torch.ones(2), "x": Trap(trap)})
    with pytest.raises(ModuleError, match=r"t\.bin asks for '_?io\.open', which no dictionary of tensors needs and"):
        read_torch_zip(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(2), "holds a tensor, not a dictionary of tensors"),
        ([torch.ones(2)], "holds the pickle instruction EMPTY_LIST"),
        ({"w": 3}, "holds a int under 'w', not a tensor"),
        ({"w": "text"}, "holds a str under 'w', not a tensor"),
        ({"w": {"v": torch.ones(2)}}, "holds a dict under 'w', not a tensor"),
        ({3: torch.ones(2)}, "holds a dictionary with a int as a key"),
        ({"w": torch.nn.Linear(2, 2)}, r"asks for 'torch\.nn\.modules\.linear\.Linear'"),
        ({"w": torch.ones(2).to_sparse()}, r"asks for 'torch\._utils\._rebuild_sparse_tensor'"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, r"asks for 'torch\.ComplexFloatStorage'"),
        ({"w": np.ones(2)}, "asks for 'numpy"),
        ({"w": 1.5}, "holds the pickle instruction BINFLOAT"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_other_contents_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(ModuleError, match=rf"{message}.*; save it again as safetensors$"):
        read_torch_zip(saved(tmp_path / "t.bin", value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"cos\nsystem\n(S'echo'\ntR.", r"asks for 'os\.system'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "instruction STACK_GLOBAL"),
        (b"(ios\nsystem\n.", "instruction INST"),
        (b"}}b.", "holds|not a"),
        (b"ccollections\nOrderedDict\n}b.", "its pickle is malformed"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "its pickle is malformed"),
        (b"ctorch\nFloatStorage\n)R.", "its pickle is malformed"),
        (b"ccollections\nOrderedDict\n.", r"holds the name 'collections\.OrderedDict', not a dictionary"),
        (b"}X\x01\x00\x00\x00aK\x01s.", "holds a int under 'a'"),
        (b"}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u.", "holds 'a' twice"),
        (b"h\x07.", "its pickle is malformed"),
        (b"R.", "its pickle is malformed"),
        (b"t.", "its pickle is malformed"),
        (b"}}.", "its pickle is malformed"),
        (b"K\x01Q.", "its pickle is malformed"),
        (b"}K\x01u.", "its pickle is malformed"),
        (b"}", "is not a sound file of tensors"),
        (b"", "is not a sound file of tensors"),
        (b"\xff\xfe", "is not a sound file of tensors"),
    ],
)
def test_programs_by_hand(tmp_path: Path, text: bytes, message: str) -> None:
    if text == b"}}b.":
        assert read_torch_zip(program(tmp_path / "t.bin", text)) == {}
        return
    with pytest.raises(ModuleError, match=message):
        read_torch_zip(program(tmp_path / "t.bin", text))


def test_a_program_that_would_hash_or_print_for_ever(tmp_path: Path) -> None:
    # t₀ = (), tₙ₊₁ = (tₙ, tₙ): 60 steps make a tuple of 2⁶⁰ leaves, cheap to hold and endless to hash or print.
    nested = b")" + b"2\x86" * 60
    doubled = b")q\x00" + b"".join(b"h%c\x86q%c" % (n, n + 1) for n in range(60))
    for text in (nested, b"}" + doubled[:-2] + b"K\x01s.", b"}X\x01\x00\x00\x00a" + doubled + b"s."):
        with pytest.raises(ModuleError, match=r"DUP|as a key|holds a tuple under 'a'|malformed"):
            read_torch_zip(program(tmp_path / "t.bin", text))


def described(offset: Any, shape: Any, strides: Any, *, count: int = 16, key: str = "0") -> bytes:
    """The pickle of one float tensor "w" with any numbers."""

    class Storage:
        pass

    class Rebuilt:
        def __reduce__(self) -> Any:
            return (torch._utils._rebuild_tensor_v2, (Storage(), offset, shape, strides, False, None))

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, key, "cpu", count) if isinstance(value, Storage) else None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump({"w": Rebuilt()})
    return stream.getvalue()


def test_the_handmade_description_is_sound(tmp_path: Path) -> None:
    assert read_torch_zip(program(tmp_path / "t.bin", described(2, (2, 3), (3, 1))))["w"].shape == (2, 3)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, (17,), (1,)), "lets tensor 'w' reach beyond its 16 stored values"),
        ((1, (16,), (1,)), "reach beyond"),
        ((0, (4, 4), (5, 1)), "reach beyond"),
        ((17, (0,), (1,)), "reach beyond"),
        ((0, (10**12,), (0,)), "reach beyond"),
        ((0, (2**200,), (1,)), "reach beyond"),
        ((-1, (2,), (1,)), "a shape, strides or offset that no tensor has"),
        ((0, (-2,), (1,)), "that no tensor has"),
        ((0, (2,), (-1,)), "that no tensor has"),
        ((0, (2, 2), (1,)), "that no tensor has"),
        ((0, (True,), (1,)), "that no tensor has"),
        ((0, ("2",), (1,)), "that no tensor has"),
        ((0, (1,) * 33, (1,) * 33), "that no tensor has"),
        ((0, ((2,),), (1,)), "that no tensor has"),
    ],
)
def test_tensors_outside_of_their_bytes(tmp_path: Path, numbers: Any, message: str) -> None:
    with pytest.raises(ModuleError, match=message):
        read_torch_zip(program(tmp_path / "t.bin", described(*numbers)))


@pytest.mark.parametrize(("count", "key"), [(15, "0"), (17, "0"), (-1, "0"), (16, "1"), (16, "../data/0")])
def test_storages_that_are_not_there(tmp_path: Path, count: int, key: str) -> None:
    with pytest.raises(ModuleError, match=rf"states {count} values of F32 for tensor 'w', but they are"):
        read_torch_zip(program(tmp_path / "t.bin", described(0, (2,), (1,), count=count, key=key)))


def test_sharing_has_an_end(tmp_path: Path) -> None:
    value = torch.zeros(1000, 10)
    with pytest.raises(ModuleError, match=r"holds tensors that would grow far beyond its \d+ bytes"):
        read_torch_zip(saved(tmp_path / "t.bin", {str(n): value for n in range(3000)}))
    with pytest.raises(ModuleError, match=r"holds tensors that would grow far beyond its \d+ bytes"):
        read_torch_zip(saved(tmp_path / "t.bin", {str(n): value.t() for n in range(8)}))
    assert len(read_torch_zip(saved(tmp_path / "t.bin", {str(n): value for n in range(100)}))) == 100


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    legacy = saved(tmp_path / "t.bin", {"w": torch.ones(2)}, _use_new_zipfile_serialization=False)
    with pytest.raises(ModuleError, match=r"is a bare pickle, as torch wrote before version 1\.6, and pickles can run"):
        read_torch_zip(legacy)
    (tmp_path / "p.bin").write_bytes(pickle.dumps({"w": 1}, protocol=4))
    with pytest.raises(ModuleError, match="is a bare pickle"):
        read_torch_zip(tmp_path / "p.bin")


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    for content in (b"", b"no zip", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ModuleError, match=r"t\.bin is not a sound file of tensors: .*; save it again"):
            read_torch_zip(path)
    with pytest.raises(ModuleError, match=r"cannot read .*: No such file or directory; check the path"):
        read_torch_zip(tmp_path / "nothing")
    whole = saved(path, {"w": torch.ones(200)}).read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(ModuleError):
            read_torch_zip(path)


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.bin", {"w": torch.full((50,), 3.0)})
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(3).tobytes() * 20)] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModuleError, match="Bad CRC-32"):
        read_torch_zip(path)


def test_archives_that_torch_does_not_write(tmp_path: Path) -> None:
    def fresh() -> Path:
        return saved(tmp_path / "t.bin", {"w": torch.zeros(4000)})

    bomb = rewritten(fresh(), lambda entries: None, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModuleError, match="holds a compressed or encrypted entry 'archive/"):
        read_torch_zip(bomb)
    big_endian = rewritten(fresh(), lambda entries: entries.update(byteorder=b"big"))
    with pytest.raises(ModuleError, match="was written on a big-endian machine"):
        read_torch_zip(big_endian)
    empty = rewritten(fresh(), lambda entries: entries.pop("data.pkl") and None)
    with pytest.raises(ModuleError, match=r"it has no data\.pkl"):
        read_torch_zip(empty)
    with zipfile.ZipFile(fresh(), "a") as archive:
        archive.writestr("../outside", b"")
    with pytest.raises(ModuleError, match=r"holds an entry '\.\./outside' outside of 't/'"):
        read_torch_zip(tmp_path / "t.bin")
    with zipfile.ZipFile(fresh(), "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("t/data/0", b"")
    with pytest.raises(ModuleError, match="holds two entries of one name"):
        read_torch_zip(tmp_path / "t.bin")


@given(data=st.data())
def test_any_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = saved(tmp_path_factory.mktemp("damage") / "t.bin", {"w": torch.ones(3), "v": torch.ones(2, 2).t()})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read = read_torch_zip(path)
    except ModuleError:
        return
    assert all(isinstance(name, str) and tensor.numpy() is not None for name, tensor in read.items())


@given(text=st.binary(max_size=60))
def test_any_program_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = program(tmp_path_factory.mktemp("any") / "t.bin", b"}(" + text)
    try:
        assert isinstance(read_torch_zip(path), dict)
    except ModuleError:
        return


def test_bytes_before_the_archive_are_refused(tmp_path: Path) -> None:
    # torch.load would take the file for a bare pickle, another reader for something else again.
    path = saved(tmp_path / "module.bin", {"w": torch.ones(2)})
    path.write_bytes(b"before" + path.read_bytes())
    with pytest.raises(ModuleError, match=r"holds bytes before its archive"):
        read_torch_zip(path)


def test_entries_that_hold_no_tensors_have_checksums_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "module.bin", {"w": torch.ones(2)})
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        number = archive.read("module/.data/serialization_id")
    path.write_bytes(content.replace(number, number[::-1], 1))
    with pytest.raises(ModuleError, match=r"Bad CRC-32 for file 'module/.data/serialization_id'"):
        read_torch_zip(path)


def test_an_entry_that_is_marked_as_a_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_adapter.bin"
    torch.save({"x": torch.arange(3.0)}, path)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"/byteorder"))
    content[entry + 38] |= 0x10  # of which torch itself makes something else every time
    path.write_bytes(content)
    with pytest.raises(ModuleError, match=r"marks its entry '.*/byteorder' as a folder, so that torch cannot read it"):
        read_torch_zip(path)
