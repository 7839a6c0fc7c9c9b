"""The files of a module's folder as other tools see them: read and written without Headstart's readers."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = [
    "config_of",
    "config_path",
    "head_path",
    "load_head",
    "load_tensors",
    "raw_header",
    "read_file",
    "save_file_of",
    "save_tensors",
    "weights_of",
    "write_config",
    "write_raw",
]

CONFIGS = ("adapter_config.json", "config.json")
"""Names of the configuration's file: PEFT's, AdapterHub's and OpenDelta's."""

WEIGHTS = ("adapter_model.safetensors", "adapter.safetensors", "pytorch_adapter.bin", "pytorch_model.bin")
HEAD = "headstart_head.safetensors"


def config_path(folder: Path) -> Path:
    """The file of the configuration."""
    return next(folder / name for name in CONFIGS if (folder / name).exists())


def weights_of(folder: Path) -> Path:
    """The file of tensors."""
    return next(folder / name for name in WEIGHTS if (folder / name).exists())


def config_of(folder: Path) -> dict[str, Any]:
    """The configuration, parsed by Python's own reader."""
    found: dict[str, Any] = json.loads(config_path(folder).read_text(encoding="utf-8"))
    return found


def write_config(folder: Path, config: Any) -> None:
    """Write the configuration, even a malformed one."""
    config_path(folder).write_text(json.dumps(config, indent=1), encoding="utf-8")


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors, read by the library safetensors or by torch's own restricted load."""
    return read_file(weights_of(folder))


def head_path(folder: Path) -> Path:
    """The file of the task head's tensors if they have a separate one."""
    return folder / HEAD


def load_head(folder: Path) -> dict[str, Tensor]:
    """The tensors of the task head from its own file; none if there is no such file."""
    path = head_path(folder)
    return read_file(path) if path.exists() else {}


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file; see `load_tensors`."""
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError):
        if not zipfile.is_zipfile(path) or path.read_bytes()[:4] != b"PK\x03\x04":
            raise
        # torch checks fields of the archive that have no bearing on its content, which has its own checksums.
        return dict(torch.load(_packed_again(path), map_location="cpu", weights_only=True))


def _packed_again(path: Path) -> io.BytesIO:
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(packed, "w") as fresh:
        for info in archive.infolist():
            fresh.writestr(info.filename, archive.read(info))
    packed.seek(0)
    return packed


def save_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write the tensors in the format of the folder's file."""
    save_file_of(weights_of(folder), tensors)


def save_file_of(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write the tensors in the format that the path's suffix names."""
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path, {"format": "pt"})
    else:
        torch.save(tensors, path)


def raw_header(folder: Path) -> tuple[dict[str, Any], bytes] | None:
    """Header and data of a safetensors file; `None` for another format."""
    path = weights_of(folder)
    if path.suffix != ".safetensors":
        return None
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_raw(folder: Path, header: Any, data: bytes, *, length: int | None = None) -> None:
    """Write a safetensors file with any header, sound or not; `length` is the header length that it claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    begin = struct.pack("<Q", len(text) if length is None else length)
    weights_of(folder).write_bytes(begin + text + data)
