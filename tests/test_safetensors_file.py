import hashlib
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handmade import pack, tensor_file
from headstart.errors import ModuleError
from headstart.formats.containers.safetensors_file import check_finite, read_safetensors, tensor_hash


def entry(dtype: str, shape: list[Any], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


def test_reads_hand_built_bytes(path: Path) -> None:
    # little-endian float32 1.0 is 00 00 80 3f; two of them, then one int8
    path.write_bytes(
        tensor_file({"x": entry("F32", [2], 0, 8), "y": entry("I8", [1, 1], 8, 9)}, b"\0\0\x80\x3f" * 2 + b"\xff")
    )
    tensors = read_safetensors(path)
    assert tensors["x"].numpy().tolist() == [1.0, 1.0]
    assert tensors["y"].numpy().tolist() == [[-1]]
    assert (tensors["y"].dtype, tensors["y"].shape) == ("I8", (1, 1))
    assert not tensors["x"].data.readonly


def test_tensors_come_in_the_order_of_their_names(path: Path) -> None:
    """The library's own order is another one in every process."""
    names = [f"h.{number}" for number in (3, 0, 9, 1, 7, 2, 8, 4, 6, 5)]
    entries = {name: entry("I8", [1], start, start + 1) for start, name in enumerate(names)}
    path.write_bytes(tensor_file(entries, bytes(len(names))))
    assert list(read_safetensors(path)) == sorted(names)


def test_bfloat16_is_the_upper_half_of_float32(path: Path) -> None:
    # 0x3fc0 followed by 16 zero bits is float32 1.5; 0xc000 is -2
    path.write_bytes(pack({"x": np.array([0x3FC0, 0xC000], dtype=np.uint16)}))
    values = read_safetensors(path)["x"].numpy()
    assert values.dtype == np.float32
    assert values.tolist() == [1.5, -2.0]


def test_reads_what_the_safetensors_library_writes(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.bool, torch.uint8]
    stored = {f"t{i}": (torch.randn(3, i) * 5).to(dtype) for i, dtype in enumerate(dtypes)} | {"s": torch.tensor(1.0)}
    save_file(stored, path, metadata={"format": "pt"})
    read = read_safetensors(path)
    assert read.keys() == stored.keys()
    for name, tensor in stored.items():
        expected = tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
        np.testing.assert_array_equal(read[name].numpy(), expected, strict=True)
        if tensor.numel():
            shared = torch.frombuffer(read[name].data, dtype=tensor.dtype).reshape(tensor.shape)
            assert torch.equal(shared, tensor)


F32 = entry("F32", [1], 0, 4)
BROKEN = {
    "header of 1 bytes is cut short or absurd": b"\x01\0\0",
    "header of 18446744073709551615 bytes is cut short or absurd": b"\xff" * 8,
    "header of 50 bytes is cut short or absurd": struct.pack("<Q", 50) + b"{}",
    "header is not valid JSON": tensor_file(b"{'x'", b""),
    "not valid JSON .'utf-8'": tensor_file(b"\xff\xfe", b""),
    "nested too deeply": tensor_file(b"[" * 100_000, b""),
    "not a JSON object": tensor_file([], b""),
    "key 'x' appears twice": tensor_file(b'{"x": 1, "x": 2}', b""),
    r"tensor 'x' has shape None": tensor_file({"x": {"dtype": "F32"}}, b""),
    "header tells of .* bytes and it has .*": tensor_file({"x": F32}, b"\0\0"),
    "invalid offset for tensor `y`": tensor_file({"x": F32, "y": entry("F32", [1], 2, 6)}, b"\0" * 6),
    "invalid offset for tensor `[xz]`": tensor_file({"x": F32, "z": F32}, b"\0" * 4),
    "invalid offset for tensor `x`": tensor_file({"x": entry("F32", [1], 4, 8)}, b"\0" * 8),
    "header tells of .* bytes and it has": tensor_file({"x": F32}, b"\0" * 7),
    "needs 8 bytes but is given 4": tensor_file({"x": entry("F32", [2], 0, 4)}, b"\0" * 4),
    r"has shape \[-1\]": tensor_file({"x": entry("F32", [-1], 0, 4)}, b"\0" * 4),
    r"has shape \[True\]": tensor_file({"x": entry("F32", [True], 0, 4)}, b"\0" * 4),
    r"has shape \[1.0\]": tensor_file({"x": entry("F32", [1.0], 0, 4)}, b"\0" * 4),
    r"has shape \[1, 1": tensor_file({"x": entry("F32", [1] * 40, 0, 4)}, b"\0" * 4),
    "needs 4000000000000000000000000000000 bytes": tensor_file({"x": entry("F32", [10**15] * 2, 0, 4)}, b"\0" * 4),
    "needs 4 bytes but is given -4": tensor_file({"x": entry("F32", [1], 4, 0)}, b"\0" * 4),
    r"data_offsets \[-4, 0\]": tensor_file({"x": entry("F32", [1], -4, 0)}, b"\0" * 4),
}


@pytest.mark.parametrize("fact", BROKEN)
def test_refuses_a_broken_file(path: Path, fact: str) -> None:
    path.write_bytes(BROKEN[fact])
    with pytest.raises(ModuleError, match=rf"a\.safetensors is not a sound .*{fact}.*download or copy it again"):
        read_safetensors(path)


def test_refuses_an_unknown_dtype_and_a_missing_file(path: Path) -> None:
    path.write_bytes(tensor_file({"x": entry("F8_E4M3", [1], 0, 1)}, b"\0"))
    with pytest.raises(ModuleError, match=r"tensor 'x' has dtype 'F8_E4M3'.*save it again as one of: BOOL, U8"):
        read_safetensors(path)
    path.unlink()
    with pytest.raises(ModuleError, match=r"cannot read .*a\.safetensors: No such file"):
        read_safetensors(path)


@given(st.data())
def test_no_change_of_a_byte_escapes_as_another_exception(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    sound = pack({"x": np.ones((2, 3), np.float32), "y": np.ones(2, np.float16)})
    content = bytearray(sound)
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(content)
    try:
        tensors = read_safetensors(path)
    except ModuleError:
        return
    assert sum(tensor.data.nbytes for tensor in tensors.values()) <= len(content)
    for tensor in tensors.values():
        tensor.numpy()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_check_finite_names_the_tensor(path: Path, dtype: type, value: float) -> None:
    largest = np.array([np.finfo(dtype).max, np.finfo(dtype).min, np.finfo(dtype).tiny, 0], dtype=dtype)
    path.write_bytes(pack({"fine": largest, "bad": np.array([0, 1, value], dtype=dtype)}))
    tensors = read_safetensors(path)
    check_finite({"fine": tensors["fine"]})
    with pytest.raises(ModuleError, match=r"^tensor 'bad' holds NaN or infinite values"):
        check_finite(tensors)


@pytest.mark.parametrize(("bits", "finite"), [(0x7F80, False), (0xFF80, False), (0x7FC0, False), (0x7F7F, True)])
def test_check_finite_knows_bfloat16(path: Path, bits: int, finite: bool) -> None:
    path.write_bytes(pack({"x": np.array([bits], dtype=np.uint16), "empty": np.zeros((0, 2), np.float32)}))
    tensors = read_safetensors(path)
    if finite:
        check_finite(tensors)
    else:
        with pytest.raises(ModuleError, match="tensor 'x'"):
            check_finite(tensors)


def test_tensor_hash_is_sha256_over_names_dtypes_shapes_and_bytes(path: Path) -> None:
    path.write_bytes(pack({"b": np.zeros(1, np.int8), "a": np.ones((1, 1), np.float16)}))
    expected = hashlib.sha256(b'["a", "F16", [1, 1]]\n\x00\x3c["b", "I8", [1]]\n\x00').hexdigest()
    assert tensor_hash(read_safetensors(path)) == expected


def test_tensor_hash_sees_every_change_but_not_the_order(path: Path) -> None:
    def hashed(**tensors: np.ndarray) -> str:
        path.write_bytes(pack(tensors))
        return tensor_hash(read_safetensors(path))

    a, b = np.arange(4, dtype=np.float32), np.ones(2, np.float16)
    base = hashed(a=a, b=b)
    assert hashed(b=b, a=a) == base
    bits = b.view(np.uint16)
    others = [hashed(c=a, b=b), hashed(a=a.reshape(2, 2), b=b), hashed(a=a + 1, b=b), hashed(a=a, b=bits), hashed(a=a)]
    assert len({base, *others}) == 6


def test_formats_and_hub_do_not_import_torch() -> None:
    heavy = ("torch", "peft", "transformers")
    code = f"import sys, headstart.formats, headstart.hub; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_sparse_file_is_not_read(path: Path) -> None:
    path.write_bytes(tensor_file({"x": F32}, b"\0" * 8))
    with path.open("r+b") as stream:
        stream.truncate(3 << 30)
    tracemalloc.start()
    with pytest.raises(
        ModuleError, match=r"its header tells of \d+ bytes and it has 3221225472; download or copy it again"
    ):
        read_safetensors(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
