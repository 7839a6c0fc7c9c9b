"""LoRA: a low-rank update ΔW = s·B·A beside each target layer (Hu et al., 2022), as PEFT saves it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from headstart.backbone import Backbone
from headstart.errors import MergeError, ModuleError, SettingError
from headstart.formats import LoraLayout, StoredModule
from headstart.kinds.contract import Module, Stack, as_fresh, require_backbone_of, rows_by_layer
from headstart.kinds.tensors import to_torch
from headstart.records import ModuleCard

__all__ = ["Factors", "LoraModule", "LoraSettings", "LoraStack"]

PREFIX = "base_model.model."


class Factors(NamedTuple):
    """One target's update: `a` (r, in), `b` (out, r), and `scaling` (α/r, or α/√r with rsLoRA)."""

    a: Tensor
    b: Tensor
    scaling: float


@dataclass(frozen=True)
class LoraSettings:
    """Shape of a fresh LoRA module.

    `rank` r and `alpha` give the scaling α/r ([PEWE]: r 10, α 16; [TuPaTE]: r 8, α 8). `targets`: layer names as in
    PEFT's `target_modules` (a layer matches when its path is or ends with one), or `None` for PEFT's default
    for the architecture.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | None = None


@dataclass(frozen=True)
class LoraModule(Module):
    """A LoRA module; `factors` maps the backbone's layer paths to their updates, float32 on the CPU."""

    kind = "lora"
    unequal_remedy = "merge them with space 'exact' or 'svd', or leave one out"
    settings = LoraSettings
    factors: Mapping[str, Factors]

    @classmethod
    def from_stored(cls, stored: StoredModule) -> LoraModule:
        """The module that a validated PEFT folder holds."""
        layout = stored.layout
        assert isinstance(layout, LoraLayout)  # `load_module` chose this class by the kind on the card
        factors = {
            path: Factors(to_torch(stored.tensors[t.a]).float(), to_torch(stored.tensors[t.b]).float(), t.scaling)
            for path, t in layout.targets.items()
        }
        return cls(stored.card, stored.config, factors)

    @classmethod
    def fresh(cls, backbone: Backbone, settings: LoraSettings, *, name: str, seed: int) -> LoraModule:
        """A random start: A uniform as PEFT draws it (Kaiming, a = √5), B zero, so that ΔW = 0.

        Raises `SettingError` when no layer of the backbone matches the targets.
        """
        targets = settings.targets or _default_targets(backbone)
        layers = {path: layer for path, layer in linear_layers(backbone) if ends_with(path, targets)}
        if not layers:
            raise SettingError(
                f"no layer of {backbone.name} is called {' or '.join(targets)}; name its layers with targets"
            )
        generator = torch.Generator().manual_seed(seed)
        factors = {}
        for path, layer in layers.items():
            inputs, outputs = layer_widths(layer)
            factors[path] = _fresh_factors(settings.rank, inputs, outputs, settings.alpha / settings.rank, generator)
        return cls.build(factors, name=name, backbone=backbone, targets=targets)

    @classmethod
    def build(
        cls,
        factors: Mapping[str, Factors],
        *,
        name: str,
        backbone: Backbone | None,
        targets: Sequence[str] | None = None,
    ) -> LoraModule:
        """A module out of factors, with a PEFT configuration that states their ranks and scalings exactly."""
        # The file keeps α, not α/r: the scaling is what α gives back, or the card would contradict the file by a bit.
        factors = {path: f._replace(scaling=_alpha(f) / f.a.shape[0]) for path, f in factors.items()}
        config = _peft_config(factors, targets=targets, backbone=backbone)
        card = _card(factors, name=name, backbone=backbone)
        return cls(card, config, factors)

    def tensors(self) -> dict[str, Tensor]:
        """`base_model.model.<layer>.lora_A.weight` and `….lora_B.weight`."""
        named = {}
        for path, factor in self.factors.items():
            named[f"{PREFIX}{path}.lora_A.weight"] = factor.a
            named[f"{PREFIX}{path}.lora_B.weight"] = factor.b
        return named

    def arrays(self) -> dict[str, Tensor]:
        """`<layer>.a` and `<layer>.b`, raw as tuned."""
        return {f"{path}.{part}": value for path, f in self.factors.items() for part, value in (("a", f.a), ("b", f.b))}

    def with_arrays(self, arrays: Mapping[str, Tensor]) -> Self:
        """The same module with other factors of the same shapes."""
        factors = {
            path: Factors(arrays[f"{path}.a"], arrays[f"{path}.b"], old.scaling) for path, old in self.factors.items()
        }
        return replace(self, factors=factors)

    def aligned_to(self, other: Module) -> Module:
        """The same ΔW with `other`'s scaling in every layer: the difference moves into B."""
        super().aligned_to(other)
        if not isinstance(other, LoraModule):
            raise MergeError(
                f"'{other.name}' is no plain LoRA module, so '{self.name}' cannot be merged with it; leave it out"
            )
        factors = {}
        for path, f in self.factors.items():
            scaling = other.factors[path].scaling
            if scaling == 0 != f.scaling:
                raise MergeError(f"'{other.name}' has scaling 0 at {path}, so it does nothing there; leave it out")
            factors[path] = f if f.scaling == scaling else Factors(f.a, f.b * (f.scaling / scaling), scaling)
        card = self.card.model_copy(update={"scaling": other.card.scaling})
        return replace(self, factors=factors, config=other.config, card=card)

    def reset(self, *, seed: int) -> LoraModule:
        """The same layers, ranks and scalings with ΔW = 0; see `fresh`."""
        generator = torch.Generator().manual_seed(seed)
        factors = {
            path: _fresh_factors(f.a.shape[0], f.a.shape[1], f.b.shape[0], f.scaling, generator)
            for path, f in self.factors.items()
        }
        return replace(self, factors=factors, card=as_fresh(self.card))

    def check(self, backbone: Backbone) -> None:
        """Refuse a layer that the backbone lacks, another shape, another stated backbone, or too few layers."""
        require_backbone_of(self.card, backbone)
        widths = {path: (f.a.shape[1], f.b.shape[0]) for path, f in self.factors.items()}
        check_layers(widths, self.config, self.name, backbone)
        check_biases(widths, (), self.config, name=self.name, backbone=backbone)

    @property
    def stack_key(self) -> Hashable:
        """Layers and ranks: equal shapes stack without padding."""
        return tuple((path, tuple(f.a.shape), tuple(f.b.shape)) for path, f in sorted(self.factors.items()))

    @classmethod
    def stack(cls, modules: Sequence[Self], backbone: Backbone, *, dtype: torch.dtype | None = None) -> LoraStack:
        """Hold the modules' factors side by side on the backbone's device."""
        return LoraStack(modules, device=backbone.device, dtype=dtype or backbone.dtype)

    def layer_vectors(self) -> tuple[Tensor, ...]:
        """Rows: the layers of one stack by their number; columns: A and B by path, flattened."""
        named = {
            path: torch.cat([self.factors[path].a.flatten(), self.factors[path].b.flatten()])
            for path in sorted(self.factors)
        }
        return rows_by_layer(named, self.name)


