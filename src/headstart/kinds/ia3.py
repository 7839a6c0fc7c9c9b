"""IA3: a learned vector that scales each target layer's output or input (Liu et al., 2022, §3.3), as PEFT saves it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self

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
from headstart.formats import IA3Layout, StoredModule
from headstart.formats.libraries.peft_config import PREFIX
from headstart.formats.libraries.peft_ia3 import input_scaled
from headstart.kinds.contract import Module, ParameterStack, as_fresh, card_of, require_backbone_of
from headstart.kinds.peft_config import peft_config
from headstart.kinds.settings import IA3Settings
from headstart.kinds.targets import check_layers, chosen, ends_with, layer_widths, linear_layers, names_of, transposed
from headstart.kinds.tensors import to_torch

__all__ = ["IA3Module", "IA3Stack", "Scale"]


class Scale(NamedTuple):
    """One target's factors: `vector` (D,), which scales the layer's input if `feedforward`, else its output."""

    vector: Tensor
    feedforward: bool


@dataclass(frozen=True, eq=False)
class IA3Module(Module):
    """An IA3 module; `scales` maps the backbone's layer paths to their factors, float32 on the CPU."""

    kind = "ia3"
    settings = IA3Settings
    scales: Mapping[str, Scale]

    @classmethod
    def from_stored(cls, stored: StoredModule) -> IA3Module:
        """The module that a validated PEFT folder holds."""
        layout = stored.layout
        assert isinstance(layout, IA3Layout)  # `load_module` chose this class by the kind on the card
        scales = {
            path: Scale(to_torch(stored.tensors[t.tensor]).float().flatten(), t.feedforward)
            for path, t in layout.targets.items()
        }
        return cls(stored.card, stored.config, scales)

    @classmethod
    def fresh(cls, backbone: Backbone, settings: IA3Settings, *, name: str, seed: int) -> IA3Module:
        """All factors 1, as PEFT begins, which leaves the backbone's function as it is; the seed changes nothing.

        Raises `SettingError` if no layer of the backbone matches the targets, or a feed-forward name is not a target.
        """
        del seed
        targets, feedforward = _names(backbone, settings)
        scales, scales_input = {}, input_scaled(feedforward)
        for path, layer in chosen(dict(linear_layers(backbone)), targets, backbone).items():
            scaled = scales_input(path)
            scales[path] = Scale(torch.ones(layer_widths(layer)[0 if scaled else 1]), scaled)
        config = peft_config(
            IA3Config,
            backbone,
            target_modules=list(targets),
            feedforward_modules=list(feedforward),
            fan_in_fan_out=transposed(backbone, scales),
        )
        held = (scale.vector for scale in scales.values())
        card = card_of(cls.kind, held, name=name, backbone=backbone, targets=tuple(sorted(scales)))
        return cls(card, config, scales)

    def state_dict(self) -> dict[str, Tensor]:
        """`base_model.model.<layer>.ia3_l`, (1, in) for a feed-forward layer and (out, 1) for any other."""
        return {
            f"{PREFIX}{path}.ia3_l": vector.unsqueeze(0 if feedforward else 1)
            for path, (vector, feedforward) in self.scales.items()
        }

    def parameters(self) -> dict[str, Tensor]:
        """`<layer>.l`, the factors themselves, (D,)."""
        return {f"{path}.l": scale.vector for path, scale in self.scales.items()}

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Self:
        """The same module with other factors."""
        scales = {path: scale._replace(vector=parameters[f"{path}.l"]) for path, scale in self.scales.items()}
        return replace(self, scales=scales)

    def aligned_to(self, other: Module) -> Module:
        """The module itself; refuses a module that scales the other side of a layer."""
        super().aligned_to(other)
        assert isinstance(other, IA3Module)
        for path, scale in self.scales.items():
            if scale.feedforward != other.scales[path].feedforward:
                raise MergeError(
                    f"'{self.name}' and '{other.name}' scale different sides of {path}, one its input and one its "
                    "output; leave one out"
                )
        return self

    def origin(self, backbone: Backbone | None) -> dict[str, Tensor]:
        """All factors 1."""
        del backbone
        return {name: torch.ones_like(value) for name, value in self.parameters().items()}

    def reset(self, *, seed: int) -> IA3Module:
        """The same layers with all factors 1."""
        del seed
        ones = self.with_parameters(self.origin(None))
        return replace(ones, card=as_fresh(self.card), head=None)

    def check(self, backbone: Backbone) -> None:
        """Refuse a layer that the backbone lacks, another width or side, another stated backbone, or too few layers."""
        require_backbone_of(self.card, backbone)
        config = self._closed_config(backbone)
        scales_input = input_scaled(config["feedforward_modules"])
        widths = {
            path: (len(vector), None) if feedforward else (None, len(vector))
            for path, (vector, feedforward) in self.scales.items()
        }
        check_layers(widths, config, name=self.name, backbone=backbone)
        for path, scale in self.scales.items():
            if self.config.get("target_modules") is None and not ends_with(path, config["target_modules"]):
                raise ModuleError(
                    f"module '{self.name}' leaves target_modules open, and PEFT's default for {backbone.name} does not "
                    f"have {path}; state target_modules in its configuration"
                )
            if scales_input(path) != scale.feedforward:
                side = "input" if scale.feedforward else "output"
                raise ModuleError(
                    f"module '{self.name}' leaves feedforward_modules open, and PEFT's default for {backbone.name} "
                    f"does not scale the {side} of {path}; state feedforward_modules in its configuration"
                )

    def _closed_config(self, backbone: Backbone) -> dict[str, Any]:
        """The configuration; if it names no layers, it gets PEFT's defaults for the architecture."""
        config = dict(self.config)
        for field, default in zip(("target_modules", "feedforward_modules"), _defaults(backbone), strict=True):
            if config.get(field) is None and default is None:
                raise ModuleError(
                    f"module '{self.name}' leaves {field} open and PEFT knows no default for "
                    f"'{backbone.model.config.model_type}'; state {field} in its configuration"
                )
            if config.get(field) is None:
                config[field] = list(default or ())
        return config

    @property
    def stack_key(self) -> Hashable:
        """Layers, widths and sides."""
        return tuple((path, len(vector), feedforward) for path, (vector, feedforward) in sorted(self.scales.items()))

    @classmethod
    def stack(cls, modules: Sequence[Self], backbone: Backbone, *, dtype: torch.dtype | None = None) -> IA3Stack:
        """Hold the modules' factors side by side on the backbone's device; in float32 unless told otherwise.

        PEFT also keeps them in float32: rounded to bfloat16, every activation would be up to 0.4 % too large or small.
        """
        return IA3Stack(modules, device=backbone.device, dtype=dtype or torch.float32)


