"""Prefixes that AdapterHub's library `adapters` saves, read as prefixes of attention units; pure, without torch.

The library keeps all prefixes of an adapter in one pool, and saves the whole pool under the base model and again under
every attention layer, whichever part belongs to it. A pool holds one prefix each for the encoder's self-attention, the
decoder's self-attention ("self_prefix") and cross-attention; each one is for all layers of that type at once.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import NamedTuple

from headstart.architectures import ARCHITECTURES, architecture_of
from headstart.errors import ModuleError
from headstart.formats.containers.safetensors_file import StoredTensor
from headstart.formats.libraries.adapterhub_config import SAVE_AGAIN, method_fields, without_base
from headstart.formats.libraries.own_prefix import BIASED_PREFIX, BIASED_TEXT, AttentionPrefixLayout
from headstart.formats.libraries.peft_config import Fields, Plain, sizes

__all__ = ["FIELDS", "FLAT", "PROJECTED", "as_attention_prefix", "require_known_prefix", "units_of"]

FIELDS = Fields(
    handled={
        "architecture", "bottleneck_size", "cross_prefix", "encoder_prefix", "flat", "non_linearity", "prefix_length",
    },
    harmless={"dropout", "init_weights_seed", "shared_gating"},
    refused={
        "leave_out": "layers without a prefix are not computed, and in T5 the library drops relative positions behind "
        "one",
        "use_gating": "it carries a gate beside each prefix",
    },
)  # fmt: skip
"""The fields of the library's PrefixTuningConfig."""

CAUSAL = ("llama", "mistral", "gpt2", "gptj")


class Units(NamedTuple):
    """The attention units of one stack of layers: `<layers>.<number>.<end>` for every end.

    `locations`: by site, the name of its prefix in the pool.
    """

    locations: dict[str, str]
    layers: str
    ends: tuple[str, ...]


def units_of(model_type: object) -> tuple[Units, ...]:
    """All attention units of a backbone, by stack of layers; none if its prefixes are not read."""
    architecture = architecture_of(model_type)
    if architecture is None or not architecture.library:
        return ()
    locations = {"encoder": "self_prefix"} if len(architecture.blocks) == 1 else LOCATIONS
    found = []
    for blocks in architecture.blocks:
        here = {site: unit for site, (path, unit) in architecture.units.items() if path == blocks.path}
        if here:
            found.append(Units({site: locations[site] for site in here}, blocks.path, tuple(here.values())))
    return tuple(found)


LOCATIONS = {"encoder": "encoder_prefix", "decoder": "self_prefix", "cross_attention": "cross_prefix"}
"""The library's names for the prefixes of an encoder-decoder, by the keys that they come before."""

OPTIONAL = ("encoder_prefix", "cross_prefix")
"""The locations that a field of the same name enables; the others are always there."""

FLAT = {"prefix": "control_trans"}
PROJECTED = {
    "tokens": "wte.weight",
    "inner": "control_trans.0.weight",
    "inner_bias": "control_trans.0.bias",
    "outer": "control_trans.2.weight",
    "outer_bias": "control_trans.2.bias",
}
"""AdapterHub's names for the tensors of one prefix, by our names."""


def require_known_prefix(config: Mapping[str, object]) -> None:
    """Raise `ModuleError` for a backbone or a setting whose prefix Headstart does not compute as the library does.

    `config` is the content of adapter_config.json.
    """
    method = method_fields(config)
    family = config.get("model_type")
    if family in CAUSAL:
        raise ModuleError(
            f"prefix in AdapterHub's layout is not read for '{family}': the library computes it in one way "
            "with eager attention and in another with its default, so which of them it was tuned for cannot be told; "
            "tune it with PEFT"
        )
    if not units_of(family):
        read = [name for name in ARCHITECTURES if units_of(name)]
        raise ModuleError(
            f"field 'model_type' is {family!r}; prefixes in AdapterHub's layout are read for: {', '.join(read)}"
        )
    FIELDS.check(method)
    for field in ("flat", "encoder_prefix", "cross_prefix"):
        if not isinstance(method.get(field), bool):
            raise ModuleError(f"field '{field}' is {method.get(field)!r}, not true or false; {SAVE_AGAIN}")
    activation = method.get("non_linearity")
    if not method["flat"] and str(activation).lower() != "tanh":
        raise ModuleError(
            f"field 'non_linearity' is {activation!r}; Headstart computes projections with tanh only, and "
            "cannot use this module"
        )


