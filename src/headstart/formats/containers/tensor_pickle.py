"""A strict reader of tensors that `torch.save` wrote, without torch and without unpickling anything.

The file is a zip archive (torch 1.6 and later): `<name>/data.pkl` says where each tensor is, `<name>/data/<key>` holds
the bytes. A pickle is a program; here it is run by an interpreter of the two dozen instructions that a dictionary of
tensors needs, on values that cannot do anything. Every other instruction, and every other name that the program asks
for, is refused.
"""

import math
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from headstart.errors import ModuleError
from headstart.formats.containers.safetensors_file import MAX_DIMENSIONS, NUMPY_TYPES, StoredTensor

__all__ = ["read_torch_zip"]

STORAGES = {
    "torch.BFloat16Storage": "BF16", "torch.BoolStorage": "BOOL", "torch.ByteStorage": "U8",
    "torch.CharStorage": "I8", "torch.DoubleStorage": "F64", "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16", "torch.IntStorage": "I32", "torch.LongStorage": "I64",
    "torch.ShortStorage": "I16",
}  # fmt: skip
"""The dtype of the values in each type of storage, by safetensors' names."""

DICTIONARY = "collections.OrderedDict"
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
KNOWN = {DICTIONARY, TENSOR, PARAMETER, *STORAGES}
"""Every name that the program may ask for; each one is kept as a plain name and never looked up."""

MOST_SHARING = 256
"""Tensors may share their bytes, as a prefix does with every layer; together they may be this many times the file."""

FOLDER = 0x10
"""The bit that marks a folder in the external attributes of an archive's entry, from MS-DOS."""

REMEDY = "save it again as safetensors"
MALFORMED = "is not a sound file of tensors: its pickle is malformed"
LEGACY = (b"\x80\x02\x8a\nl\xfc\x9c", b"\x80\x02", b"\x80\x03", b"\x80\x04")


class _Global(NamedTuple):
    name: str


class _Storage(NamedTuple):
    dtype: str
    key: str
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Marks where the items of a tuple or dictionary begin on the stack."""


MARK = _Mark()


@dataclass(frozen=True)
class _RefusedError(Exception):
    """What is wrong with the file; the path is added later."""

    fact: str


def read_torch_zip(path: Path) -> dict[str, StoredTensor]:
    """Read a dictionary of tensors from the file at `path`, written by `torch.save`.

    The tensors are row-major; those stored in that order share the file's bytes in memory, the others are copied.
    Raises `ModuleError`, which names the file and the name or tensor concerned, if it holds anything but tensors,
    contradicts itself in any way, or would become larger in memory than the file.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            root = _check_archive(archive, size)
            entries = {info.filename.removeprefix(root): info for info in archive.infolist()}
            described = _described(archive.read(entries["data.pkl"]))
            keys = {tensor.storage.key for tensor in described.values()}
            present = {key: entries[f"data/{key}"] for key in keys if f"data/{key}" in entries}
            contents = {key: bytearray(archive.read(entry)) for key, entry in present.items()}
            for entry in entries.values():
                if entry not in present.values():
                    archive.read(entry)  # raises when its checksum is wrong
        return _tensors(described, contents, size=size)
    except _RefusedError as error:
        raise ModuleError(f"{path} {error.fact}; {REMEDY}") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ModuleError(f"{path} {_not_a_zip(path, error)}; {REMEDY}") from error
    except OSError as error:
        raise ModuleError(
            f"cannot read {path}: {error.strerror or error}; check the path and its permissions"
        ) from error
    except MemoryError as error:
        raise ModuleError(f"cannot read {path}: it does not fit into memory; use a smaller module") from error


def _not_a_zip(path: Path, error: Exception) -> str:
    with path.open("rb") as stream:
        begin = stream.read(8)
    if begin.startswith(LEGACY):
        return "is a bare pickle, as torch wrote before version 1.6, and pickles can run code"
    return f"is not a sound file of tensors: {error}"