class IA3Stack(ParameterStack["IA3Module"]):
    """N IA3 modules of equal shapes: `<layer>.l` (N, D)."""

    concurrent = True

    def attach(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Scale the output of every target layer, or the input of a feed-forward one, module n on its own rows."""
        return attached(self._hooks(backbone))

    def _hooks(self, backbone: Backbone) -> Iterator[RemovableHandle]:
        for path, (_, feedforward) in self.like.scales.items():
            layer = backbone.model.get_submodule(path)
            if feedforward:
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


def _defaults(backbone: Backbone) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """PEFT's own targets and feed-forward layers for this architecture; `None` if it knows none."""
    family = backbone.model.config.model_type
    targets = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(family)
    feedforward = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(family)
    return targets and tuple(targets), feedforward and tuple(feedforward)


def _names(backbone: Backbone, settings: IA3Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The targets and the feed-forward layers among them; raises `SettingError`, see `IA3Module.fresh`."""
    usual, usual_feedforward = _defaults(backbone)
    usual_feedforward = names_of(backbone, "down") if usual_feedforward is None else usual_feedforward
    own = names_of(backbone, "key", "value", "query_key_value", "down")
    targets = settings.targets or usual or own
    if not targets:
        family = backbone.model.config.model_type
        raise SettingError(f"no default IA3 targets are known for '{family}'; name the layers with targets")
    if settings.feedforward is None:
        return targets, tuple(target for target in targets if ends_with(target, usual_feedforward))
    extra = set(settings.feedforward) - set(targets)
    if extra:
        raise SettingError(f"'{min(extra)}' is a feed-forward name but not a target; add it to targets")
    return targets, settings.feedforward