def as_attention_prefix(config: Mapping[str, object], tensors: Mapping[str, StoredTensor]) -> Plain:
    """Configuration and tensors of a prefix of attention units, for `attention_prefix_layout`.

    `require_known_prefix` must have accepted the configuration. Raises `ModuleError`, which names the field or tensor,
    for tensors that are missing, misshapen or not part of the prefix, and for copies that are not bit-equal.
    """
    method, family = method_fields(config), units_of(config["model_type"])
    (length,) = sizes(method, ("prefix_length",))
    parts = FLAT if method["flat"] else PROJECTED
    pools = _pools(tensors, str(config["name"]))
    layers, locations = {}, {}
    for units, count in zip(family, _layer_counts(pools, family), strict=True):
        for site, location in units.locations.items():
            if location not in OPTIONAL or method[location]:
                layers[site], locations[site] = count, location
    wanted = [f"{location}.{part}" for location in locations.values() for part in parts.values()]
    pool = _the_one_pool(pools, wanted)
    own = next(site for site, location in locations.items() if location == "self_prefix")
    dim, projection = _sizes(config, pool, layers[own])
    seq2seq, biased = len(family) > 1, ARCHITECTURES[str(config["model_type"])].relative_bias
    positions = BIASED_PREFIX if biased else BIASED_TEXT
    layout = AttentionPrefixLayout(None, length, dim, None, tuple(layers.items()), projection, positions)
    found = {}
    for new, shape in layout.shapes.items():
        site, _, part = new.partition(".")
        tensor = pool[f"{locations[site]}.{parts[part]}"]
        stored = (length * layers[site] * 2 * dim,) if part == "prefix" else shape
        if tensor.shape != stored:
            raise ModuleError(
                f"tensor '{tensor.name}' has shape {tensor.shape} but the configuration and the other "
                f"tensors say {stored}; {SAVE_AGAIN}"
            )
        found[new] = dataclasses.replace(tensor, shape=shape)
    task_type = "SEQ_2_SEQ_LM" if seq2seq else "SEQ_CLS"
    return Plain(layout.config(task_type=task_type, base_model=config.get("model_name") or None), found)


def _pools(tensors: Mapping[str, StoredTensor], name: str) -> dict[str, dict[str, StoredTensor]]:
    """Every copy of the pool by the path of the layer it was saved under, "" for the base model; tensors by site and
    part ("self_prefix.wte.weight").
    """
    pools: dict[str, dict[str, StoredTensor]] = {"": {}}
    pattern = re.compile(rf"(?:(.+)\.prefix_tuning\.pool|prefix_tuning)\.prefix_tunings\.{re.escape(name)}\.(.+)")
    for stored, tensor in tensors.items():
        found = pattern.fullmatch(without_base(stored))
        if found is None:
            raise ModuleError(f"tensor '{stored}' is not part of the prefix '{name}'; remove it")
        pool = pools.setdefault(found[1] or "", {})
        if found[2] in pool:
            raise ModuleError(f"tensor '{stored}' stands for the same parameter as another one; {SAVE_AGAIN}")
        pool[found[2]] = tensor
    return pools


def _layer_counts(pools: Mapping[str, object], family: tuple[Units, ...]) -> list[int]:
    """How many layers each type of unit has; every unit of every layer must have a copy of the pool."""
    counts, wanted = [], {""}
    for units in family:
        ends = "|".join(map(re.escape, units.ends))
        numbers = re.compile(rf"{re.escape(units.layers)}\.(\d+)\.(?:{ends})")
        count = len({found[1] for owner in pools if (found := numbers.fullmatch(owner))})
        counts.append(count)
        wanted |= {f"{units.layers}.{number}.{end}" for number in range(max(count, 1)) for end in units.ends}
    odd, lacking = sorted(pools.keys() - wanted), sorted(wanted - pools.keys())
    if lacking:
        raise ModuleError(f"the tensors '{lacking[0]}.prefix_tuning.pool.*' are missing; {SAVE_AGAIN}")
    if odd:
        raise ModuleError(f"tensors are there for '{odd[0]}', which is no attention unit of the backbone; {SAVE_AGAIN}")
    return counts


def _the_one_pool(pools: Mapping[str, Mapping[str, StoredTensor]], wanted: list[str]) -> Mapping[str, StoredTensor]:
    """The pool under the base model; every copy must hold what is `wanted`, nothing else, with the same bits."""
    first = pools[""]
    for owner, pool in pools.items():
        for name in wanted:
            if name not in pool:
                where = f"{owner}.prefix_tuning.pool" if owner else "prefix_tuning"
                raise ModuleError(f"tensor '{name}' of '{where}' is missing; {SAVE_AGAIN}")
            one, two = first[name], pool[name]
            if (one.dtype, one.shape) != (two.dtype, two.shape) or bytes(one.data) != bytes(two.data):
                raise ModuleError(
                    f"tensors '{one.name}' and '{two.name}' are repeats of one another but differ; "
                    "download or copy the module again"
                )
        odd = next((tensor for name, tensor in pool.items() if name not in wanted), None)
        if odd is not None:
            raise ModuleError(
                f"tensor '{odd.name}' is there although the configuration has no such prefix; {SAVE_AGAIN}"
            )
    return first


def _sizes(
    config: Mapping[str, object], pool: Mapping[str, StoredTensor], layers: int
) -> tuple[int, tuple[int, int] | None]:
    """The width of the keys of one of `layers`, as "self_prefix" shows, and the projection's bottleneck and width."""
    method = method_fields(config)
    (length,) = sizes(method, ("prefix_length",))
    name = "self_prefix.control_trans" if method["flat"] else "self_prefix.control_trans.2.bias"
    tensor, share = pool[name], layers * 2 * (length if method["flat"] else 1)
    whole = tensor.shape[0] if len(tensor.shape) == 1 else 0
    if whole < 1 or whole % share:
        raise ModuleError(
            f"tensor '{tensor.name}' has shape {tensor.shape}, which is not keys and values for "
            f"{layers} layers; {SAVE_AGAIN}"
        )
    if method["flat"]:
        return whole // share, None
    (bottleneck,) = sizes(method, ("bottleneck_size",))
    (width,) = sizes(config, ("hidden_size",))
    return whole // share, (bottleneck, width)
