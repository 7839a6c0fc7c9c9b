"""Which layers of a backbone a module adapts, as PEFT's configurations name them, and whether they are there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from peft import LoraConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

from headstart.architectures import Role, architecture_of
from headstart.backbones import Backbone
from headstart.errors import ModuleError, SettingError
from headstart.formats import TASK_TYPES, Widths
from headstart.formats.libraries.peft_layers import Targets, ends_with

__all__ = [
    "check_biases",
    "check_layers",
    "chosen",
    "embedding_layers",
    "layer_widths",
    "linear_layers",
    "names_of",
    "require_widths",
    "transposed",
]


def layer_widths(layer: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer, (tokens, width) of an embedding; GPT-2's Conv1D holds its weight transposed."""
    first, second = layer.get_parameter("weight").shape
    return (first, second) if isinstance(layer, Conv1D | nn.Embedding) else (second, first)


def check_layers(
    widths: Mapping[str, Widths], config: Mapping[str, Any], *, name: str, backbone: Backbone, embeddings: bool = False
) -> None:
    """Raise `ModuleError` unless the module's layers are those, of those widths, that its configuration names here.

    A width that is `None` is unknown and fits. `embeddings`: whether the kind adapts token embeddings too.
    """
    layers = dict(linear_layers(backbone)) | (dict(embedding_layers(backbone)) if embeddings else {})
    others = {path for path, layer in backbone.named_layers() if isinstance(layer, nn.Embedding)} - layers.keys()
    odd = next((path for path in widths if path in others), None)
    if odd is not None:
        raise ModuleError(
            f"module '{name}' adapts {odd}, which is not a plain embedding of the tokens that {backbone.name} reads; "
            "Headstart cannot use it: leave it out"
        )
    here = {path: layer_widths(layer) for path, layer in layers.items()}
    require_widths(widths, here, name=name, backbone=backbone)
    fields = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    try:
        matcher = LoraConfig(**{key: config.get(key) for key in fields})
        targets = Targets.of(config)
    except (TypeError, ValueError, re.error) as error:
        raise ModuleError(f"the configuration of module '{name}' contradicts itself: {error}; correct it") from error
    if matcher.target_modules in (None, "all-linear"):
        # PEFT resolves these while it injects and never saves them so; which layers were meant is unknown.
        stated = config.get("target_modules")
        raise ModuleError(
            f"the configuration of module '{name}' says target_modules {stated!r}, which names no layers; "
            "save it again with PEFT's save_pretrained, which lists them"
        )
    named = {path for path in layers if path in targets}
    # In an encoder that finds spans, transformers leaves the pooler out, and so does PEFT.
    unread = f"{backbone.below_head}pooler." if config.get("task_type") == TASK_TYPES["span"] else None
    for path in sorted(path for path in named - widths.keys() if unread is None or not path.startswith(unread)):
        raise ModuleError(
            f"module '{name}' names {path} in target_modules but holds no tensors for it; "
            "it was made for a smaller backbone: load that one, or leave the module out"
        )


def require_widths(
    widths: Mapping[str, Widths], here: Mapping[str, tuple[int, int]], *, name: str, backbone: Backbone
) -> None:
    """Raise `ModuleError` unless every layer of a module exists and is as wide as the module's tensors say."""
    for path, (inputs, outputs) in widths.items():
        if path not in here:
            raise ModuleError(
                f"module '{name}' has tensors for {path}, which {backbone.name} does not have; "
                "load the backbone it was tuned on, or leave it out"
            )
        if inputs not in (None, here[path][0]) or outputs not in (None, here[path][1]):
            raise ModuleError(
                f"{path} is {_arrow(inputs, outputs)} in module '{name}' but {_arrow(*here[path])} in {backbone.name}; "
                "load the backbone it was tuned on, or leave it out"
            )


def check_biases(
    layers: Container[str], held: Container[str], config: Mapping[str, Any], *, name: str, backbone: Backbone
) -> None:
    """Raise `ModuleError` if a bias that was trained according to field "bias", in `layers` or any, is not `held`."""
    stated = config.get("bias")
    if stated not in ("all", "lora_only"):
        return
    for parameter, _ in backbone.model.named_parameters():
        path = parameter.removesuffix(".bias")
        if path != parameter and path not in held and (stated == "all" or path in layers):
            raise ModuleError(
                f"module '{name}' was trained with bias='{stated}' but holds no bias for {path}; "
                "save it again with PEFT's save_pretrained, or leave it out"
            )


def _arrow(inputs: int | None, outputs: int | None) -> str:
    return f"{'?' if inputs is None else inputs}→{'?' if outputs is None else outputs}"


def linear_layers(backbone: Backbone) -> Iterator[tuple[str, nn.Module]]:
    """Every linear layer by its path, including GPT-2's Conv1D."""
    for path, layer in backbone.named_layers():
        if isinstance(layer, nn.Linear | Conv1D):
            yield path, layer


def embedding_layers(backbone: Backbone) -> Iterator[tuple[str, nn.Embedding]]:
    """Every embedding that the backbone reads tokens with, by its path: one row of ids for each row of the batch.

    This leaves out embeddings that compute something else too (scaled or renormalized rows), those used at several
    sites, of which PEFT adapts one, and T5's `shared`, which only holds the weights of the two that are used.
    """
    model = backbone.model
    halves = (model.get_encoder(), model.get_decoder()) if backbone.seq2seq else (model,)
    used = {id(half.get_input_embeddings()) for half in halves}
    uses = Counter(id(layer) for _, layer in model.named_modules(remove_duplicate=False))
    for path, layer in backbone.named_layers():
        if type(layer) is nn.Embedding and id(layer) in used and uses[id(layer)] == 1 and layer.max_norm is None:
            yield path, layer


def names_of(backbone: Backbone, *roles: Role) -> tuple[str, ...]:
    """The names of the layers with this role in a backbone, such as "query"; none if its architecture is not known."""
    config = backbone.model.config
    architecture = architecture_of(config.model_type, config.to_dict())
    return () if architecture is None else architecture.names(*roles)


def chosen(layers: Mapping[str, nn.Module], targets: Sequence[str], backbone: Backbone) -> dict[str, nn.Module]:
    """Those of the layers that the targets name; raises `SettingError` if there are none."""
    found = {path: layer for path, layer in layers.items() if ends_with(path, targets)}
    if not found:
        raise SettingError(
            f"no layer of {backbone.name} that can be adapted is called {' or '.join(targets)}; name some of "
            f"{', '.join(sorted({path.rpartition('.')[2] for path in layers}))} with targets"
        )
    return found


def transposed(backbone: Backbone | None, paths: Iterable[str]) -> bool:
    """PEFT's `fan_in_fan_out`: if all layers are Conv1D, PEFT must be told that their weights are transposed."""
    layers = {} if backbone is None else dict(linear_layers(backbone))
    return all(isinstance(layers.get(path), Conv1D) for path in paths)
