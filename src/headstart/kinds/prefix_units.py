"""The attention units that can have a prefix, and how its keys and values get there.

transformers lets a model choose its attention function by name. While prefixes are attached the model computes through
`ATTENTION`, which is its scaled dot-product attention with the unit's prefix put before the keys and values.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from headstart.architectures import ARCHITECTURES, architecture_of
from headstart.backbones import Backbone
from headstart.errors import ModuleError

__all__ = ["ATTENTION", "KEYWORD", "attention_heads", "attention_units", "reader_of", "through_prefixes"]

ATTENTION = "headstart_prefix"
"""The attention function's name in transformers."""

KEYWORD = "headstart_prefix"
"""The argument of an attention unit that holds its prefix: keys and values, (N, heads, length, head size) each."""


def attention_units(backbone: Backbone) -> dict[str, list[nn.Module]]:
    """The attention units by the keys that they read ("encoder", "decoder", "cross_attention"), in order of layer.

    Raises `ModuleError` if prefixes are not computed for the units of the backbone's architecture.
    """
    config = backbone.model.config
    architecture = architecture_of(config.model_type, config.to_dict())
    if architecture is None or not architecture.units:
        computed = [name for name, known in ARCHITECTURES.items() if known.units]
        raise ModuleError(
            f"{backbone.name} is a '{config.model_type}', and prefixes of the encoder and of cross-attention are "
            f"computed for: {', '.join(computed)}; leave encoder and cross_attention out, or use another kind"
        )
    return {
        site: [block.get_submodule(unit) for block in backbone.model.get_submodule(f"{architecture.base}{blocks}")]
        for site, (blocks, unit) in architecture.units.items()
    }


def attention_heads(backbone: Backbone) -> tuple[int, int]:
    """The number of heads and the size of each, in every attention unit of a backbone whose units are known."""
    config = backbone.model.config
    heads = int(config.num_attention_heads)
    if int(getattr(config, "decoder_attention_heads", heads)) != heads:
        raise ModuleError(
            f"{backbone.name} has {heads} heads in its encoder and {config.decoder_attention_heads} in its decoder, "
            "and prefixes are computed for equal numbers; use another kind"
        )
    return heads, int(getattr(config, "d_kv", config.hidden_size // heads))


def reader_of(site: str, backbone: Backbone) -> nn.Module:
    """The encoder or decoder that the attention units of a site are in."""
    if not backbone.seq2seq:
        return backbone.decoder
    half: nn.Module = backbone.model.get_encoder() if site == "encoder" else backbone.model.get_decoder()
    return half


@contextlib.contextmanager
def through_prefixes(stacks: Sequence[Any]) -> Iterator[None]:
    """Let encoders or decoders compute with `ATTENTION` inside the block, and as before when it ends."""
    before = [(stack.config, stack.config._attn_implementation) for stack in stacks]
    try:
        for config, _ in before:
            config._attn_implementation = ATTENTION
        yield
    finally:
        for config, name in before:
            config._attn_implementation = name


def _attend(
    unit: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    headstart_prefix: tuple[Tensor, Tensor] | None = None,
    position_bias: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention over the unit's prefix and then its own keys; (rows, queries, heads, head size).

    The mask, (rows, 1, queries, keys), true where a key is seen, and the bias, (1, heads, queries, keys), are extended:
    every query sees the whole prefix, and a bias that does not cover the prefix is 0 there.
    """
    if headstart_prefix is not None:
        keys, values = headstart_prefix
        length = keys.shape[2]
        key, value = _after(keys, key), _after(values, value)
        if attention_mask is not None:
            attention_mask = functional.pad(attention_mask, (length, 0), value=True)
        if position_bias is not None:
            position_bias = functional.pad(position_bias, (key.shape[2] - position_bias.shape[3], 0))
    settings["is_causal"] = False  # `_seen` always gives a mask
    found: tuple[Tensor, None] = sdpa_attention_forward(
        unit, query, key, value, attention_mask, position_bias=position_bias, **settings
    )
    return found


def _after(prefix: Tensor, states: Tensor) -> Tensor:
    """Module n's prefix before the states of its rows: (N, H, L, D) and (N·B, H, T, D) → (N·B, H, L + T, D)."""
    rows = states.view(len(prefix), -1, *states.shape[1:])
    return torch.cat([prefix.unsqueeze(1).expand(-1, rows.shape[1], -1, -1, -1), rows], dim=3).flatten(0, 1)


def _seen(**settings: Any) -> Tensor | None:
    """The mask of scaled dot-product attention, `None` only where every query sees every key."""
    mask: Tensor | None = sdpa_mask(**(settings | {"allow_is_causal_skip": False}))
    return mask


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, _seen)
