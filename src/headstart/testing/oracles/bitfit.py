"""A plain formula for folders of BitFit: the tuned biases in place of the backbone's own."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from headstart.testing.oracles.answers import answers, require_shapes

__all__ = ["bitfit"]


def bitfit(
    model: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, head: Mapping[str, Tensor]
) -> Tensor:
    """What the model computes with the biases in `tensors`, and with the task head if there is one."""
    targets = config.get("target_modules")
    below = f"{model.base_model_prefix}." if hasattr(model, "classifier") else ""
    biases = {
        f"base_model.model.{name}": value
        for name, value in model.named_parameters()
        if name.startswith(below)
        and name.endswith(".bias")
        and (targets is None or _ends(name.removesuffix(".bias"), targets))
    }
    require_shapes(tensors, {name: tuple(value.shape) for name, value in biases.items()})
    for name, value in biases.items():
        value.data = tensors[name].double()
    return answers(model, head)


def _ends(path: str, names: list[str]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)
