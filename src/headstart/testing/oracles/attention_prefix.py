"""A plain formula for prefixes of any attention: each unit's attention written out, with the prefix before its keys.

The oracles' inputs have no padding, so only the decoder's self-attention has a mask.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from headstart.testing.oracles.answers import MeaninglessError, answers, require_shapes

__all__ = ["adapterhub_prefix", "adapterhub_prefix_shapes", "attention_prefix"]

Tensors = Mapping[str, Tensor]
T5 = {
    "encoder": ("encoder.block", "layer.0.SelfAttention"),
    "decoder": ("decoder.block", "layer.0.SelfAttention"),
    "cross_attention": ("decoder.block", "layer.1.EncDecAttention"),
}
BART = {
    "encoder": ("model.encoder.layers", "self_attn"),
    "decoder": ("model.decoder.layers", "self_attn"),
    "cross_attention": ("model.decoder.layers", "encoder_attn"),
}
SITES = {
    "t5": T5,
    "mt5": T5,
    "bart": BART,
    "bert": {"encoder": ("bert.encoder.layer", "attention.self")},
    "roberta": {"encoder": ("roberta.encoder.layer", "attention.self")},
    "electra": {"encoder": ("electra.encoder.layer", "attention.self")},
}
"""By architecture and site: the blocks, and the attention unit in each."""

LOCATIONS = {"encoder": "encoder_prefix", "decoder": "self_prefix", "cross_attention": "cross_prefix"}


class Sizes(NamedTuple):
    """Of a backbone's attention."""

    heads: int
    head: int

    @classmethod
    def of(cls, model: Any) -> "Sizes":
        """The model's own."""
        heads = model.config.num_attention_heads
        return cls(heads, getattr(model.config, "d_kv", model.config.hidden_size // heads))


def attention_prefix(model: Any, config: Mapping[str, Any], tensors: Tensors, *, head: Tensors) -> Tensor:
    """What the model computes with the prefixes of a folder of `peft_type` ATTENTION_PREFIX."""
    sizes, length, counts = Sizes.of(model), config["num_virtual_tokens"], config["num_layers"]
    stated = config.get("num_attention_heads")
    if config["token_dim"] != sizes.heads * sizes.head or stated not in (None, sizes.heads):
        raise MeaninglessError("its keys have other units or heads")
    projected = bool(config.get("prefix_projection"))
    wanted: dict[str, tuple[int, ...]] = {}
    prefixes = {}
    for site, count in counts.items():
        whole = count * 2 * config["token_dim"]
        shapes: dict[str, tuple[int, ...]] = {"prefix": (length, whole)}
        if projected:
            inner, width = config["encoder_hidden_size"], config["embedding_dim"]
            shapes = {
                "tokens": (length, width), "inner": (inner, width), "inner_bias": (inner,), "outer": (whole, inner),
                "outer_bias": (whole,),
            }  # fmt: skip
        wanted |= {f"{site}.{part}": shape for part, shape in shapes.items()}
    require_shapes(tensors, wanted)
    for site in counts:
        own = {part: tensors.get(f"{site}.{part}", torch.zeros(())).double() for part in PARTS}
        prefixes[site] = _projected(own) if projected else own["prefix"]
    _stand(model, prefixes, through=config["relative_positions"] == "adapterhub")
    return answers(model, head)


PARTS = ("prefix", "tokens", "inner", "inner_bias", "outer", "outer_bias")


def adapterhub_prefix_shapes(model: Any, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by its name, without the path of the base model: the pool, under every owner."""
    method, sizes = config["config"], Sizes.of(model)
    length, width = method["prefix_length"], model.config.hidden_size
    inner = 0 if method["flat"] else method["bottleneck_size"]  # the library reads it for a projection only
    wanted: dict[str, tuple[int, ...]] = {}
    for site, location in _locations(model, method).items():
        blocks, _ = SITES[model.config.model_type][site]
        whole = len(model.get_submodule(blocks)) * 2 * sizes.heads * sizes.head
        shapes: dict[str, tuple[int, ...]] = {
            "wte.weight": (length, width), "control_trans.0.weight": (inner, width), "control_trans.0.bias": (inner,),
            "control_trans.2.weight": (whole, inner), "control_trans.2.bias": (whole,),
        }  # fmt: skip
        shapes = {"control_trans": (length * whole,)} if method["flat"] else shapes
        wanted |= {f"{location}.{part}": shape for part, shape in shapes.items()}
    starts = [f"{owner}.prefix_tunings.{config['name']}" for owner in _owners(model)]
    return {f"{start}.{part}": shape for start in starts for part, shape in wanted.items()}


def _locations(model: Any, method: Mapping[str, Any]) -> dict[str, str]:
    """AdapterHub's name of every site that has a prefix."""
    family = SITES[model.config.model_type]
    named = {site: LOCATIONS[site] if family is T5 else "self_prefix" for site in family}
    return {site: location for site, location in named.items() if method.get(location, True)}


def _owners(model: Any) -> list[str]:
    """What the pool is saved under: the base model, and every attention unit."""
    found = ["prefix_tuning"]
    for blocks, unit in SITES[model.config.model_type].values():
        start = blocks.removeprefix("bert.").removeprefix("roberta.")
        found += [f"{start}.{number}.{unit}.prefix_tuning.pool" for number in range(len(model.get_submodule(blocks)))]
    return found


def adapterhub_prefix(model: Any, config: Mapping[str, Any], tensors: Tensors) -> None:
    """Change the model's attention as the library `adapters` does; all copies of a tensor must be equal."""
    method, locations = config["config"], _locations(model, config["config"])
    start, pool = f"prefix_tuning.prefix_tunings.{config['name']}.", {}
    for name, value in tensors.items():
        part = name.partition(f".prefix_tunings.{config['name']}.")[2]
        pool[part] = tensors[f"{start}{part}"]
        if not torch.equal(value, pool[part]):
            raise MeaninglessError(f"'{name}' is not the same as the others")
    length = method["prefix_length"]
    prefixes = {}
    for site, location in locations.items():
        if method["flat"]:
            prefixes[site] = pool[f"{location}.control_trans"].view(length, -1)
            continue
        if str(method["non_linearity"]).lower() != "tanh":
            raise MeaninglessError("its projection has another activation")
        prefixes[site] = _projected({
            "tokens": pool[f"{location}.wte.weight"],
            "inner": pool[f"{location}.control_trans.0.weight"],
            "inner_bias": pool[f"{location}.control_trans.0.bias"],
            "outer": pool[f"{location}.control_trans.2.weight"],
            "outer_bias": pool[f"{location}.control_trans.2.bias"],
        })  # fmt: skip
    _stand(model, prefixes, through=True)


def _projected(own: Tensors) -> Tensor:
    hidden = (own["tokens"] @ own["inner"].T + own["inner_bias"]).tanh()
    return hidden @ own["outer"].T + own["outer_bias"]


def _stand(model: Any, prefixes: Tensors, *, through: bool) -> None:
    """Let the units of every site attend to their prefix too, (length, layers · keys and values · heads · head size).

    `through`: T5 counts the distance to keys from the prefix's first one, and from the text's first query.
    """
    sizes, family = Sizes.of(model), SITES.get(model.config.model_type, {})
    for site, prefix in prefixes.items():
        if site not in family:
            raise MeaninglessError(f"the model has no attention of '{site}'")
        blocks, end = family[site]
        stack = list(model.get_submodule(blocks))
        by_layer = prefix.view(len(prefix), -1, 2, sizes.heads, sizes.head)
        if by_layer.shape[1] != len(stack):
            raise MeaninglessError(f"'{site}' has {len(stack)} layers")
        first = stack[0].get_submodule(end)
        for number, block in enumerate(stack):
            keys, values = by_layer[:, number].transpose(0, 1).transpose(1, 2)
            unit = block.get_submodule(end)
            if family is T5:
                _t5(unit, first, keys, values, causal=site == "decoder", through=through)
            elif family is BART:
                _bart(unit, sizes, keys, values, causal=site == "decoder")
            else:
                _bert(unit, sizes, keys, values)


def _t5(unit: Any, first: Any, keys: Tensor, values: Tensor, *, causal: bool, through: bool) -> None:
    heads, length, head = keys.shape

    def forward(hidden_states: Tensor, key_value_states: Tensor | None = None, **_: Any) -> tuple[Tensor, None, None]:
        rows, count = hidden_states.shape[:2]
        source = hidden_states if key_value_states is None else key_value_states
        k, v = (layer(source).view(rows, -1, heads, head).transpose(1, 2) for layer in (unit.k, unit.v))
        bias = torch.zeros(heads, count, length + k.shape[2], dtype=k.dtype)
        if first.has_relative_attention_bias:
            start = 0 if through else length
            there = torch.arange(length + k.shape[2] - start)[None] - torch.arange(count)[:, None]
            bucket = first._relative_position_bucket(
                there,
                bidirectional=not first.is_decoder,
                num_buckets=first.relative_attention_num_buckets,
                max_distance=first.relative_attention_max_distance,
            )
            bias[:, :, start:] = first.relative_attention_bias(bucket).permute(2, 0, 1)
        if causal:
            hidden = torch.ones(count, count, dtype=torch.bool).triu(1)
            bias[:, :, length:].masked_fill_(hidden, -math.inf)
        q = unit.q(hidden_states).view(rows, -1, heads, head).transpose(1, 2)
        seen = torch.cat([keys.expand(rows, -1, -1, -1), k], dim=2)
        weights = (q @ seen.transpose(2, 3) + bias).softmax(-1)
        made = weights @ torch.cat([values.expand(rows, -1, -1, -1), v], dim=2)
        return unit.o(made.transpose(1, 2).flatten(2)), None, None

    unit.forward = forward


def _bart(unit: Any, sizes: Sizes, keys: Tensor, values: Tensor, *, causal: bool) -> None:
    def forward(hidden_states: Tensor, key_value_states: Tensor | None = None, **_: Any) -> tuple[Tensor, None]:
        rows, count = hidden_states.shape[:2]
        source = hidden_states if key_value_states is None else key_value_states
        q = unit.q_proj(hidden_states).view(rows, -1, *sizes).transpose(1, 2) / math.sqrt(sizes.head)
        k, v = (layer(source).view(rows, -1, *sizes).transpose(1, 2) for layer in (unit.k_proj, unit.v_proj))
        weights = q @ torch.cat([keys.expand(rows, -1, -1, -1), k], dim=2).transpose(2, 3)
        if causal:
            hidden = torch.ones(count, count, dtype=torch.bool).triu(1)
            weights[:, :, :, keys.shape[1] :].masked_fill_(hidden, -math.inf)
        made = weights.softmax(-1) @ torch.cat([values.expand(rows, -1, -1, -1), v], dim=2)
        return unit.out_proj(made.transpose(1, 2).flatten(2)), None

    unit.forward = forward


def _bert(unit: nn.Module, sizes: Sizes, keys: Tensor, values: Tensor) -> None:
    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        rows = len(hidden_states)
        layers: list[Any] = [unit.query, unit.key, unit.value]
        q, k, v = (layer(hidden_states).view(rows, -1, *sizes).transpose(1, 2) for layer in layers)
        seen = torch.cat([keys.expand(rows, -1, -1, -1), k], dim=2)
        weights = (q @ seen.transpose(2, 3) / math.sqrt(sizes.head)).softmax(-1)
        made = weights @ torch.cat([values.expand(rows, -1, -1, -1), v], dim=2)
        return made.transpose(1, 2).flatten(2), None

    unit.forward = forward