def _check_archive(archive: zipfile.ZipFile, size: int) -> str:
    """The archive's one root folder, with its slash; raises `_RefusedError` unless it is what torch writes."""
    entries = archive.infolist()
    names = [info.filename for info in entries]
    root = next((name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None)
    if root is None or root.count("/") != 1:
        raise _RefusedError("is not a sound file of tensors: it has no data.pkl")
    for info in entries:
        parts = info.filename.split("/")
        if not info.filename.startswith(root) or ".." in parts or info.is_dir():
            raise _RefusedError(f"holds an entry '{info.filename}' outside of '{root}'")
        if info.external_attr & FOLDER:
            raise _RefusedError(f"marks its entry '{info.filename}' as a folder, so that torch cannot read it")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise _RefusedError(f"holds a compressed or encrypted entry '{info.filename}', which torch does not write")
    if min(info.header_offset for info in entries) > 0:
        raise _RefusedError("holds bytes before its archive, so that other readers may take it for something else")
    if len(set(names)) != len(names):
        raise _RefusedError("holds two entries of one name")
    if sum(info.file_size for info in entries) > size:
        raise _RefusedError("claims to hold more bytes than it has")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise _RefusedError("was written on a big-endian machine")
    return root


def _described(program: bytes) -> dict[str, _Tensor]:
    """Where every tensor is, by name."""
    result = _run(program)
    if not isinstance(result, dict):
        raise _RefusedError(f"holds {_kind_of(result)}, not a dictionary of tensors")
    for name, value in result.items():
        if not isinstance(value, _Tensor):
            raise _RefusedError(f"holds {_kind_of(value)} under '{name}', not a tensor")
    return result


def _run(program: bytes) -> object:
    """Interpret the program, and return what is left on the stack when it stops."""
    stack: list[object] = []
    memo: dict[object, object] = {}
    for opcode, argument, _ in pickletools.genops(program):
        name = opcode.name
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1] if stack else _broken()
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument] if argument in memo else _broken())
        elif name in PUSHED:
            stack.append(argument)
        elif name in MADE:
            stack.append(MADE[name]())
        elif name in STEPS:
            STEPS[name](stack)
        elif name == "GLOBAL":
            stack.append(_global(argument))
        elif name == "STOP":
            break
        elif name != "PROTO":
            raise _RefusedError(f"holds the pickle instruction {name}, which no dictionary of tensors needs")
    return stack[0] if len(stack) == 1 else _broken()


PUSHED = {"BININT", "BININT1", "BININT2", "BINUNICODE", "LONG1", "SHORT_BINUNICODE"}
MADE: dict[str, Callable[[], object]] = {
    "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "MARK": lambda: MARK, "NEWFALSE": lambda: False, "NEWTRUE": lambda: True,
    "NONE": lambda: None,
}  # fmt: skip


def _global(argument: object) -> _Global:
    name = str(argument).replace(" ", ".")
    if name not in KNOWN:
        raise _RefusedError(f"asks for '{name}', which no dictionary of tensors needs and which can run code")
    return _Global(name)


def _reduce(stack: list[object]) -> None:
    made, arguments = _pop(stack, 2)
    match made, arguments:
        case _Global(name), ():
            if name != DICTIONARY:
                _broken()
            stack.append({})
        case _Global(name), (_Tensor() as tensor, bool(), *_) if name == PARAMETER:
            stack.append(tensor)
        case _Global(name), (_Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), *_) if (
            name == TENSOR
        ):
            stack.append(_Tensor(storage, offset, shape, strides))
        case _:
            _broken()


def _persistent(stack: list[object]) -> None:
    match _pop(stack, 1):
        case (("storage", _Global(name), str(key), str(), int(count)),) if name in STORAGES:
            stack.append(_Storage(STORAGES[name], key, count))
        case _:
            _broken()


def _build(stack: list[object]) -> None:
    """What a state_dict says about its layers' versions, which changes no tensor."""
    target, state = _pop(stack, 2)
    if not isinstance(target, dict) or not isinstance(state, dict):
        _broken()
    stack.append(target)


def _set_items(stack: list[object]) -> None:
    _fill(stack, _to_mark(stack))


def _set_item(stack: list[object]) -> None:
    _fill(stack, _pop(stack, 2))


