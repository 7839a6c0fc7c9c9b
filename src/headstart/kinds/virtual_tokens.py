"""What prompts and prefixes share: where virtual tokens enter a backbone, and how a forward pass makes room for them.

A stack adds its tokens while nothing is cached; from then on they are in the cache, and later passes only leave room
for them. If positions are given, they count the virtual tokens first and no padding.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from headstart.backbones import Backbone
from headstart.errors import ModuleError
from headstart.formats import TASK_TYPES as HEAD_TYPES

__all__ = ["is_empty", "make_room", "past_padding", "per_row", "require_task_type"]


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
