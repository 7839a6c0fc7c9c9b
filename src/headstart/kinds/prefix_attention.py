"""Prefixes of chosen attention units: of an encoder, of a decoder and of its cross-attention.

Each site has keys and values of its own, or a projection of its own that they are tuned through, as in Lv et al.,
2023, who have none in the cross-attention; a projection is averaged as it is, before it is computed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from headstart.backbones import Backbone
from headstart.errors import MergeError, ModuleError
from headstart.formats import AttentionPrefixLayout, StoredModule
from headstart.formats.libraries.own_prefix import BIASED_PREFIX, BIASED_TEXT
from headstart.kinds.contract import Module, ParameterStack, as_fresh, require_backbone_of
from headstart.kinds.prefix_projection import drawn, projected
from headstart.kinds.prefix_units import KEYWORD, attention_heads, attention_units, reader_of, through_prefixes
from headstart.kinds.settings import PrefixSettings
from headstart.kinds.tensors import to_torch
from headstart.kinds.virtual_tokens import Hook, hooked, require_task_type
from headstart.records import ModuleCard

__all__ = ["AttentionPrefixModule", "AttentionPrefixShape", "AttentionPrefixStack"]


class AttentionPrefixShape(NamedTuple):
    """What is put before the keys of one backbone: `length` tokens of `dim` units, all heads together.

    `layers`: how many by site. `heads`: how many share `dim`, or `None` where the module does not say.
    `relative_positions`: see `AttentionPrefixLayout`.
    """

    length: int
    dim: int
    heads: int | None
    layers: tuple[tuple[str, int], ...]
    relative_positions: str


@dataclass(frozen=True, eq=False)
class AttentionPrefixModule(Module):
    """A prefix for every layer of some sites, float32 on the CPU.

    `values` holds, for every site, "<site>.prefix" (length, layers·2·dim), or the projection it is tuned through:
    "<site>.tokens" (length, width), "<site>.inner" (bottleneck, width) with "<site>.inner_bias", "<site>.outer"
    (layers·2·dim, bottleneck) with "<site>.outer_bias".
    """

    kind = "prefix"
    settings = PrefixSettings
    shape: AttentionPrefixShape
    values: Mapping[str, Tensor]

    @classmethod
    def from_stored(cls, stored: StoredModule) -> AttentionPrefixModule:
        """The prefix that a validated folder holds."""
        layout = stored.layout
        assert isinstance(layout, AttentionPrefixLayout)  # `PrefixModule.from_stored` chose this class by it
        values = {name: to_torch(tensor).float() for name, tensor in stored.tensors.items()}
        layers = tuple(layout.layers.items())
        shape = AttentionPrefixShape(layout.length, layout.dim, layout.heads, layers, layout.relative_positions)
        return cls(stored.card, stored.config, shape, values)

    @classmethod
    def fresh(cls, backbone: Backbone, settings: PrefixSettings, *, name: str, seed: int) -> AttentionPrefixModule:
        """A standard normal prefix, or a standard normal input of projections as PyTorch begins them, in every site.

        Raises `ModuleError` when the backbone's attention units are not known, or none is chosen.
        """
        chosen = {"encoder": settings.encoder, "decoder": True, "cross_attention": settings.cross_attention}
        layers = tuple((site, count) for site, count in _layers(backbone).items() if chosen[site])
        if not layers:
            raise ModuleError(f"{backbone.name} has no cross-attention; leave cross_attention out")
        heads, head_dim = attention_heads(backbone)
        shape = AttentionPrefixShape(settings.length, heads * head_dim, heads, layers, BIASED_TEXT)
        bottleneck = settings.bottleneck if settings.reparametrized else None
        values = _drawn(shape, width=shape.dim, bottleneck=bottleneck, seed=seed)
        card = ModuleCard(
            name=name,
            kind=cls.kind,
            rank=settings.length,
            parameters=sum(value.numel() for value in values.values()),
            tensor_hash="",
            backbone=backbone.fingerprint,
            base_model=backbone.name,
        )
        return cls(card, _config(shape, bottleneck, backbone), shape, values)

    @property
    def projection(self) -> tuple[int, int] | None:
        """Bottleneck and width of the projections it is tuned through, or `None`."""
        inner = self.values.get(f"{self.shape.layers[0][0]}.inner")
        return None if inner is None else (inner.shape[0], inner.shape[1])

    def state_dict(self) -> dict[str, Tensor]:
        """The values."""
        return dict(self.values)

    def parameters(self) -> dict[str, Tensor]:
        """The values."""
        return dict(self.values)

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Self:
        """The same module with other values."""
        return replace(self, values={name: parameters[name] for name in self.values})

    def reset(self, *, seed: int) -> AttentionPrefixModule:
        """The same shape, drawn again; see `fresh`."""
        bottleneck, width = self.projection or (None, self.shape.dim)
        values = _drawn(self.shape, width=width, bottleneck=bottleneck, seed=seed)
        return replace(self, values=values, card=as_fresh(self.card), head=None)

    def aligned_to(self, other: Module) -> Module:
        """Only modules that count positions alike, and with as many heads, have a common average."""
        super().aligned_to(other)
        if isinstance(other, AttentionPrefixModule):
            for what in ("relative_positions", "heads"):
                mine, theirs = getattr(self.shape, what), getattr(other.shape, what)
                if None not in (mine, theirs) and mine != theirs:
                    raise MergeError(
                        f"'{self.name}' has {what} {mine!r} and '{other.name}' {theirs!r}, so an average of the two is "
                        "neither; leave one out"
                    )
        return self

    def check(self, backbone: Backbone) -> None:
        """Refuse another stated backbone, another sort of backbone, or one with other layers or keys."""
        require_backbone_of(self.card, backbone)
        require_task_type(self.config, self.name, backbone)
        mine = {**dict(self.shape.layers), "dim": self.shape.dim, "heads": self.shape.heads}
        layers, (heads, head_dim) = _layers(backbone), attention_heads(backbone)
        here = {
            **dict.fromkeys(mine, 0),
            **layers,
            "dim": heads * head_dim,
            "heads": heads if self.shape.heads is not None else None,
        }
        wrong = [what for what, count in mine.items() if here[what] != count]
        if wrong:
            said, found = mine[wrong[0]], here[wrong[0]]
            what = {"dim": "units in its keys", "heads": "heads"}.get(wrong[0], f"layers of '{wrong[0]}'")
            raise ModuleError(
                f"module '{self.name}' has a prefix for {said} {what}, but {backbone.name} has {found}; "
                "load the backbone it was tuned on, or leave it out"
            )

    @property
    def stack_key(self) -> Hashable:
        """The shape, and that of the projections."""
        return (self.shape, self.projection)

    @classmethod
    def stack(
        cls, modules: Sequence[Self], backbone: Backbone, *, dtype: torch.dtype | None = None
    ) -> AttentionPrefixStack:
        """Hold the prefixes side by side on the backbone's device."""
        return AttentionPrefixStack(modules, device=backbone.device, dtype=dtype or backbone.dtype)

    def layer_vectors(self) -> tuple[Tensor, ...]:
        """For the encoder and the decoder, where they have a prefix, one row for every layer.

        Columns: the keys and then the values, those of self-attention before those of cross-attention; projected where
        that is so.
        """
        found: dict[str, list[Tensor]] = {}
        for site, layers in self.shape.layers:
            prefix = projected(_of(self.values, site)).view(self.shape.length, layers, 2, self.shape.dim)
            half = "encoder" if site == "encoder" else "decoder"
            found.setdefault(half, []).append(prefix.permute(1, 2, 0, 3).flatten(1))
        return tuple(torch.cat(parts, dim=1) for parts in found.values())


