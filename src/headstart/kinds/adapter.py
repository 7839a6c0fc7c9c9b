"""Bottleneck adapters: a small network beside a sublayer (Houlsby et al., 2019), as AdapterHub saves them."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from headstart.backbones import Backbone, attached
from headstart.backbones.hooks import named_inputs
from headstart.errors import MergeError, ModuleError, SettingError
from headstart.formats import AdapterLayout, StoredModule
from headstart.formats.libraries.adapterhub_adapter import NAMES, Computation
from headstart.kinds.contract import Module, ParameterStack, ValuesModule, card_of, require_backbone_of
from headstart.kinds.placement import (
    PLACEMENTS,
    Placement,
    Site,
    adapter_sites,
    adapterhub_config,
    backbone_width,
    reads_in,
    require_size,
)
from headstart.kinds.settings import AdapterSettings
from headstart.kinds.targets import require_widths
from headstart.kinds.tensors import to_torch

__all__ = ["AdapterModule", "AdapterStack"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "swish": F.silu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "leakyrelu": F.leaky_relu,
}


class AdapterStack(ParameterStack["AdapterModule"]):
    """N adapters of equal shapes: `<sublayer>.down` (N, m, d), `.down_bias` (N, m), `.up` (N, d, m), `.up_bias`."""

    concurrent = True

    def __init__(self, modules: Sequence[AdapterModule], *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(modules, device=device, dtype=dtype)
        factors = [module.computation.factor for module in modules]
        self._factors = torch.tensor(factors, device=device).view(-1, 1, 1)
        self._residual: dict[tuple[int, str], Tensor] = {}  # one for each thread that runs a pass

    @contextlib.contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        """Add every adapter's update to its sublayer's output, module n on its own rows."""
        try:
            with attached(self._hooks(backbone)):
                yield
        finally:
            self._residual.clear()

    def _hooks(self, backbone: Backbone) -> Iterator[RemovableHandle]:
        sites = adapter_sites(backbone)
        for path in self.like.sizes:
            yield self._hook(backbone.model, path, sites[path])
            if self.like.computation.reads in ("sum", "residual"):
                where, number = sites[path].stream
                keep = self._keep_residual(path, number)
                yield backbone.model.get_submodule(where).register_forward_pre_hook(keep, with_kwargs=True)

    def _hook(self, model: nn.Module, path: str, site: Site) -> RemovableHandle:
        """The hooks that change the output of the sublayer, or of the norm after it."""
        if self.like.computation.reads in ("normed", "behind"):
            return model.get_submodule(site.norm).register_forward_hook(partial(self._change_normed, path))
        return model.get_submodule(path).register_forward_hook(partial(self._change, path))

    def _keep_residual(self, path: str, number: int) -> Callable[..., None]:
        def keep(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._residual[threading.get_ident(), path] = list(named_inputs(layer, args, kwargs).values())[number]

        return keep

    def _change(
        self, path: str, _: nn.Module, args: tuple[Any, ...], output: Tensor | tuple[Any, ...]
    ) -> Tensor | tuple[Any, ...]:
        del args  # attention gets its input as a keyword argument, and the adapter does not read it
        h = output[0] if isinstance(output, tuple) else output
        x = h
        if self.like.computation.reads != "output":
            residual = self._residual.pop((threading.get_ident(), path))
            x = h + residual if self.like.computation.reads == "sum" else residual
        changed = self._add_update(path, h, x)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def _change_normed(self, path: str, norm: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        if self.like.computation.reads == "behind":
            return self._add_update(path, output, output)
        again: Tensor = norm.forward(self._add_update(path, args[0], output))  # without running this hook again
        return again

    def _add_update(self, path: str, h: Tensor, x: Tensor) -> Tensor:
        """h + s·(U·act(D·x + d) + u)."""
        down, down_bias, up, up_bias = (self._part(path, part, h.dtype) for part in NAMES)
        assert down is not None and up is not None  # noqa: PT018 - one fact for the type checker
        hidden = torch.bmm(x.reshape(self.size, -1, down.shape[2]), down.transpose(1, 2))
        hidden = hidden if down_bias is None else hidden + down_bias.unsqueeze(1)
        # Scaled in float32 and where the tensors are small: s·(U·a + u) = U·(s·a) + s·u.
        hidden = (ACTIVATIONS[self.like.computation.activation](hidden) * self._factors).to(h.dtype)
        changed = torch.baddbmm(h.reshape(self.size, -1, up.shape[1]), hidden, up.transpose(1, 2))
        if up_bias is not None:
            changed = changed + (up_bias.unsqueeze(1) * self._factors).to(h.dtype)
        return changed.view(h.shape)

    def _part(self, path: str, part: str, dtype: torch.dtype) -> Tensor | None:
        value = self.parameters.get(f"{path}.{part}")
        return None if value is None else value.to(dtype)


@dataclass(frozen=True, eq=False)
class AdapterModule(ValuesModule):
    """Bottleneck adapters: `<sublayer>.down` (m, d), `.down_bias` (m,), `.up` (d, m) and `.up_bias` (d,).

    Biases may be missing. `names` gives AdapterHub's name of each tensor; `computation` is the same for all adapters.
    """

    kind = "adapter"
    settings = AdapterSettings
    stack_family = AdapterStack
    weights_file = "adapter.safetensors"
    head_prefix = None  # AdapterHub's library would warn of tensors that it does not know
    names: Mapping[str, str]
    computation: Computation

    @classmethod
    def from_stored(cls, stored: StoredModule) -> AdapterModule:
        """The module that a validated AdapterHub folder holds."""
        layout = stored.layout
        assert isinstance(layout, AdapterLayout)  # `load_module` chose this class by the kind on the card
        sites = layout.sites.items()
        names = {f"{path}.{part}": name for path, site in sites for part, name in site.tensors.items()}
        values = {own: to_torch(stored.tensors[name]).float() for own, name in names.items()}
        return cls(stored.card, stored.config, values, names, layout.computation)

    @classmethod
    def fresh(cls, backbone: Backbone, settings: AdapterSettings, *, name: str, seed: int) -> AdapterModule:
        """A random start: D uniform as PyTorch draws a linear layer, U and the biases zero (He et al., 2022).

        Raises `SettingError` if a setting is unknown or out of range, or if adapters have no site in the backbone's
        architecture.
        """
        placement = _placement(settings)
        try:
            sites = adapter_sites(backbone)
        except ModuleError as error:
            raise SettingError(str(error)) from error
        chosen = {path: site for path, site in sites.items() if site.part in placement.parts}
        config = adapterhub_config(placement, settings.bottleneck, name=name, backbone=backbone)
        size = (settings.bottleneck, backbone_width(backbone))
        values = _drawn(dict.fromkeys(chosen, size), biases=placement.biases, seed=seed)
        parts = ((*own.rpartition("."), own) for own in values)
        names = {own: f"{chosen[path].key}.adapters.{config['name']}.{NAMES[part]}" for path, _, part, own in parts}
        shape = {"rank": settings.bottleneck, "scaling": 1.0, "targets": tuple(sorted(chosen))}
        card = card_of(cls.kind, values.values(), name=name, backbone=backbone, **shape)
        return cls(card, config, values, names, Computation(reads_in(backbone, placement), placement.activation, 1.0))

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """The sizes (m, d) by sublayer."""
        downs = {name.removesuffix(".down"): d for name, d in self.values.items() if name.endswith(".down")}
        return {path: (d.shape[0], d.shape[1]) for path, d in downs.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors by AdapterHub's names, `<block>.adapters.<name>.adapter_down.0.weight` and so on."""
        return {self.names[own]: value for own, value in self.values.items()}

    def aligned_to(self, other: Module) -> Module:
        """The same function with `other`'s scaling s: the difference moves into U and u.

        Raises `MergeError` if the modules read different inputs or have different activations.
        """
        super().aligned_to(other)
        assert isinstance(other, AdapterModule)  # the line above has checked that they are of one kind
        mine, theirs = self.computation, other.computation
        if mine.reads != theirs.reads or ACTIVATIONS[mine.activation] != ACTIVATIONS[theirs.activation]:
            raise MergeError(
                f"'{self.name}' reads the {mine.reads} through {mine.activation} and '{other.name}' the {theirs.reads} "
                f"through {theirs.activation}; merge adapters of one design"
            )
        if mine.factor == theirs.factor:
            return self
        if theirs.factor == 0:
            raise MergeError(f"'{other.name}' has a scaling of 0, so nothing can be merged into it; leave it out")
        ratio = mine.factor / theirs.factor
        values = {name: v * ratio if name.endswith((".up", ".up_bias")) else v for name, v in self.values.items()}
        card = self.card.model_copy(update={"scaling": other.card.scaling})
        return replace(self, values=values, computation=theirs, config=other.config, names=other.names, card=card)

    def reset(self, *, seed: int) -> AdapterModule:
        """The same sites and sizes, drawn as in `fresh`."""
        biases = any(name.endswith("_bias") for name in self.values)
        return self.begun(_drawn(self.sizes, biases=biases, seed=seed))

    def check(self, backbone: Backbone) -> None:
        """Refuse a sublayer that the backbone lacks, another width, another stated backbone, or too few layers."""
        require_backbone_of(self.card, backbone)
        sites, width, sizes = adapter_sites(backbone), backbone_width(backbone), self.sizes
        widths = {path: (None, mine) for path, (_, mine) in sizes.items()}
        require_widths(widths, dict.fromkeys(sites, (width, width)), name=self.name, backbone=backbone)
        method = self.config["config"]
        left_out = method.get("leave_out") or ()
        for path, size in sizes.items():
            require_size(size, method, number=sites[path].number, what=f"'{self.name}' has at {path}")
        for path, site in sites.items():
            if path in sizes and site.number in left_out:
                raise ModuleError(
                    f"module '{self.name}' holds tensors for {path}, but leave_out names its layer, {site.number}; "
                    "correct leave_out, or save the module again"
                )
            if path not in sizes and method.get(site.part) and site.number not in left_out:
                raise ModuleError(
                    f"module '{self.name}' sets {site.part} but holds no tensors for {path}; "
                    "it was made for a smaller backbone: load that one, or leave the module out"
                )

    @property
    def stack_key(self) -> Hashable:
        """The computation, sites and sizes; scalings may differ."""
        return (self.computation.reads, self.computation.activation, super().stack_key)


def _placement(settings: AdapterSettings) -> Placement:
    """The placement with the settings' own activation and biases; raises `SettingError` if one of them is unknown."""
    if settings.placement not in PLACEMENTS:
        raise SettingError(f"unknown placement '{settings.placement}'; choose one of: {', '.join(PLACEMENTS)}")
    if settings.activation is not None and settings.activation not in ACTIVATIONS:
        raise SettingError(f"unknown activation '{settings.activation}'; choose one of: {', '.join(ACTIVATIONS)}")
    placement = PLACEMENTS[settings.placement]
    return placement._replace(
        activation=settings.activation or placement.activation,
        biases=placement.biases if settings.biases is None else settings.biases,
    )


def _drawn(sizes: Mapping[str, tuple[int, int]], *, biases: bool, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for path, (size, width) in sizes.items():
        bound = 1 / math.sqrt(width)
        values[f"{path}.down"] = torch.empty(size, width).uniform_(-bound, bound, generator=generator)
        zeros = {"down_bias": (size,), "up": (width, size), "up_bias": (width,)}
        values |= {f"{path}.{part}": torch.zeros(shape) for part, shape in zeros.items() if biases or part == "up"}
    return values
