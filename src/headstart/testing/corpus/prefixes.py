"""What prefixes of a T5's attention units mean, by a plain formula, and folders of them as AdapterHub saves them."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["HUB_PREFIX", "hub_prefix_tensors", "stand_attention_prefix", "stand_hub_prefix"]

UNITS = {
    "encoder": r"encoder\.block\.\d+\.layer\.0\.SelfAttention",
    "decoder": r"decoder\.block\.\d+\.layer\.0\.SelfAttention",
    "cross_attention": r"decoder\.block\.\d+\.layer\.1\.EncDecAttention",
}
LOCATIONS = {"encoder": "encoder_prefix", "decoder": "self_prefix", "cross_attention": "cross_prefix"}
PARTS = ("wte.weight", "control_trans.0.weight", "control_trans.0.bias", "control_trans.2.weight",
         "control_trans.2.bias")  # fmt: skip
FIELDS = {
    "num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers", "prefix_projection", "encoder_hidden_size",
    "embedding_dim", "relative_positions", "task_type",
}  # fmt: skip
HUB_PREFIX: dict[str, Any] = {
    "architecture": "prefix_tuning", "bottleneck_size": 4, "cross_prefix": True, "dropout": 0.0, "encoder_prefix": True,
    "flat": False, "init_weights_seed": None, "leave_out": [], "non_linearity": "tanh", "prefix_length": 3,
    "shared_gating": True, "use_gating": False,
}  # fmt: skip
"""Every field of AdapterHub's PrefixTuningConfig."""

Shapes = dict[str, tuple[int, ...]]


def stand_attention_prefix(
    model: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, identity: set[str]
) -> Shapes:
    """Let the model's units read the prefixes of Headstart's own folder; returns the shapes that its tensors must have.

    Raises anything at all where the configuration defines no function on this model.
    """
    odd = [name for name, value in config.items() if name not in FIELDS | identity and value]
    assert not odd, f"field '{odd[0]}' is not known"
    assert config["task_type"] == "SEQ_2_SEQ_LM", "it is for another sort of backbone"
    heads, size = model.config.num_heads, model.config.d_kv
    assert config.get("num_attention_heads") in (None, heads), "it is for other heads"
    assert config["token_dim"] == heads * size, "it is for other keys"
    assert config["relative_positions"] in ("text", "adapterhub"), "positions are not defined"
    length, wanted, prefixes = config["num_virtual_tokens"], Shapes(), {}
    for place, layers in config["num_layers"].items():
        assert layers == len(_units(model, place)), "it is for another number of layers"
        whole = layers * 2 * heads * size
        if not config.get("prefix_projection"):
            wanted[f"{place}.prefix"] = (length, whole)
            prefixes[place] = tensors.get(f"{place}.prefix")
            continue
        inner, width = config["encoder_hidden_size"], config["embedding_dim"]
        names = [f"{place}.{part}" for part in ("tokens", "inner", "inner_bias", "outer", "outer_bias")]
        wanted |= dict(zip(names, _projection_shapes(length, width, inner, whole), strict=True))
        prefixes[place] = _projected([tensors.get(name) for name in names])
    _stand(model, prefixes, counted=config["relative_positions"] == "adapterhub")
    return wanted


def stand_hub_prefix(model: Any, method: Mapping[str, Any], tensors: Mapping[str, Tensor], *, name: str) -> Shapes:
    """The same for AdapterHub's folder, of whose pools every copy must be equal."""
    assert model.config.model_type == "t5", "no formula for it here"
    assert not method.get("use_gating"), "it has gates"
    assert not method.get("leave_out"), "layers are left out"
    pool = hub_prefix_shapes(model, method)
    owners = [f"{path}.prefix_tuning.pool" for path, _ in model.named_modules()
              if any(re.fullmatch(pattern, path) for pattern in UNITS.values())]  # fmt: skip
    wanted = {
        f"{owner}.prefix_tunings.{name}.{part}": shape
        for owner in (*owners, "prefix_tuning")
        for part, shape in pool.items()
    }
    first = {part: tensors[f"prefix_tuning.prefix_tunings.{name}.{part}"] for part in pool}
    for owner in owners:
        for part, value in first.items():
            assert torch.equal(tensors[f"{owner}.prefix_tunings.{name}.{part}"], value), "repeats differ"
    prefixes = {}
    for place, location in LOCATIONS.items():
        if any(part.startswith(location) for part in pool):
            flat = first.get(f"{location}.control_trans")
            projection = [first.get(f"{location}.{part}") for part in PARTS]
            prefixes[place] = _projected(projection) if flat is None else flat.view(method["prefix_length"], -1)
    if not method["flat"]:
        assert method["non_linearity"].lower() == "tanh", "another activation"
    _stand(model, prefixes, counted=True)
    return wanted


