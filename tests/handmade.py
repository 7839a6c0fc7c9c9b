"""Module folders written byte by byte, so that tests decide every part of them."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

LAYER = "model.layers.0.self_attn.q_proj"
DTYPES = {"float16": "F16", "float32": "F32", "float64": "F64", "int8": "I8", "uint16": "BF16"}


def tensor_file(header: Any, data: bytes) -> bytes:
    """A .safetensors file of any header, sound or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def pack(tensors: dict[str, np.ndarray]) -> bytes:
    """A sound .safetensors file; uint16 parameters stand for BF16 bit patterns."""
    header, data = {}, b""
    for name, values in tensors.items():
        begin, data = len(data), data + values.tobytes()
        header[name] = {
            "dtype": DTYPES[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [begin, len(data)],
        }
    return tensor_file(header, data)


def lora_tensors(
    *, seed: int = 0, rank: int = 2, inner: int = 4, outer: int = 3, layers: tuple[str, ...] = (LAYER,)
) -> dict[str, np.ndarray]:
    """Random float32 A and B for every layer, named as PEFT names them."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for layer in layers:
        stem = f"base_model.model.{layer}.lora_"
        tensors[f"{stem}A.weight"] = generator.standard_normal((rank, inner)).astype(np.float32)
        tensors[f"{stem}B.weight"] = generator.standard_normal((outer, rank)).astype(np.float32)
    return tensors


def lora_config(**changes: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]} | changes


def write_module(
    folder: Path, *, config: dict[str, Any] | None = None, tensors: dict[str, np.ndarray] | None = None, seed: int = 0
) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(lora_config() if config is None else config))
    (folder / "adapter_model.safetensors").write_bytes(pack(lora_tensors(seed=seed) if tensors is None else tensors))
    return folder
