"""LoRA: a low-rank update ΔW = s·B·A beside each target layer (Hu et al., 2022), as PEFT saves it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from peft import LoraConfig
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from headstart.backbones import Backbone, attached
from headstart.errors import MergeError, ModuleError, SettingError
from headstart.formats import LoraLayout, StoredModule
from headstart.formats.libraries.peft_config import PREFIX
from headstart.kinds.contract import Module, ParameterStack, as_fresh, card_of, require_backbone_of
from headstart.kinds.peft_config import peft_config
from headstart.kinds.settings import LoraSettings
from headstart.kinds.targets import (
    check_biases,
    check_layers,
    chosen,
    embedding_layers,
    layer_widths,
    linear_layers,
    names_of,
    transposed,
)
from headstart.kinds.tensors import rounded_digest, to_torch
from headstart.kinds.updates import LowRank

__all__ = ["Factors", "LoraModule", "LoraStack"]


class Factors(NamedTuple):
    """One target's update: `a` (r, in), `b` (out, r), and `scaling` (α/r, or α/√r with rsLoRA).

    For an `embedding`, "in" is the number of tokens: row i of ΔWᵀ is added to the embedding of token i.
    """

    a: Tensor
    b: Tensor
    scaling: float
    embedding: bool = False

    @property
    def alpha(self) -> float:
        """α with which PEFT computes the scaling as α/r."""
        return self.scaling * self.a.shape[0]

    def norm(self) -> float:
        """‖ΔW‖_F = |s|·√tr(BᵀB·AAᵀ), without forming ΔW."""
        a, b = self.a.double(), self.b.double()
        return abs(self.scaling) * math.sqrt(max(0.0, float(((b.T @ b) * (a @ a.T)).sum())))


@dataclass(frozen=True, eq=False)
class LoraModule(Module):
    """A LoRA module; `factors` maps the backbone's layer paths to their updates, float32 on the CPU.

    `copies`: copies of the backbone's own weights that were stored beside the factors, by layer, each as the digests of
    its values rounded to bfloat16 and to float16. They are checked against the backbone and not saved again.
    """

    kind = "lora"
    unequal_remedy = "merge them with space 'exact' or 'svd', or leave one out"
    settings = LoraSettings
    factors: Mapping[str, Factors]
    copies: Mapping[str, Mapping[torch.dtype, str]] = field(default_factory=dict)

    @classmethod
    def from_stored(cls, stored: StoredModule) -> LoraModule:
        """The module that a validated PEFT folder holds."""
        layout = stored.layout
        assert isinstance(layout, LoraLayout)  # `load_module` chose this class by the kind on the card
        factors, copies = {}, {}
        for path, t in layout.targets.items():
            a, b = (to_torch(stored.tensors[name]).float() for name in (t.a, t.b))
            factors[path] = Factors(a, b, t.scaling, t.embedding)
            if t.copy is not None:
                copy = to_torch(stored.tensors[t.copy])
                copies[path] = {dtype: rounded_digest(copy, dtype) for dtype in (torch.bfloat16, torch.float16)}
        # Only the factors are written later, and the card says how many numbers they hold.
        count = sum(value.numel() for value in _held(factors))
        card = stored.card.model_copy(update={"parameters": count})
        return cls(card, stored.config, factors, copies)

    @classmethod
    def fresh(cls, backbone: Backbone, settings: LoraSettings, *, name: str, seed: int) -> LoraModule:
        """A random start as PEFT draws it: A uniform (Kaiming, a = √5), B zero, so that ΔW = 0.

        For an embedding, A is zero and B standard normal.

        Raises `SettingError` when no layer of the backbone matches the targets, or the rank is larger than the rank
        that ΔW can have in any of them.
        """
        targets = settings.targets or _default_targets(backbone)
        every: dict[str, nn.Module] = {**dict(linear_layers(backbone)), **dict(embedding_layers(backbone))}
        generator = torch.Generator().manual_seed(seed)
        layers = chosen(every, targets, backbone)
        most = max(min(layer_widths(layer)) for layer in layers.values())
        if settings.rank > most:
            raise SettingError(
                f"LoRA rank {settings.rank} is above {most}, the largest that an update of the layers that are adapted "
                f"in {backbone.name} can have; lower it to {most} or less"
            )
        factors = {}
        for path, layer in layers.items():
            inputs, outputs = layer_widths(layer)
            a, b = torch.empty(settings.rank, inputs), torch.empty(outputs, settings.rank)
            blank = Factors(a, b, settings.alpha / settings.rank, isinstance(layer, nn.Embedding))
            factors[path] = _drawn(blank, generator)
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
        """Make a module from factors, with a PEFT configuration that states their ranks and scalings exactly."""
        # The file keeps α, not α/r: the scaling is computed from α, or the card could differ from the file by a bit.
        factors = {path: f._replace(scaling=f.alpha / f.a.shape[0]) for path, f in factors.items()}
        config = _peft_config(factors, targets=targets, backbone=backbone)
        scalings = {f.scaling for f in factors.values()}
        shape = {
            "rank": max(f.a.shape[0] for f in factors.values()),
            "scaling": scalings.pop() if len(scalings) == 1 else None,
            "targets": tuple(sorted(factors)),
        }
        return cls(card_of("lora", _held(factors), name=name, backbone=backbone, **shape), config, factors)

    def state_dict(self) -> dict[str, Tensor]:
        """`base_model.model.<layer>.lora_A.weight` and `….lora_B.weight`; for embeddings `….lora_embedding_A` and B."""
        named: dict[str, Tensor] = {}
        for path, factor in self.factors.items():
            stem, end = (f"{PREFIX}{path}.lora_", ".weight")
            if factor.embedding:
                stem, end = (f"{stem}embedding_", "")
            named |= {f"{stem}A{end}": factor.a, f"{stem}B{end}": factor.b}
        return named

    def parameters(self) -> dict[str, Tensor]:
        """`<layer>.a` and `<layer>.b`, exactly as tuned."""
        return {f"{path}.{part}": value for path, f in self.factors.items() for part, value in (("a", f.a), ("b", f.b))}

    def updates(self) -> dict[str, LowRank]:
        """ΔW = s·B·A by layer."""
        return {path: LowRank(f.a, f.scaling * f.b) for path, f in self.factors.items()}

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Self:
        """The same module with other factors of the same shapes."""
        factors = {
            path: old._replace(a=parameters[f"{path}.a"], b=parameters[f"{path}.b"])
            for path, old in self.factors.items()
        }
        return replace(self, factors=factors, history=None)

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
            factors[path] = f if f.scaling == scaling else f._replace(b=f.b * (f.scaling / scaling), scaling=scaling)
        card = self.card.model_copy(update={"scaling": other.card.scaling})
        return replace(self, factors=factors, config=other.config, card=card, history=None)

    def reset(self, *, seed: int) -> LoraModule:
        """The same layers, ranks and scalings with ΔW = 0; see `fresh`."""
        generator = torch.Generator().manual_seed(seed)
        factors = {path: _drawn(f, generator) for path, f in self.factors.items()}
        return replace(self, factors=factors, card=as_fresh(self.card), head=None, history=None)

    def check(self, backbone: Backbone) -> None:
        """Refuse a layer that the backbone lacks, another shape, another stated backbone, or too few layers.

        Also refuse a copy of a weight that is not this backbone's.
        """
        require_backbone_of(self.card, backbone)
        widths = {path: (f.a.shape[1], f.b.shape[0]) for path, f in self.factors.items()}
        check_layers(widths, self.config, name=self.name, backbone=backbone, embeddings=True)
        check_biases(widths, (), self.config, name=self.name, backbone=backbone)
        for path, f in self.factors.items():
            layer = backbone.model.get_submodule(path)
            if f.embedding != isinstance(layer, nn.Embedding):
                raise ModuleError(
                    f"the tensors that module '{self.name}' has for {path} are those of "
                    f"{'an embedding' if f.embedding else 'a linear layer'}, which it is not in {backbone.name}; "
                    "load the backbone it was tuned on, or leave it out"
                )
            dtype = torch.float16 if backbone.dtype == torch.float16 else torch.bfloat16
            copies = self.copies.get(path)
            if copies is not None and copies[dtype] != rounded_digest(layer.get_parameter("weight"), dtype):
                raise ModuleError(
                    f"the copy of {path} that lies beside module '{self.name}' is not the weight of {backbone.name}; "
                    "load the backbone it was tuned on, or save the module again with save_embedding_layers=False"
                )

    @property
    def stack_key(self) -> Hashable:
        """Layers and ranks: equal shapes stack without padding."""
        return tuple((path, tuple(f.a.shape), tuple(f.b.shape)) for path, f in sorted(self.factors.items()))

    @classmethod
    def stack(cls, modules: Sequence[Self], backbone: Backbone, *, dtype: torch.dtype | None = None) -> LoraStack:
        """Hold the modules' factors side by side on the backbone's device."""
        return LoraStack(modules, device=backbone.device, dtype=dtype or backbone.dtype)


class _Ready(NamedTuple):
    """Aᵀ (N, in, r) and Bᵀ (N, r, out), which includes the scaling if `scaling` (N, 1, 1) is `None`."""

    down: Tensor
    up: Tensor
    scaling: Tensor | None


class LoraStack(ParameterStack["LoraModule"]):
    """N LoRA modules of equal shapes: `<layer>.a` (N, r, in) and `<layer>.b` (N, out, r)."""

    concurrent = True

    def __init__(self, modules: Sequence[LoraModule], *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(modules, device=device, dtype=dtype)
        self.scaling = {
            path: torch.tensor([module.factors[path].scaling for module in modules], device=device).view(-1, 1, 1)
            for path in modules[0].factors
        }
        self._held: dict[str, tuple[Hashable, _Ready]] = {}

    def attach(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Add s·(x Aᵀ) Bᵀ to the output of every target layer, module n on its own rows; x is one-hot for tokens."""
        return attached(self._hooks(backbone))

    def _hooks(self, backbone: Backbone) -> Iterator[RemovableHandle]:
        for path in self.scaling:
            layer = backbone.model.get_submodule(path)
            add = self._add_to_tokens if isinstance(layer, nn.Embedding) else self._add_update
            yield layer.register_forward_hook(partial(add, path))

    def _add_update(self, path: str, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0]
        out = output.reshape(self.size, -1, output.shape[-1])
        if not torch.is_grad_enabled():
            down, up, scaling = self._ready(path, x.dtype)
            hidden = torch.bmm(x.reshape(self.size, -1, down.shape[1]), down)
            hidden = hidden if scaling is None else (hidden * scaling).to(x.dtype)
            # The layer made its output for this call only, so the update can be added in place.
            return out.baddbmm_(hidden, up).view(output.shape)
        a, b = (self.parameters[f"{path}.{part}"].to(x.dtype) for part in "ab")
        rows = x.reshape(self.size, -1, a.shape[2])
        hidden = (torch.bmm(rows, a.transpose(1, 2)) * self.scaling[path]).to(x.dtype)
        return torch.baddbmm(out, hidden, b.transpose(1, 2)).view(output.shape)

    def _ready(self, path: str, dtype: torch.dtype) -> _Ready:
        """The factors as passes without gradients read them; they are made again when a parameter has changed."""
        a, b = (self.parameters[f"{path}.{part}"] for part in "ab")
        # An inference tensor does not count its changes, but nobody tunes one.
        state = (dtype, *(-1 if value.is_inference() else value._version for value in (a, b)))
        held = self._held.get(path)
        if held is None or held[0] != state:
            scaling, up = self.scaling[path], b.to(dtype)
            # The scaling stays float32: rounded to bfloat16, it would make every update up to 0.4 % too large or small.
            # If it is a power of two, no number is rounded and B can include it.
            scaled = (up * scaling).to(dtype)
            exact = torch.equal(scaled, up * scaling)
            ready = _Ready(
                a.to(dtype).transpose(1, 2).contiguous(),
                (scaled if exact else up).transpose(1, 2).contiguous(),
                None if exact else scaling,
            )
            self._held[path] = held = (state, ready)
        return held[1]

    def _add_to_tokens(self, path: str, layer: nn.Embedding, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        a, b = (self.parameters[f"{path}.{part}"].to(output.dtype) for part in "ab")
        ids = args[0].reshape(self.size, 1, -1)
        columns = a.gather(2, ids.expand(-1, a.shape[1], -1))
        if layer.padding_idx is not None:
            # The padding token's embedding is not trained.
            columns = torch.where(ids == layer.padding_idx, columns.detach(), columns)
        hidden = (columns * self.scaling[path]).to(b.dtype)
        update = torch.baddbmm(output.reshape(self.size, -1, b.shape[1]), hidden.transpose(1, 2), b.transpose(1, 2))
        return update.view(output.shape)


def _drawn(factors: Factors, generator: torch.Generator) -> Factors:
    """Untuned factors of these shapes."""
    a, b = torch.zeros_like(factors.a), torch.zeros_like(factors.b)
    if factors.embedding:
        b.normal_(generator=generator)
    else:
        bound = 1 / math.sqrt(a.shape[1])
        a.uniform_(-bound, bound, generator=generator)
    return factors._replace(a=a, b=b)


def _held(factors: Mapping[str, Factors]) -> list[Tensor]:
    return [value for f in factors.values() for value in (f.a, f.b)]


def _default_targets(backbone: Backbone) -> tuple[str, ...]:
    """PEFT's own targets for this architecture or, if it has none, its queries and values."""
    family = backbone.model.config.model_type
    found = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(family)
    targets = tuple(found) if isinstance(found, list) else names_of(backbone, "query", "value", "query_key_value")
    if not targets:
        raise SettingError(f"no default LoRA targets are known for '{family}'; name the layers with targets")
    return targets


def _peft_config(
    factors: Mapping[str, Factors], *, targets: Sequence[str] | None, backbone: Backbone | None
) -> dict[str, Any]:
    """PEFT's configuration for these factors: the commonest rank and alpha, and patterns for the others."""
    ranks = {path: f.a.shape[0] for path, f in factors.items()}
    alphas = {path: f.alpha for path, f in factors.items()}
    rank = max(set(ranks.values()), key=list(ranks.values()).count)
    alpha = max(set(alphas.values()), key=list(alphas.values()).count)
    return peft_config(
        LoraConfig,
        backbone,
        r=rank,
        lora_alpha=alpha,
        rank_pattern={path: r for path, r in ranks.items() if r != rank},
        alpha_pattern={path: value for path, value in alphas.items() if value != alpha},
        target_modules=sorted(targets if targets is not None else factors),
        fan_in_fan_out=transposed(backbone, [path for path, f in factors.items() if not f.embedding]),
    )
