"""A strict reader of .safetensors files, and a writer, that need NumPy only, so that a hub works without torch.

Layout (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON header that maps each
tensor name to its dtype, shape and data offsets, then the data. Every byte of the data belongs to exactly one tensor.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headstart.errors import ModuleError
from headstart.formats.strict_json import strict_json

__all__ = ["StoredTensor", "check_finite", "read_safetensors", "safetensors_bytes", "tensor_hash"]

MAX_HEADER = 100_000_000
MAX_DIMENSIONS = 32

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
    """One tensor as it lies in the file. `data` is a writable view of its bytes, row-major and little-endian."""

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
    """The content of a file that holds these tensors, in order of name."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end, chosen = 0, [tensors[name] for name in sorted(tensors)]
    for tensor in chosen:
        header[tensor.name] = {
            "dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [end, end + tensor.data.nbytes]
        }  # fmt: skip
        end += tensor.data.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(tensor.data for tensor in chosen)])


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Read and validate the whole file at `path`, once.

    Raises `ModuleError` naming the file, and the tensor where one is concerned, when the file cannot be read, is cut
    short, or its header and its data disagree in any way.
    """
    content = _content(path)
    header_length = int.from_bytes(content[:8], "little")
    if len(content) < 8:
        raise _broken(path, "it is shorter than a safetensors header")
    if header_length > MAX_HEADER:
        raise _broken(path, f"its header claims an absurd length of {header_length} bytes")
    if 8 + header_length > len(content):
        raise _broken(path, "it is cut short inside its header")
    try:
        header = strict_json(bytes(content[8 : 8 + header_length]))
    except ValueError as error:
        raise _broken(path, f"its header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise _broken(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    data = memoryview(content)[8 + header_length :]
    tensors: dict[str, StoredTensor] = {}
    spans = []
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(path, name, entry)
        if end > len(data):
            raise _broken(path, f"tensor '{name}' ends at byte {end} of {len(data)}: the data is cut short")
        spans.append((begin, end, name))
        tensors[name] = StoredTensor(name, dtype, shape, data[begin:end])
    _check_tiling(path, spans, size=len(data))
    return tensors


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
    """SHA-256 (hex) over names, dtypes, shapes and bytes in order of name: equal hash, equal tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, tensor.dtype, tensor.shape]).encode() + b"\n")
        digest.update(tensor.data)
    return digest.hexdigest()


def _content(path: Path) -> bytearray:
    try:
        with path.open("rb") as stream:
            content = bytearray(os.fstat(stream.fileno()).st_size)
            read = stream.readinto(content)
    except OSError as error:
        raise ModuleError(
            f"cannot read {path}: {error.strerror or error}; check the path and its permissions"
        ) from error
    except MemoryError as error:
        raise ModuleError(f"cannot read {path}: it does not fit into memory; use a smaller module") from error
    if read != len(content):
        raise _broken(path, "it changed while it was read")
    return content


def _entry(path: Path, name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"tensor '{name}' does not state exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in NUMPY_TYPES:
        raise ModuleError(
            f"{path}: tensor '{name}' has dtype {dtype!r}, which Headstart does not read; "
            f"save it again as one of: {', '.join(NUMPY_TYPES)}"
        )
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise _broken(path, f"tensor '{name}' has shape {shape!r}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(path, f"tensor '{name}' has data_offsets {offsets!r}")
    needed = math.prod(shape) * np.dtype(NUMPY_TYPES[dtype]).itemsize
    if offsets[1] - offsets[0] != needed:
        raise _broken(
            path, f"tensor '{name}' of {dtype} {shape} needs {needed} bytes but is given {offsets[1] - offsets[0]}"
        )
    return dtype, tuple(shape), offsets[0], offsets[1]


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_tiling(path: Path, spans: list[tuple[int, int, str]], *, size: int) -> None:
    reached = 0
    for begin, end, name in sorted(spans):
        if begin < reached:
            raise _broken(path, f"tensor '{name}' overlaps the tensor before it")
        if begin > reached:
            raise _broken(path, f"{begin - reached} bytes before tensor '{name}' belong to no tensor")
        reached = end
    if reached != size:
        raise _broken(path, f"{size - reached} bytes at its end belong to no tensor")


def _broken(path: Path, fact: str) -> ModuleError:
    return ModuleError(f"{path} is not a sound safetensors file: {fact}; {REMEDY}")
