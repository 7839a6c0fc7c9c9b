"""What a PEFT LoRA module is, read from its configuration and its tensors' shapes; pure, without torch.

LoRA (Hu et al. 2021, section 4.1) adds s·B·A to a linear layer's weight, with A of shape (r, in), B of (out, r) and
s = α/r, or α/√r in rank-stabilized LoRA (Kalajdzievski 2023). For an embedding of V tokens, A is (r, V). A module with
any other function either runs through PEFT itself or is refused by name.
"""

import math
import re
from collections import defaultdict
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from headstart.errors import ModuleError
from headstart.formats.layout import Layout
from headstart.formats.libraries.peft_config import (
    IDENTITY,
    LARGEST,
    PREFIX,
    SAVE_AGAIN,
    Fields,
    require_matrix,
    require_shape,
)
from headstart.formats.libraries.peft_layers import PatternTable, Targets, well_formed

__all__ = ["FIELDS", "OTHER_DENSE", "THROUGH_PEFT", "LoraLayout", "LoraTarget", "excluded_dense", "lora_layout"]

THROUGH_PEFT = {"use_dora": "DoRA", "lora_bias": "LoRA biases", "bias": "trained biases"}
"""Fields whose variant runs one module at a time through PEFT itself, and the variant's name."""

FIELDS = Fields(
    handled={
        "alpha_pattern", "exclude_modules", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha",
        "r", "rank_pattern", "target_modules", "use_rslora", *THROUGH_PEFT,
    },
    harmless=IDENTITY | {
        "task_type",
        # how A and B were initialized, or a default without effect
        "corda_config", "eva_config", "loftq_config", "lora_ga_config", "megatron_core", "qalora_group_size",
        # active only while PEFT trains; never saved
        "lora_dropout", "runtime_config",
        # how the layer stores its own weight: A and B have one orientation either way
        "fan_in_fan_out",
    },
    refused={
        "alora_invocation_tokens": "activated LoRA works on a part of the tokens only",
        "arrow_config": "Arrow routes between several modules",
        "ensure_weight_tying": "it also adapts tied embeddings",
        "kasa_config": "KaSA changes the backbone's own weights",
        "layer_replication": "it changes the backbone's layers",
        "megatron_config": "it is for Megatron's parallel layers",
        "modules_to_save": "it carries whole layers, such as a classification head, beside the LoRA tensors",
        "monteclora_config": "MonteCLoRA samples its weights",
        "target_parameters": "it adapts parameters that belong to no linear layer",
        "trainable_token_indices": "it carries token embeddings",
        "use_bdlora": "block-diagonal LoRA stores its factors in another form",
        "use_qalora": "QALoRA pools its inputs",
        "velora_config": "VeLoRA carries projection buffers",
    },
)  # fmt: skip
"""The fields of PEFT 0.21's LoraConfig."""

PLAIN_INITS = frozenset({"true", "false", "none", "gaussian", "eva", "orthogonal", "mica"})
"""Values of `init_lora_weights` that leave the backbone's weights alone. The others (PiSSA, OLoRA, CorDA, LoRA-GA,
LoftQ) subtract from them whenever PEFT loads the module, unless it was converted when it was saved."""

OTHER_DENSE = "attention.output.dense"
"""The other path in a block of BERT that ends with "output.dense"."""

USUAL = 8
"""PEFT's rank and α if the configuration states none."""

A, B = ".lora_A.weight", ".lora_B.weight"
EMBEDDING_A, EMBEDDING_B = ".lora_embedding_A", ".lora_embedding_B"
MAGNITUDE, LORA_BIAS, BASE_BIAS = ".lora_magnitude_vector", ".lora_B.bias", ".base_layer.bias"
BASE_WEIGHT = ".base_layer.weight"
SUFFIXES = (A, B, EMBEDDING_A, EMBEDDING_B, MAGNITUDE, LORA_BIAS, BASE_BIAS, BASE_WEIGHT)


