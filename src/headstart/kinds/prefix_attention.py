"""Prefixes of chosen attention units: of an encoder, of a decoder and of its cross-attention.

Each site has its own keys and values, or its own projection through which they are tuned, as in Lv et al., 2023, who
have none in the cross-attention. A projection is averaged itself, not its output.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headstart.backbones import Backbone
from headstart.backbones.hooks import Hook, hooked
from headstart.errors import MergeError, ModuleError
from headstart.formats import AttentionPrefixLayout, StoredModule
from headstart.formats.libraries.own_prefix import BIASED_PREFIX, BIASED_TEXT
from headstart.kinds.contract import Module, ParameterStack, ValuesModule, card_of, require_backbone_of
from headstart.kinds.prefix_projection import drawn, projected
from headstart.kinds.prefix_units import KEYWORD, attention_heads, attention_units, reader_of, through_prefixes
from headstart.kinds.settings import PrefixSettings
from headstart.kinds.tensors import to_torch
from headstart.kinds.virtual_tokens import require_task_type

__all__ = ["AttentionPrefixModule", "AttentionPrefixStack"]


class AttentionPrefixStack(ParameterStack["AttentionPrefixModule"]):
    """N such prefixes of equal shape: the values of `AttentionPrefixModule`, each with a leading dimension N."""

    concurrent = True

    @contextlib.contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        """Let every attention unit of the sites read module n's keys and values before those of its own rows."""
        units, (heads, _) = attention_units(backbone), attention_heads(backbone)
        now: dict[tuple[int, str], Tensor] = {}  # one for each thread that runs a pass

        def project(site: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
            def before(inputs: dict[str, Any]) -> dict[str, Any]:
                now[threading.get_ident(), site] = self._pairs(site, heads, backbone.dtype)
                return inputs

            return before

        def bring(site: str, number: int, unit: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
            def before(inputs: dict[str, Any]) -> dict[str, Any]:
                keys, values = now[threading.get_ident(), site][number]
                changed = inputs | {KEYWORD: (keys, values)}
                if self.like.shape.relative_positions == BIASED_PREFIX and getattr(
                    unit, "has_relative_attention_bias", False
                ):
                    changed["position_bias"] = _biased(unit, inputs, self.like.shape.length)
                return changed

            return before

        halves, hooks = [], []
        for site, _ in self.like.shape.layers:
            half = reader_of(site, backbone)
            halves.append(half)
            hooks.append(Hook(half, project(site)))
            hooks += [Hook(unit, bring(site, number, unit)) for number, unit in enumerate(units[site])]
        with through_prefixes(halves), hooked(*hooks):
            yield

    def _pairs(self, site: str, heads: int, dtype: torch.dtype) -> Tensor:
        """Keys and values for every layer of a site, (layers, 2, N, heads, length, head size)."""
        layers = dict(self.like.shape.layers)[site]
        prefix = projected(_of(self.parameters, site)).to(dtype)
        return prefix.view(self.size, self.like.shape.length, layers, 2, heads, -1).permute(2, 3, 0, 4, 1, 5)


@dataclass(frozen=True, eq=False)
class AttentionPrefixModule(ValuesModule):
    """A prefix for every layer of some sites, float32 on the CPU.

    `values` holds, for every site, "<site>.prefix" (length, layers·2·dim), or the projection it is tuned through:
    "<site>.tokens" (length, width), "<site>.inner" (bottleneck, width) with "<site>.inner_bias", "<site>.outer"
    (layers·2·dim, bottleneck) with "<site>.outer_bias".
    """

    kind = "prefix"
    settings = PrefixSettings
    stack_family = AttentionPrefixStack
    shape: AttentionPrefixLayout

    @classmethod
    def from_stored(cls, stored: StoredModule) -> AttentionPrefixModule:
        """The prefix that a validated folder holds."""
        layout = stored.layout
        assert isinstance(layout, AttentionPrefixLayout)  # `PrefixModule.from_stored` chose this class by it
        values = {name: to_torch(tensor).float() for name, tensor in stored.tensors.items()}
        return cls(stored.card, stored.config, values, layout)

    @classmethod
    def fresh(cls, backbone: Backbone, settings: PrefixSettings, *, name: str, seed: int) -> AttentionPrefixModule:
        """A standard normal prefix, or a standard normal input of projections as PyTorch draws them, at every site.

        Raises `ModuleError` if the backbone's attention units are not known, or none is chosen.
        """
        chosen = {"encoder": settings.encoder, "decoder": True, "cross_attention": settings.cross_attention}
        layers = tuple((site, count) for site, count in _layers(backbone).items() if chosen[site])
        if not layers:
            raise ModuleError(f"{backbone.name} has no cross-attention; leave cross_attention out")
        heads, head_dim = attention_heads(backbone)
        dim = heads * head_dim
        projection = (settings.bottleneck, dim) if settings.reparametrized else None
        shape = AttentionPrefixLayout(None, settings.length, dim, heads, layers, projection, BIASED_TEXT)
        values = drawn(shape.shapes, seed=seed)
        card = card_of(cls.kind, values.values(), name=name, backbone=backbone, rank=settings.length)
        return cls(card, shape.config(task_type=backbone.task_type, base_model=backbone.place), values, shape)

    def state_dict(self) -> dict[str, Tensor]:
        """The values."""
        return dict(self.values)

    def reset(self, *, seed: int) -> AttentionPrefixModule:
        """The same shape, drawn again; see `fresh`."""
        return self.begun(drawn(self.shape.shapes, seed=seed))

    def aligned_to(self, other: Module) -> Module:
        """Only modules that count positions in the same way, and have the same number of heads, can be averaged."""
        super().aligned_to(other)
        if isinstance(other, AttentionPrefixModule):
            for what in ("relative_positions", "heads"):
                mine, theirs = getattr(self.shape, what), getattr(other.shape, what)
                if None not in (mine, theirs) and mine != theirs:
                    raise MergeError(
                        f"'{self.name}' has {what} {mine!r} and '{other.name}' {theirs!r}, so an average of the two is "
                        f"neither; leave one out {self.exclude_hint}"
                    )
        return self

    def check(self, backbone: Backbone) -> None:
        """Refuse another stated backbone, another type of backbone, or one with other layers or keys."""
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
        """The shape."""
        return self.shape

    @property
    def token_shape(self) -> tuple[int, int]:
        """The number of tokens, and the width of each."""
        return self.shape.length, self.shape.dim

    def layer_vectors(self) -> tuple[Tensor, ...]:
        """For the encoder and the decoder, if they have a prefix, one row for every layer.

        Columns: the keys and then the values, those of self-attention before those of cross-attention, after any
        projection.
        """
        found: dict[str, list[Tensor]] = {}
        for site, layers in self.shape.layers:
            prefix = projected(_of(self.values, site)).view(self.shape.length, layers, 2, self.shape.dim)
            half = "encoder" if site == "encoder" else "decoder"
            found.setdefault(half, []).append(prefix.permute(1, 2, 0, 3).flatten(1))
        return tuple(torch.cat(parts, dim=1) for parts in found.values())


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