def _fill(stack: list[object], items: list[object]) -> None:
    target = stack[-1] if stack else None
    if not isinstance(target, dict) or len(items) % 2:
        raise _RefusedError(MALFORMED)
    for key, value in zip(items[::2], items[1::2], strict=True):
        # A key that is not a text could be one whose hash takes forever.
        if not isinstance(key, str):
            raise _RefusedError(f"holds a dictionary with {_kind_of(key)} as a key")
        if key in target:
            raise _RefusedError(f"holds '{key}' twice")
        target[key] = value


def _tuple(count: int) -> Callable[[list[object]], None]:
    return lambda stack: stack.append(tuple(_pop(stack, count)))


STEPS: dict[str, Callable[[list[object]], None]] = {
    "BINPERSID": _persistent, "BUILD": _build, "REDUCE": _reduce, "SETITEM": _set_item, "SETITEMS": _set_items,
    "TUPLE": lambda stack: stack.append(tuple(_to_mark(stack))),
    "TUPLE1": _tuple(1), "TUPLE2": _tuple(2), "TUPLE3": _tuple(3),
}  # fmt: skip


def _pop(stack: list[object], count: int) -> list[object]:
    if len(stack) < count:
        _broken()
    taken = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return taken


def _to_mark(stack: list[object]) -> list[object]:
    begin = next((index for index in range(len(stack) - 1, -1, -1) if stack[index] is MARK), None)
    if begin is None:
        _broken()
    taken = stack[begin + 1 :]
    del stack[begin:]
    return taken


def _broken() -> NoReturn:
    raise _RefusedError(MALFORMED)


def _kind_of(value: object) -> str:
    return f"the name '{value.name}'" if isinstance(value, _Global) else f"a {type(value).__name__.strip('_').lower()}"


def _tensors(
    described: Mapping[str, _Tensor], contents: Mapping[str, bytearray], *, size: int
) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    stated = copied = 0
    for name, tensor in described.items():
        storage = tensor.storage
        itemsize = np.dtype(NUMPY_TYPES[storage.dtype]).itemsize
        content = contents.get(storage.key)
        if content is None or len(content) != storage.length * itemsize:
            has = "missing" if content is None else f"{len(content)} bytes long"
            raise _RefusedError(
                f"states {storage.length} values of {storage.dtype} for tensor '{name}', but they are {has}"
            )
        _check_bounds(name, tensor)
        view = _view(tensor, content, itemsize)
        stated, copied = stated + view.nbytes, copied + (0 if view.flags.c_contiguous else view.nbytes)
        if stated > MOST_SHARING * size or copied > size:
            raise _RefusedError(
                f"holds tensors that would grow far beyond its {size} bytes, the first too many '{name}'"
            )
        if view.flags.c_contiguous:
            begin = tensor.offset * itemsize
            data = memoryview(content)[begin : begin + view.nbytes]
        else:
            data = memoryview(bytearray(view.tobytes()))
        found[name] = StoredTensor(name, storage.dtype, tensor.shape, data)
    return found


def _view(tensor: _Tensor, content: bytearray, itemsize: int) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """The values in the file's bytes. Strides that are never taken may be of any size, and are left out."""
    taken = zip(tensor.shape, tensor.strides, strict=True)
    strides = tuple(stride * itemsize if size > 1 and 0 not in tensor.shape else itemsize for size, stride in taken)
    dtype, offset = NUMPY_TYPES[tensor.storage.dtype], tensor.offset * itemsize
    return np.ndarray(tensor.shape, dtype=dtype, buffer=content, offset=offset, strides=strides)


def _check_bounds(name: str, tensor: _Tensor) -> None:
    """Raise `_RefusedError` unless every value is in the storage and no value is used more than once."""
    shape, strides = tensor.shape, tensor.strides
    sound = (
        all(type(item) is int and item >= 0 for item in (tensor.offset, *shape, *strides))
        and len(shape) == len(strides) <= MAX_DIMENSIONS
    )
    if not sound:
        raise _RefusedError(f"gives tensor '{name}' a shape, strides or offset that no tensor has")
    count = tensor.storage.length
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    beyond = tensor.offset > count if 0 in shape else last >= count
    if beyond or math.prod(tensor.shape) > count:
        raise _RefusedError(f"lets tensor '{name}' reach beyond its {count} stored values")