class LoraStack(Stack):
    """N LoRA modules of equal shapes: `<layer>.a` (N, r, in) and `<layer>.b` (N, out, r)."""

    def __init__(self, modules: Sequence[LoraModule], *, device: torch.device, dtype: torch.dtype) -> None:
        self._modules = list(modules)
        self.paths = list(modules[0].factors)
        parameters = {}
        self.scaling: dict[str, Tensor] = {}
        for path in self.paths:
            found = [module.factors[path] for module in modules]
            parameters[f"{path}.a"] = torch.stack([f.a for f in found]).to(device, dtype)
            parameters[f"{path}.b"] = torch.stack([f.b for f in found]).to(device, dtype)
            self.scaling[path] = torch.tensor([f.scaling for f in found], device=device).view(-1, 1, 1)
        super().__init__(len(modules), parameters)

    @contextlib.contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        """Add s·(x Aᵀ) Bᵀ to the output of every target layer, module n on its own rows."""
        handles = []
        try:
            for path in self.paths:
                layer = backbone.model.get_submodule(path)
                handles.append(layer.register_forward_hook(partial(self._add_update, path)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def module(self, index: int) -> LoraModule:
        """The module at `index`, in float32 on the CPU."""
        arrays = {name: value[index].detach().float().cpu().clone() for name, value in self.parameters.items()}
        return self._modules[index].with_arrays(arrays)

    def _add_update(self, path: str, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        a, b = (self.parameters[f"{path}.{part}"].to(args[0].dtype) for part in "ab")
        rows = args[0].reshape(self.size, -1, a.shape[2])
        # The scaling stays float32: rounded to bfloat16 it would make every update up to 0.4 % too large or small.
        hidden = (torch.bmm(rows, a.transpose(1, 2)) * self.scaling[path]).to(rows.dtype)
        update = torch.baddbmm(output.reshape(self.size, -1, b.shape[1]), hidden, b.transpose(1, 2))
        return update.view(output.shape)


def _fresh_factors(rank: int, inputs: int, outputs: int, scaling: float, generator: torch.Generator) -> Factors:
    bound = 1 / math.sqrt(inputs)
    a = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
    return Factors(a, torch.zeros(outputs, rank), scaling)


def layer_widths(layer: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer; GPT-2's Conv1D holds its weight transposed."""
    first, second = layer.get_parameter("weight").shape
    return (first, second) if isinstance(layer, Conv1D) else (second, first)


def check_layers(
    widths: Mapping[str, tuple[int | None, int | None]], config: Mapping[str, Any], name: str, backbone: Backbone
) -> None:
    """Raise `ModuleError` unless the module's layers are those, of those widths, that its configuration names here.

    A width that is `None` is not known and fits.
    """
    layers = dict(linear_layers(backbone))
    for path, (inputs, outputs) in widths.items():
        if path not in layers:
            raise ModuleError(
                f"module '{name}' has tensors for {path}, which {backbone.name} does not have; "
                "load the backbone it was tuned on, or leave it out"
            )
        here = layer_widths(layers[path])
        if inputs not in (None, here[0]) or outputs not in (None, here[1]):
            raise ModuleError(
                f"{path} is {_arrow(inputs, outputs)} in module '{name}' but {_arrow(*here)} in {backbone.name}; "
                "load the backbone it was tuned on, or leave it out"
            )
    fields = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    try:
        matcher = LoraConfig(**{key: config.get(key) for key in fields})
    except ValueError as error:
        raise ModuleError(f"the configuration of module '{name}' contradicts itself: {error}; correct it") from error
    if matcher.target_modules in (None, "all-linear"):
        # PEFT resolves these while it injects and never saves them so: which layers were meant cannot be told.
        stated = config.get("target_modules")
        raise ModuleError(
            f"the configuration of module '{name}' says target_modules {stated!r}, which names no layers; "
            "save it again with PEFT's save_pretrained, which lists them"
        )
    named = {path for path in layers if check_target_module_exists(matcher, path)}
    for path in sorted(named - widths.keys()):
        raise ModuleError(
            f"module '{name}' names {path} in target_modules but holds no tensors for it; "
            "it was made for a smaller backbone: load that one, or leave the module out"
        )


def check_biases(
    layers: Container[str], held: Container[str], config: Mapping[str, Any], *, name: str, backbone: Backbone
) -> None:
    """Raise `ModuleError` when a bias that field "bias" says was trained, of `layers` or of any, is not `held`."""
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
    """Every linear layer by its path, GPT-2's Conv1D among them."""
    for path, layer in backbone.model.named_modules():
        if isinstance(layer, nn.Linear | Conv1D):
            yield path, layer


def ends_with(path: str, targets: Sequence[str]) -> bool:
    """Whether the path is, or its last parts are, one of the targets."""
    return any(path == target or path.endswith(f".{target}") for target in targets)


def _default_targets(backbone: Backbone) -> tuple[str, ...]:
    family = backbone.model.config.model_type
    found = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(family)
    if not isinstance(found, list):
        raise SettingError(f"no default LoRA targets are known for '{family}'; name the layers with targets")
    return tuple(found)


def _alpha(factor: Factors) -> float:
    return factor.scaling * factor.a.shape[0]


def _peft_config(
    factors: Mapping[str, Factors], *, targets: Sequence[str] | None, backbone: Backbone | None
) -> dict[str, Any]:
    """PEFT's configuration for these factors: the commonest rank and alpha, and patterns for the others."""
    ranks = {path: f.a.shape[0] for path, f in factors.items()}
    alphas = {path: _alpha(f) for path, f in factors.items()}
    rank = max(set(ranks.values()), key=list(ranks.values()).count)
    alpha = max(set(alphas.values()), key=list(alphas.values()).count)
    layers = dict(linear_layers(backbone)) if backbone is not None else {}
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        rank_pattern={path: r for path, r in ranks.items() if r != rank},
        alpha_pattern={path: value for path, value in alphas.items() if value != alpha},
        target_modules=sorted(targets if targets is not None else factors),
        # Where the layers are Conv1D, PEFT wants to be told that their weights lie transposed.
        fan_in_fan_out=all(isinstance(layers.get(path), Conv1D) for path in factors),
        task_type="SEQ_2_SEQ_LM" if backbone is not None and backbone.seq2seq else "CAUSAL_LM",
        base_model_name_or_path=backbone.name if backbone is not None else None,
        inference_mode=True,
    )
    plain = config.to_dict()
    plain["target_modules"] = sorted(plain["target_modules"])
    return {key: getattr(value, "value", value) for key, value in plain.items()}


def _card(factors: Mapping[str, Factors], *, name: str, backbone: Backbone | None) -> ModuleCard:
    scalings = {f.scaling for f in factors.values()}
    return ModuleCard(
        name=name,
        kind="lora",
        rank=max(f.a.shape[0] for f in factors.values()),
        scaling=scalings.pop() if len(scalings) == 1 else None,
        targets=tuple(sorted(factors)),
        parameters=sum(f.a.numel() + f.b.numel() for f in factors.values()),
        tensor_hash="",
        backbone=backbone.fingerprint if backbone else None,
        base_model=backbone.name if backbone else "",
    )
