"""BitFit: the backbone's own bias terms, tuned (Ben Zaken et al., 2022), in a PEFT-like folder of Headstart's own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from headstart.backbones import Backbone, attached
from headstart.errors import MergeError, ModuleError, SettingError
from headstart.formats import StoredModule
from headstart.formats.libraries.peft_config import PREFIX
from headstart.formats.libraries.peft_layers import ends_with
from headstart.kinds.contract import ParameterStack, ValuesModule, card_of, require_backbone_of
from headstart.kinds.settings import BitFitSettings
from headstart.kinds.tensors import to_torch
from headstart.kinds.updates import Update

__all__ = ["BitFitModule", "BitFitStack", "bias_terms"]


class BitFitStack(ParameterStack["BitFitModule"]):
    """N BitFit modules of equal shapes: `<layer>.bias` (N, out)."""

    concurrent = True

    def attach(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Add the change of its bias term to every layer's output, module n on its own rows."""
        layers = ((path, backbone.model.get_submodule(path)) for path in self.like.biases)
        return attached(layer.register_forward_hook(partial(self._add_change, path)) for path, layer in layers)

    def _add_change(self, path: str, layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        change = self.parameters[f"{path}.bias"] - _bias(layer)
        changed = output.reshape(self.size, -1, output.shape[-1]) + change.unsqueeze(1)
        return changed.to(output.dtype).view(output.shape)


@dataclass(frozen=True, eq=False)
class BitFitModule(ValuesModule):
    """A BitFit module; `values` are the tuned bias terms themselves, `<layer>.bias` (out,).

    They are the bias terms, not what was added to them, because these are what Zhou et al. (2022) embed. A weighted
    average of either is the same function, since the weights sum to 1.
    """

    kind = "bitfit"
    settings = BitFitSettings
    stack_family = BitFitStack
    stack_dtype = torch.float32  # the tuned change is often smaller than bfloat16's rounding of the bias term itself

    @classmethod
    def from_stored(cls, stored: StoredModule) -> BitFitModule:
        """The module that a validated folder holds."""
        values = {name.removeprefix(PREFIX): to_torch(tensor).float() for name, tensor in stored.tensors.items()}
        return cls(stored.card, stored.config, values)

    @classmethod
    def fresh(cls, backbone: Backbone, settings: BitFitSettings, *, name: str, seed: int) -> BitFitModule:
        """The backbone's own bias terms, so that its function stays as it is; the seed changes nothing.

        Raises `SettingError` if the backbone has no bias terms, none at the targets, or some that no layer adds to its
        output and that would stay frozen.
        """
        del seed
        chosen = _chosen(backbone, settings.targets)
        values = _own_biases(chosen)
        config = {
            "peft_type": "BITFIT",
            "task_type": backbone.task_type,
            "base_model_name_or_path": backbone.place,
            "inference_mode": True,
            "target_modules": None if settings.targets is None else sorted(settings.targets),
        }
        card = card_of(cls.kind, values.values(), name=name, backbone=backbone, targets=tuple(sorted(chosen)))
        return cls(card, config, values)

    @property
    def biases(self) -> dict[str, Tensor]:
        """The bias terms by the paths of their layers."""
        return {name.removesuffix(".bias"): value for name, value in self.values.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """`base_model.model.<layer>.bias`, (out,)."""
        return {f"{PREFIX}{name}": value for name, value in self.values.items()}

    def updates(self) -> Mapping[str, Update]:
        """Not offered: a bias is a constant."""
        raise ModuleError(
            f"'{self.name}' is a bitfit module, which adds the same to every token whatever the backbone reads; "
            "use an indicator that runs the module"
        )

    def origin(self, backbone: Backbone | None) -> dict[str, Tensor]:
        """The backbone's own bias terms."""
        if backbone is None:
            raise MergeError(
                f"'{self.name}' is a bitfit module, whose change is measured from its backbone's biases; give backbone="
            )
        return self.untuned(backbone, seed=0).parameters()

    def reset(self, *, seed: int) -> BitFitModule:
        """Not offered: without the backbone, its own bias terms are unknown; see `untuned`."""
        del seed
        raise ModuleError(f"'{self.name}' is a bitfit module, which begins from its backbone's biases; use untuned")

    def untuned(self, backbone: Backbone, *, seed: int) -> BitFitModule:
        """The same layers with the backbone's own bias terms."""
        del seed
        layers, _ = bias_terms(backbone.model, below=backbone.below_head)
        self.check(backbone)
        return self.begun(_own_biases({path: layers[path] for path in self.biases}))

    def check(self, backbone: Backbone) -> None:
        """Refuse a bias that the backbone lacks, another length, another stated backbone, or too few of its biases."""
        require_backbone_of(self.card, backbone)
        layers, others = bias_terms(backbone.model, below=backbone.below_head)
        targets = self.config.get("target_modules")
        wanted = [path for path in layers if targets is None or ends_with(path, targets)]
        for path, bias in self.biases.items():
            if path not in layers:
                raise ModuleError(
                    f"module '{self.name}' has a bias for {path}, which in {backbone.name} "
                    f"{'has none' if path in dict(backbone.model.named_modules()) else 'does not exist'}; "
                    "load the backbone it was tuned on, or leave it out"
                )
            if len(bias) != len(_bias(layers[path])):
                raise ModuleError(
                    f"the bias of {path} has {len(bias)} numbers in module '{self.name}' but "
                    f"{len(_bias(layers[path]))} in {backbone.name}; load the backbone it was tuned on, or leave it out"
                )
        missing = [path for path in wanted if path not in self.biases] + (others if targets is None else [])
        if missing:
            stated = "every bias" if targets is None else "its target_modules"
            raise ModuleError(
                f"module '{self.name}' stands for {stated} but holds none for {missing[0]}; "
                "it was made for another backbone: load that one, or leave the module out"
            )


def bias_terms(model: nn.Module, *, below: str = "") -> tuple[dict[str, nn.Module], list[str]]:
    """The layers whose bias is added to their output, by path, and the names of all other bias parameters.

    The former are linear layers (including GPT-2's Conv1D) and LayerNorm. Only paths that begin with `below` count.
    """
    layers = {
        path: layer
        for path, layer in model.named_modules()
        if path.startswith(below)
        and isinstance(layer, nn.Linear | Conv1D | nn.LayerNorm)
        and isinstance(layer.bias, nn.Parameter)
    }
    found = {id(_bias(layer)) for layer in layers.values()}
    everything = model.named_parameters(remove_duplicate=False)
    biases = [(name, value) for name, value in everything if name.startswith(below) and name.endswith("bias")]
    return layers, [name for name, value in biases if id(value) not in found]


def _chosen(backbone: Backbone, targets: tuple[str, ...] | None) -> dict[str, nn.Module]:
    """The layers whose bias a fresh module tunes; raises `SettingError`, see `BitFitModule.fresh`."""
    layers, others = bias_terms(backbone.model, below=backbone.below_head)
    if not layers and not others:
        raise SettingError(
            f"{backbone.name} has no bias terms: none of its linear layers and norms has any, unlike GPT-2 with "
            "transformer.h.0.attn.c_attn.bias and transformer.h.0.ln_1.bias; tune another kind, such as lora or ia3"
        )
    if targets is None and others:
        raise SettingError(
            f"{backbone.name} has bias terms that belong to no linear layer or LayerNorm, such as {others[0]}, and "
            "cannot be tuned; name the layers to tune with targets"
        )
    chosen = {path: layer for path, layer in layers.items() if targets is None or ends_with(path, targets)}
    if not chosen:
        raise SettingError(
            f"no layer of {backbone.name} with a bias is called {' or '.join(targets or ())}; name layers such as "
            f"{', '.join(list(layers)[:3])} with targets"
        )
    return chosen


def _own_biases(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{path}.bias": _bias(layer).detach().float().cpu().clone() for path, layer in layers.items()}


def _bias(layer: nn.Module) -> Tensor:
    return layer.get_parameter("bias")