@dataclass(frozen=True)
class LoraTarget:
    """One adapted layer: names of its tensors A (rank, in) and B (out, rank), and its factor (α/r or α/√r).

    For an embedding, `in_features` is the number of tokens. `copy` names the tensor that repeats the backbone's own
    weight: PEFT saves one beside adapted token embeddings and language-model heads.
    """

    a: str
    b: str
    rank: int
    in_features: int
    out_features: int
    scaling: float
    embedding: bool = False
    copy: str | None = None


@dataclass(frozen=True)
class LoraLayout(Layout):
    """The targets by backbone layer ("model.layers.0.self_attn.q_proj"), in order of name.

    If `through_peft` names variants, A, B and the factor are not the whole function.
    """

    targets: dict[str, LoraTarget]


def excluded_dense(targets: Container[str]) -> list[str] | None:
    """PEFT's `exclude_modules` if "output.dense" is to name the feed-forward layer of BERT's blocks only."""
    return [OTHER_DENSE] if "output.dense" in targets and OTHER_DENSE not in targets else None


def lora_layout(config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> LoraLayout:
    """The layout of a LoRA module; see `FolderReader.layout`."""
    _check_fields(config)
    groups = _group(shapes)
    variants = _variants(config, groups)
    with well_formed("the configuration"):
        stated = _Stated(
            config, Targets.of(config), _patterns(config, "rank_pattern"), _patterns(config, "alpha_pattern")
        )
    targets = {layer: _target(stated, layer, groups[layer], shapes=shapes) for layer in sorted(groups)}
    for layer, target in targets.items():
        for suffix in (MAGNITUDE, LORA_BIAS, BASE_BIAS):
            name = groups[layer].get(suffix)
            if name is not None:
                require_shape(name, shapes[name], (target.out_features,))
        if target.copy is not None:
            widths = (target.in_features, target.out_features)
            require_shape(target.copy, shapes[target.copy], widths if target.embedding else widths[::-1])
            if variants:
                raise ModuleError(
                    f"tensor '{target.copy}' repeats the backbone's own weight beside a variant "
                    f"({' + '.join(variants)}), where it cannot be checked; save the module again with "
                    "save_embedding_layers=False"
                )
    scalings = {target.scaling for target in targets.values()}
    return LoraLayout(
        " + ".join(variants) or None,
        targets,
        widths={layer: (target.in_features, target.out_features) for layer, target in targets.items()},
        rank=max((target.rank for target in targets.values()), default=None),
        scaling=scalings.pop() if len(scalings) == 1 else None,
        holds_backbone=any(target.copy is not None for target in targets.values()),
    )


def _check_fields(config: Mapping[str, object]) -> None:
    FIELDS.check(config)
    init = config.get("init_lora_weights")
    if str(init).lower() not in PLAIN_INITS:
        raise ModuleError(
            f"field 'init_lora_weights' is {init!r}, which changes the backbone's weights when PEFT "
            "loads the module; save it with `path_initial_model_for_weight_conversion` to turn it into plain LoRA"
        )


def _group(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, str]]:
    """Tensor names by layer and suffix. Raises `ModuleError` on a tensor that belongs to no LoRA layer."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for name in shapes:
        suffix = next((end for end in SUFFIXES if name.endswith(end)), None)
        layer = name.removeprefix(PREFIX)[: -len(suffix)] if suffix else ""
        if suffix is None or not layer or not name.startswith(PREFIX):
            raise ModuleError(f"tensor '{name}' {_why_unknown(name)}")
        groups[layer][suffix] = name
    for layer, names in groups.items():
        if not names.keys() & {A, B, EMBEDDING_A, EMBEDDING_B}:
            raise ModuleError(
                f"tensor '{next(iter(names.values()))}' belongs to a layer without LoRA tensors; "
                "Headstart cannot use a module that trains other layers"
            )
        if names.keys() & {A, B} and names.keys() & {EMBEDDING_A, EMBEDDING_B}:
            raise ModuleError(f"the tensors of '{layer}' are those of an embedding and of a linear layer; {SAVE_AGAIN}")
        for suffix in _factors(names):
            if suffix not in names:
                raise ModuleError(f"tensor '{PREFIX}{layer}{suffix}' is missing; {SAVE_AGAIN}")
    return dict(groups)


def _factors(names: Container[str]) -> tuple[str, str]:
    """The suffixes of A and B in a layer that has tensors of these suffixes."""
    return (EMBEDDING_A, EMBEDDING_B) if EMBEDDING_A in names or EMBEDDING_B in names else (A, B)


def _why_unknown(name: str) -> str:
    if re.search(r"\.lora_([AB]\.[^.]+\.weight|embedding_[AB]\.[^.]+)$", name):
        return f"still carries its adapter's name; {SAVE_AGAIN}"
    if not name.startswith(PREFIX):
        return f"does not begin with '{PREFIX}'; {SAVE_AGAIN}"
    return "is not part of a LoRA; train the module without saved heads, embeddings or biases of other layers"


def _variants(config: Mapping[str, object], groups: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Names of the variants present; configuration and tensors must agree on each."""
    variants = []
    for field, suffix in (("use_dora", MAGNITUDE), ("lora_bias", LORA_BIAS)):
        stated = bool(config.get(field))
        for layer, names in groups.items():
            if (suffix in names) != stated:
                raise ModuleError(
                    f"field '{field}' is {stated} but tensor '{PREFIX}{layer}{suffix}' is "
                    f"{'there' if suffix in names else 'missing'}; {SAVE_AGAIN}"
                )
        if stated:
            variants.append(THROUGH_PEFT[field])
    bias = config.get("bias", "none")
    if bias not in ("none", "all", "lora_only"):
        raise ModuleError(f"field 'bias' is {bias!r}, not 'none', 'all' or 'lora_only'; correct it")
    biased = next((names[BASE_BIAS] for names in groups.values() if BASE_BIAS in names), None)
    if biased and bias == "none":
        raise ModuleError(f"field 'bias' is 'none' but tensor '{biased}' is there; {SAVE_AGAIN}")
    return [*variants, THROUGH_PEFT["bias"]] if biased else variants


