"""Conversion between stored bytes and torch tensors."""

import hashlib

import torch
from torch import Tensor

from headstart.errors import ModuleError
from headstart.formats import StoredTensor

__all__ = ["rounded_digest", "to_torch"]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}


def to_torch(stored: StoredTensor) -> Tensor:
    """A tensor with the stored dtype and shape, in its own memory."""
    if stored.dtype not in DTYPES:
        raise ModuleError(
            f"tensor {stored.name} has dtype {stored.dtype}, which modules do not use; save it as F32 or BF16"
        )
    if 0 in stored.shape:
        return torch.empty(stored.shape, dtype=DTYPES[stored.dtype])
    return torch.frombuffer(stored.data, dtype=DTYPES[stored.dtype]).view(stored.shape).clone()


def rounded_digest(values: Tensor, dtype: torch.dtype) -> str:
    """SHA-256 of the values rounded to a dtype of 16 bits, whatever their device."""
    rounded = values.detach().to("cpu", dtype).contiguous()
    return hashlib.sha256(rounded.view(torch.uint8).numpy().data).hexdigest()
