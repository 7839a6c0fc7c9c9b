"""Tensors in .safetensors files, read with the library `safetensors` and NumPy only: a hub works without torch.

The library checks that every byte of the data belongs to exactly one tensor. Headstart also refuses what the library
accepts: two tensors with one name, types that NumPy cannot view, absurdly many dimensions, and oversized files.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, TypeGuard

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize

from headstart.errors import ModuleError
from headstart.formats.containers.strict_json import strict_json

__all__ = ["MAX_BYTES", "StoredTensor", "check_finite", "read_safetensors", "safetensors_bytes", "tensor_hash"]

MAX_HEADER = 100_000_000
MAX_DIMENSIONS = 32
MAX_BYTES = 4 << 30
"""The largest file that is read: a module has few parameters, and its header alone says how large it claims to be."""

NUMPY_TYPES = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "BF16": "<u2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}
"""How each dtype's bytes are viewed; BF16, which NumPy lacks, as its bit pattern."""

EXPONENTS: dict[str, tuple[str, int]] = {
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F80_0000),
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
}
"""Integer view and exponent bits of each float dtype: all of them set means infinite or not a number (IEEE 754)."""

REMEDY = "download or copy it again"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it is in the file. `data` is a writable view of its bytes, row-major and little-endian.

    `name` is the one in the file, which messages use even if a module is converted to another library's names.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview

    def numpy(self) -> npt.NDArray[np.generic]:
        """The values, of `shape`: BF16 as a float32 copy, every other dtype as a view that shares memory."""
        values: npt.NDArray[np.generic] = np.frombuffer(self.data, dtype=NUMPY_TYPES[self.dtype]).reshape(self.shape)
        if self.dtype == "BF16":
            return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return values


def safetensors_bytes(tensors: Mapping[str, StoredTensor]) -> bytes:
    """The content of a file that holds these tensors, in order of name; the library writes BF16 with torch only."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end, chosen = 0, dict(sorted(tensors.items()))
    for name, tensor in chosen.items():
        offsets = [end, end + tensor.data.nbytes]
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(tensor.data for tensor in chosen.values())])


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Read and validate the whole file at `path`; its header first, so that no more than it states is read.

    Raises `ModuleError`, which names the file and any tensor concerned, if the file cannot be read, is cut short or
    larger than `MAX_BYTES`, or if its header and its data disagree in any way.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            _check_header(path, stream, size)
            stream.seek(0)
            content = stream.read(size)
        found = deserialize(content)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise _broken(path, str(error).removeprefix("Error while deserializing: ")) from error
    except OSError as error:
        raise ModuleError(
            f"cannot read {path}: {error.strerror or error}; check the path and its permissions"
        ) from error
    except MemoryError as error:
        raise ModuleError(f"cannot read {path}: it does not fit into memory; use a smaller module") from error
    # The library returns them in a different order every time, and messages name the first that is wrong.
    return {
        name: StoredTensor(name, entry["dtype"], tuple(entry["shape"]), memoryview(entry["data"]))
        for name, entry in sorted(found, key=itemgetter(0))
    }


def check_finite(tensors: Mapping[str, StoredTensor]) -> None:
    """Raise `ModuleError` naming the first float tensor that holds an infinite value or NaN."""
    for tensor in tensors.values():
        if tensor.dtype not in EXPONENTS or not tensor.data.nbytes:
            continue
        view, exponent = EXPONENTS[tensor.dtype]
        bits: npt.NDArray[np.unsignedinteger] = np.frombuffer(tensor.data, dtype=view)
        if (bits & bits.dtype.type(exponent)).max() == exponent:
            raise ModuleError(
                f"tensor '{tensor.name}' holds NaN or infinite values; train the module again or remove it"
            )


def tensor_hash(tensors: Mapping[str, StoredTensor]) -> str:
    """SHA-256 (hex) of names, dtypes, shapes and bytes in order of name: equal hashes mean equal tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, tensor.dtype, tensor.shape]).encode() + b"\n")
        digest.update(tensor.data)
    return digest.hexdigest()


def _check_header(path: Path, stream: BinaryIO, size: int) -> None:
    """Raise `ModuleError` for what the library would silently accept, and for data that the file cannot hold."""
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > min(MAX_HEADER, size - 8):
        raise _broken(path, f"its header of {length} bytes is cut short or absurd")
    try:
        header = strict_json(stream.read(length))
    except ValueError as error:
        raise _broken(path, f"its header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise _broken(path, "its header is not a JSON object")
    for name, entry in header.items():
        if name != "__metadata__":
            _check_entry(path, name, entry if isinstance(entry, dict) else {})
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    stated = 8 + length + max((entry["data_offsets"][1] for entry in entries), default=0)
    if stated != size:
        raise _broken(path, f"its header tells of {stated} bytes and it has {size}")
    if size > MAX_BYTES:
        raise ModuleError(f"{path} has {size} bytes, and modules of at most {MAX_BYTES} are read; use a smaller one")


def _check_entry(path: Path, name: str, entry: Mapping[str, object]) -> None:
    dtype, shape, offsets = (entry.get(field) for field in ("dtype", "shape", "data_offsets"))
    if entry.keys() - {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"tensor '{name}' states more than dtype, shape and data_offsets")
    if isinstance(dtype, str) and dtype not in NUMPY_TYPES:
        raise ModuleError(
            f"{path}: tensor '{name}' has dtype {dtype!r}, which Headstart does not read; "
            f"save it again as one of: {', '.join(NUMPY_TYPES)}"
        )
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise _broken(path, f"tensor '{name}' has shape {shape!r}")
    if not isinstance(dtype, str) or not _naturals(offsets) or len(offsets) != 2:
        raise _broken(path, f"tensor '{name}' has dtype {dtype!r} and data_offsets {offsets!r}")
    needed, given = math.prod(shape) * np.dtype(NUMPY_TYPES[dtype]).itemsize, offsets[1] - offsets[0]
    if needed != given:
        raise _broken(path, f"tensor '{name}' of {dtype} {shape} needs {needed} bytes but is given {given}")


def _naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _broken(path: Path, fact: str) -> ModuleError:
    return ModuleError(f"{path} is not a sound safetensors file: {fact}; {REMEDY}")
