"""What prompts and prefixes share: where virtual tokens enter a backbone, and how a forward pass makes room for them.

A stack adds its tokens while nothing is cached; from then on they are in the cache, and later passes only leave room
for them. If positions are given, they count the virtual tokens first and no padding.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from headstart.backbones import Backbone, attached
from headstart.errors import ModuleError
from headstart.formats import TASK_TYPES as HEAD_TYPES

__all__ = [
    "Hook",
    "hooked",
    "is_empty",
    "make_room",
    "named_inputs",
    "past_padding",
    "per_row",
    "require_task_type",
]


@dataclass(frozen=True)
class Hook:
    """Where to hook: `before` changes the inputs of `layer` by name, `after` its output, given the changed inputs."""

    layer: nn.Module
    before: Callable[[dict[str, Any]], dict[str, Any]]
    after: Callable[[dict[str, Any], Any], Any] | None = None


def hooked(*hooks: Hook) -> AbstractContextManager[None]:
    """Attach every hook for the block; none is left when it ends, however it ends."""
    return attached(handle for hook in hooks for handle in _handles(hook))


def _handles(hook: Hook) -> Iterator[RemovableHandle]:
    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        return (), hook.before(named_inputs(layer, args, kwargs))

    yield hook.layer.register_forward_pre_hook(before, with_kwargs=True)
    after = hook.after
    if after is not None:
        yield hook.layer.register_forward_hook(lambda _, __, kwargs, output: after(kwargs, output), with_kwargs=True)


def named_inputs(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a call by name, including those given by position."""
    return {**dict(zip(inspect.signature(layer.forward).parameters, args, strict=False)), **kwargs}


def is_empty(cache: Any) -> bool:
    """Whether nothing has been read yet."""
    return cache is None or cache.get_seq_length() == 0


def make_room(inputs: dict[str, Any], length: int, *, mask: str = "attention_mask") -> dict[str, Any]:
    """The inputs with `length` visible positions before those of the mask, and every position increased by `length`."""
    changed = dict(inputs)
    seen = inputs.get(mask)
    if seen is not None:
        changed[mask] = torch.cat([seen.new_ones(seen.shape[0], length), seen], dim=1)
    if inputs.get("position_ids") is not None:
        changed["position_ids"] = inputs["position_ids"] + length
    return changed


def past_padding(inputs: Mapping[str, Any], config: Any, dtype: torch.dtype) -> dict[str, Any]:
    """A mask with which padding between a prefix and its text takes up no room in a sliding window, or nothing.

    Nothing if there is no padding, or if the keys fit into the window. `inputs` already leave room for the tokens; for
    a model with several types of layers, there is a mask for each.
    """
    seen, window = inputs.get("attention_mask"), getattr(config, "sliding_window", None)
    if seen is None or window is None or seen.shape[1] <= window or bool(seen.all()):
        return {}
    given = next(inputs[name] for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None)
    keys = seen.cumsum(1) - 1
    queries = keys[:, -given.shape[1] :]
    number = torch.arange(seen.shape[1], device=seen.device)
    causal = number <= number[-given.shape[1] :].unsqueeze(1)
    full = causal & seen.bool().unsqueeze(1)
    near = full & (keys.unsqueeze(1) > queries.unsqueeze(2) - window)
    full_mask, near_mask = (
        torch.zeros(mask.shape, dtype=dtype, device=seen.device).masked_fill(~mask, torch.finfo(dtype).min).unsqueeze(1)
        for mask in (full, near)
    )
    sorts = set(getattr(config, "layer_types", None) or ())
    masks = {"full_attention": full_mask, "sliding_attention": near_mask}
    return {"attention_mask": {sort: masks[sort] for sort in sorts} if sorts else near_mask}


def per_row(modules: Tensor, rows: int) -> Tensor:
    """From (N, …) to (rows, …): each module's own, rows/N times in succession."""
    return modules.repeat_interleave(rows // modules.shape[0], dim=0)


def require_task_type(config: Mapping[str, Any], name: str, backbone: Backbone) -> None:
    """Raise `ModuleError` if a module is for another type of backbone, such as causal models."""
    wanted = backbone.task_type
    here = set(HEAD_TYPES.values()) if backbone.is_encoder else {wanted}
    if config.get("task_type") not in here:
        raise ModuleError(
            f"module '{name}' is for {config.get('task_type')} and {backbone.name} is for {wanted}; "
            "load the backbone it was tuned on, or leave it out"
        )