class AttentionPrefixStack(ParameterStack):
    """N such prefixes of equal shape: the values of `AttentionPrefixModule`, each with a leading dimension N."""

    concurrent = True

    def __init__(self, modules: Sequence[AttentionPrefixModule], *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(modules, device=device, dtype=dtype)
        self.shape = modules[0].shape

    @contextlib.contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        """Let every attention unit of the sites read module n's keys and values before those of its own rows."""
        units, (heads, _) = attention_units(backbone), attention_heads(backbone)
        now: dict[tuple[int, str], Tensor] = {}  # of each thread that runs a pass

        def project(site: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
            def before(inputs: dict[str, Any]) -> dict[str, Any]:
                now[threading.get_ident(), site] = self._pairs(site, heads, backbone.dtype)
                return inputs

            return before

        def bring(site: str, number: int, unit: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
            def before(inputs: dict[str, Any]) -> dict[str, Any]:
                keys, values = now[threading.get_ident(), site][number]
                changed = inputs | {KEYWORD: (keys, values)}
                if self.shape.relative_positions == BIASED_PREFIX and getattr(
                    unit, "has_relative_attention_bias", False
                ):
                    changed["position_bias"] = _biased(unit, inputs, self.shape.length)
                return changed

            return before

        halves, hooks = [], []
        for site, _ in self.shape.layers:
            half = reader_of(site, backbone)
            halves.append(half)
            hooks.append(Hook(half, project(site)))
            hooks += [Hook(unit, bring(site, number, unit)) for number, unit in enumerate(units[site])]
        with through_prefixes(halves), hooked(*hooks):
            yield

    def _pairs(self, site: str, heads: int, dtype: torch.dtype) -> Tensor:
        """Keys and values for every layer of a site, (layers, 2, N, heads, length, head size)."""
        layers = dict(self.shape.layers)[site]
        prefix = projected(_of(self.parameters, site)).to(dtype)
        return prefix.view(self.size, self.shape.length, layers, 2, heads, -1).permute(2, 3, 0, 4, 1, 5)


def _biased(unit: Any, inputs: Mapping[str, Any], length: int) -> Tensor:
    """The bias of T5 as `adapters` computes it, (1, heads, queries, length + keys); see `BIASED_PREFIX`."""
    cache = inputs.get("past_key_values")
    seen = 0 if cache is None else cache.get_seq_length(unit.layer_idx)
    queries = inputs["hidden_states"].shape[1]
    bias: Tensor = unit.compute_bias(queries, length + seen + queries, past_seen_tokens=seen)
    return bias


def _of(values: Mapping[str, Tensor], site: str) -> dict[str, Tensor]:
    """The values of one site, without its name."""
    return {name.partition(".")[2]: value for name, value in values.items() if name.partition(".")[0] == site}


def _layers(backbone: Backbone) -> dict[str, int]:
    return {site: len(units) for site, units in attention_units(backbone).items()}


def _drawn(shape: AttentionPrefixShape, *, width: int, bottleneck: int | None, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for site, layers in shape.layers:
        whole = layers * 2 * shape.dim
        made = drawn(shape.length, whole, width=width, bottleneck=bottleneck, generator=generator)
        found |= {f"{site}.{name}": value for name, value in made.items()}
    return found


def _config(shape: AttentionPrefixShape, bottleneck: int | None, backbone: Backbone) -> dict[str, Any]:
    return {
        "peft_type": "ATTENTION_PREFIX",
        "task_type": backbone.task_type,
        "num_virtual_tokens": shape.length,
        "token_dim": shape.dim,
        "num_attention_heads": shape.heads,
        "num_layers": dict(shape.layers),
        "prefix_projection": bottleneck is not None,
        "encoder_hidden_size": bottleneck,
        "embedding_dim": None if bottleneck is None else shape.dim,
        "relative_positions": shape.relative_positions,
        "base_model_name_or_path": backbone.name,
        "inference_mode": True,
    }
