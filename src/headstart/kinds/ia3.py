"""IA3: a learned vector that scales each target layer's output or input (Liu et al., 2022, §3.3), as PEFT saves it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import IA3Config
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
)
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from headstart.backbones import Backbone, attached
from headstart.errors import MergeError, ModuleError, SettingError
from headstart.formats import StoredModule
from headstart.formats.libraries.peft_config import PREFIX
from headstart.formats.libraries.peft_ia3 import input_scaled
from headstart.formats.libraries.peft_layers import ends_with
from headstart.kinds.contract import Module, ParameterStack, ValuesModule, card_of, require_backbone_of
from headstart.kinds.peft_config import peft_config
from headstart.kinds.settings import IA3Settings
from headstart.kinds.targets import check_layers, chosen, layer_widths, linear_layers, names_of, transposed
from headstart.kinds.tensors import to_torch
from headstart.kinds.updates import Scaling

__all__ = ["IA3Module", "IA3Stack"]

DEFAULTS = {
    "target_modules": TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    "feedforward_modules": TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
}
"""PEFT's values of these fields by architecture."""


class IA3Stack(ParameterStack["IA3Module"]):
    """N IA3 modules of equal shapes: `<layer>.l` (N, D)."""

    concurrent = True

    def attach(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Scale the output of every target layer, or the input of a feed-forward one, module n on its own rows."""
        return attached(self._hooks(backbone))

    def _hooks(self, backbone: Backbone) -> Iterator[RemovableHandle]:
        for path in self.like.vectors:
            layer = backbone.model.get_submodule(path)
            if path in self.like.inputs:
                yield layer.register_forward_pre_hook(partial(self._scale_input, path))
            else:
                yield layer.register_forward_hook(partial(self._scale_output, path))

    def _scale_input(self, path: str, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self._scaled(path, args[0]), *args[1:])

    def _scale_output(self, path: str, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self._scaled(path, output)

    def _scaled(self, path: str, rows: Tensor) -> Tensor:
        factors = self.parameters[f"{path}.l"].unsqueeze(1)
        # The product is taken in the wider of the two types and rounded once.
        scaled = rows.reshape(self.size, -1, rows.shape[-1]) * factors
        return scaled.to(rows.dtype).view(rows.shape)


@dataclass(frozen=True, eq=False)
class IA3Module(ValuesModule):
    """An IA3 module; `values` are the factors, `<layer>.l` (D,).

    They scale the input of the layers whose paths are in `inputs`, and the output of the others.
    """

    kind = "ia3"
    settings = IA3Settings
    stack_family = IA3Stack
    # As in PEFT: rounded to bfloat16, factors would make every activation up to 0.4 % too large or small.
    stack_dtype = torch.float32
    inputs: frozenset[str]

    @classmethod
    def from_stored(cls, stored: StoredModule) -> IA3Module:
        """The module that a validated PEFT folder holds."""
        widths = stored.layout.widths
        vectors = {path: stored.tensors[f"{PREFIX}{path}.ia3_l"] for path in widths}
        values = {f"{path}.l": to_torch(vector).float().flatten() for path, vector in vectors.items()}
        return cls(stored.card, stored.config, values, frozenset(path for path in widths if widths[path][1] is None))

    @classmethod
    def fresh(cls, backbone: Backbone, settings: IA3Settings, *, name: str, seed: int) -> IA3Module:
        """All factors 1, as PEFT begins, which leaves the backbone's function as it is; the seed changes nothing.

        Raises `SettingError` if no layer of the backbone matches the targets, or a feed-forward name is not a target.
        """
        del seed
        targets, feedforward = _names(backbone, settings)
        layers = chosen(dict(linear_layers(backbone)), targets, backbone)
        inputs = frozenset(filter(input_scaled(feedforward), layers))
        sizes = {path: layer_widths(layer)[0 if path in inputs else 1] for path, layer in layers.items()}
        config = peft_config(
            IA3Config,
            backbone,
            target_modules=list(targets),
            feedforward_modules=list(feedforward),
            fan_in_fan_out=transposed(backbone, layers),
        )
        values = {f"{path}.l": torch.ones(size) for path, size in sizes.items()}
        card = card_of(cls.kind, values.values(), name=name, backbone=backbone, targets=tuple(sorted(layers)))
        return cls(card, config, values, inputs)

    @property
    def vectors(self) -> dict[str, Tensor]:
        """The factors by the paths of their layers."""
        return {name.removesuffix(".l"): value for name, value in self.values.items()}

    def updates(self) -> dict[str, Scaling]:
        """diag(l − 1) by layer, of its input or its output."""
        return {path: Scaling(vector - 1, path not in self.inputs) for path, vector in self.vectors.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """`base_model.model.<layer>.ia3_l`, (1, in) for a feed-forward layer and (out, 1) for any other."""
        sides = {path: 0 if path in self.inputs else 1 for path in self.vectors}
        return {f"{PREFIX}{path}.ia3_l": value.unsqueeze(sides[path]) for path, value in self.vectors.items()}

    def aligned_to(self, other: Module) -> Module:
        """The module itself; refuses a module that scales the other side of a layer."""
        super().aligned_to(other)
        assert isinstance(other, IA3Module)
        unlike = self.inputs ^ other.inputs
        if unlike:
            raise MergeError(
                f"'{self.name}' and '{other.name}' scale different sides of {min(unlike)}, one its input and one its "
                f"output; leave one out {self.exclude_hint}"
            )
        return self

    def origin(self, backbone: Backbone | None) -> dict[str, Tensor]:
        """All factors 1."""
        del backbone
        return {name: torch.ones_like(value) for name, value in self.parameters().items()}

    def reset(self, *, seed: int) -> IA3Module:
        """The same layers with all factors 1."""
        del seed
        return self.begun(self.origin(None))

    def check(self, backbone: Backbone) -> None:
        """Refuse a layer that the backbone lacks, another width or side, another stated backbone, or too few layers."""
        require_backbone_of(self.card, backbone)
        config = self._closed_config(backbone)
        scales_input = input_scaled(config["feedforward_modules"])
        widths = {
            path: (len(vector), None) if path in self.inputs else (None, len(vector))
            for path, vector in self.vectors.items()
        }
        check_layers(widths, config, name=self.name, backbone=backbone)
        for path in widths:
            if self.config.get("target_modules") is None and not ends_with(path, config["target_modules"]):
                raise ModuleError(
                    f"module '{self.name}' leaves target_modules open, and PEFT's default for {backbone.name} does not "
                    f"have {path}; state target_modules in its configuration"
                )
            if scales_input(path) != (path in self.inputs):
                side = "input" if path in self.inputs else "output"
                raise ModuleError(
                    f"module '{self.name}' leaves feedforward_modules open, and PEFT's default for {backbone.name} "
                    f"does not scale the {side} of {path}; state feedforward_modules in its configuration"
                )

    def _closed_config(self, backbone: Backbone) -> dict[str, Any]:
        """The configuration; if it names no layers, it gets PEFT's defaults for the architecture."""
        config = dict(self.config)
        for field in (field for field in DEFAULTS if config.get(field) is None):
            config[field] = _default(field, backbone)
            if config[field] is None:
                raise ModuleError(
                    f"module '{self.name}' leaves {field} open and PEFT knows no default for "
                    f"'{backbone.model.config.model_type}'; state {field} in its configuration"
                )
        return config

    @property
    def stack_key(self) -> Hashable:
        """Layers, widths and sides."""
        return (self.inputs, super().stack_key)


def _default(field: str, backbone: Backbone) -> list[str] | None:
    """PEFT's own value of a field for this architecture; `None` if it knows none."""
    found = DEFAULTS[field].get(backbone.model.config.model_type)
    return None if found is None else list(found)


def _names(backbone: Backbone, settings: IA3Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The targets and the feed-forward layers among them; raises `SettingError`, see `IA3Module.fresh`."""
    usual, usual_feedforward = (_default(field, backbone) for field in DEFAULTS)
    usual_feedforward = list(names_of(backbone, "down")) if usual_feedforward is None else usual_feedforward
    own = names_of(backbone, "key", "value", "query_key_value", "down")
    targets = settings.targets or tuple(usual or own)
    if not targets:
        family = backbone.model.config.model_type
        raise SettingError(f"no default IA3 targets are known for '{family}'; name the layers with targets")
    if settings.feedforward is None:
        return targets, tuple(target for target in targets if ends_with(target, usual_feedforward))
    extra = set(settings.feedforward) - set(targets)
    if extra:
        raise SettingError(f"'{min(extra)}' is a feed-forward name but not a target; add it to targets")
    return targets, settings.feedforward