@dataclass(frozen=True)
class _Stated:
    """What the configuration says about layers."""

    config: Mapping[str, object]
    targets: Targets
    ranks: PatternTable
    alphas: PatternTable


def _patterns(config: Mapping[str, object], field: str) -> PatternTable:
    table = config.get(field) or {}
    if not isinstance(table, Mapping):
        raise TypeError(f"field '{field}' is not an object")
    return PatternTable.of(list(table))


def _target(
    stated: _Stated, layer: str, names: Mapping[str, str], *, shapes: Mapping[str, tuple[int, ...]]
) -> LoraTarget:
    a, b = (names[suffix] for suffix in _factors(names))
    for name in (a, b):
        require_matrix(name, shapes[name])
    (rank, in_features), (out_features, columns) = shapes[a], shapes[b]
    if rank != columns:
        raise ModuleError(f"tensor '{a}' has rank {rank} but '{b}' has rank {columns}; {SAVE_AGAIN}")
    with well_formed(f"the configuration for layer '{layer}'"):
        if layer not in stated.targets:
            raise ModuleError(
                f"the configuration does not target layer '{layer}', so PEFT would ignore tensor '{a}'; "
                "correct target_modules, exclude_modules or layers_to_transform"
            )
        said = _resolve(stated.config, stated.ranks.key(layer), field="r", patterns="rank_pattern")
        alpha = _resolve(stated.config, stated.alphas.key(layer), field="lora_alpha", patterns="alpha_pattern")
    if said != rank:
        raise ModuleError(
            f"tensor '{a}' has rank {rank} but the configuration says {said:g}; correct r or rank_pattern"
        )
    scaling = alpha / (math.sqrt(rank) if stated.config.get("use_rslora") else rank)
    return LoraTarget(a, b, rank, in_features, out_features, scaling, EMBEDDING_A in names, names.get(BASE_WEIGHT))


def _resolve(config: Mapping[str, object], key: str | None, *, field: str, patterns: str) -> int | float:
    """The value for a layer: that of pattern `key`, which its path matches, or the field's if it matches none."""
    table: Any = config.get(patterns)
    value = table[key] if key is not None else config.get(field, USUAL)
    where = f"'{patterns}' at '{key}'" if key is not None else f"'{field}'"
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise ValueError(f"field {where} is {value!r}, not a number")
    return value