def hub_prefix_shapes(model: Any, method: Mapping[str, Any]) -> Shapes:
    """Shapes of the pool by location and part."""
    length, inner, found = method["prefix_length"], method.get("bottleneck_size", 0), Shapes()
    for place, location in LOCATIONS.items():
        if location == "self_prefix" or method[location]:
            whole = len(_units(model, place)) * 2 * model.config.num_heads * model.config.d_kv
            shapes = _projection_shapes(length, model.config.d_model, inner, whole)
            parts: Shapes = dict(zip(PARTS, shapes, strict=True))
            flat: Shapes = {"control_trans": (length * whole,)}
            found |= {f"{location}.{part}": shape for part, shape in (flat if method["flat"] else parts).items()}
    return found


def hub_prefix_tensors(model: Any, method: Mapping[str, Any], *, seed: int) -> dict[str, Tensor]:
    """A random pool, under the base model and again under every attention unit, for the adapter "m"."""
    generator = torch.Generator().manual_seed(seed)
    pool = {
        part: 0.5 * torch.randn(shape, generator=generator) for part, shape in hub_prefix_shapes(model, method).items()
    }
    owners = [f"{path}.prefix_tuning.pool" for path, _ in model.named_modules()
              if any(re.fullmatch(pattern, path) for pattern in UNITS.values())]  # fmt: skip
    return {
        f"{owner}.prefix_tunings.m.{part}": value.clone()
        for owner in (*owners, "prefix_tuning")
        for part, value in pool.items()
    }


def _projection_shapes(length: int, width: int, inner: int, whole: int) -> tuple[tuple[int, ...], ...]:
    return (length, width), (inner, width), (inner,), (whole, inner), (whole,)


def _units(model: Any, place: str) -> list[Any]:
    return [layer for path, layer in model.named_modules() if re.fullmatch(UNITS[place], path)]


def _projected(parts: list[Tensor | None]) -> Tensor | None:
    """Nothing where a part is missing: the shapes then say so."""
    tokens, inner, inner_bias, outer, outer_bias = (None if part is None else part.double() for part in parts)
    if tokens is None or inner is None or inner_bias is None or outer is None or outer_bias is None:
        return None
    return torch.tanh(tokens @ inner.T + inner_bias) @ outer.T + outer_bias


def _stand(model: Any, prefixes: Mapping[str, Tensor | None], *, counted: bool) -> None:
    """Let every unit of the places read its layer's part of the place's prefix."""
    for place, prefix in prefixes.items():
        units = _units(model, place)
        for number, unit in enumerate(units):
            if prefix is not None:
                pairs = prefix.double().view(len(prefix), len(units), 2, unit.n_heads, -1)[:, number]
                unit.forward = _attending(unit, units[0], pairs.permute(1, 2, 0, 3), place=place, counted=counted)


def _attending(unit: Any, first: Any, pair: Tensor, *, place: str, counted: bool) -> Callable[..., Any]:
    """T5's attention over (keys, values), (2, heads, length, size), and then the unit's own; there is no padding."""
    length = pair.shape[2]

    def forward(hidden_states: Tensor, *_: Any, key_value_states: Tensor | None = None, **__: Any) -> Any:
        source = hidden_states if key_value_states is None else key_value_states
        rows, queries, keys = len(hidden_states), hidden_states.shape[1], source.shape[1]
        heads = [
            part(x).view(rows, -1, unit.n_heads, unit.key_value_proj_dim).transpose(1, 2)
            for part, x in ((unit.q, hidden_states), (unit.k, source), (unit.v, source))
        ]
        own = [torch.cat([part.expand(rows, *part.shape), mine], 2) for part, mine in zip(pair, heads[1:], strict=True)]
        scores = heads[0] @ own[0].mT
        if place != "cross_attention" and counted:
            scores = scores + first.compute_bias(queries, length + keys)
        elif place != "cross_attention":
            scores[..., length:] += first.compute_bias(queries, keys)
        if place == "decoder":
            hidden = torch.ones(queries, keys, dtype=torch.bool).triu(1)
            scores[..., length:] = scores[..., length:].masked_fill(hidden, -torch.inf)
        found = (scores.softmax(-1) @ own[1]).transpose(1, 2).reshape(rows, queries, -1)
        return unit.o(found), None, None

    return forward
