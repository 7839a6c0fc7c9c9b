"""Prefix tuning: tuned keys and values before those of self-attention (Li and Liang, 2021), as PEFT computes it.

A prefix may be tuned through a projection, Linear → tanh → Linear, as in Lv et al., 2023; then the projection is
averaged.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PrefixTuningConfig
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from headstart.backbones import Backbone
from headstart.backbones.hooks import Hook, hooked
from headstart.errors import ModuleError, SettingError
from headstart.formats import AttentionPrefixLayout, PrefixLayout, StoredModule
from headstart.formats.libraries.peft_prefix import PROJECTION
from headstart.formats.libraries.peft_virtual_tokens import EMBEDDINGS
from headstart.kinds.contract import Module, ParameterStack, ValuesModule, card_of, require_backbone_of
from headstart.kinds.peft_config import peft_config
from headstart.kinds.prefix_attention import AttentionPrefixModule
from headstart.kinds.prefix_projection import drawn, projected
from headstart.kinds.settings import PrefixSettings
from headstart.kinds.tensors import to_torch
from headstart.kinds.virtual_tokens import is_empty, make_room, past_padding, per_row, require_task_type

__all__ = ["PrefixModule", "PrefixStack"]

SHARING = ("gemma3n", "gemma4")
"""Architectures whose later layers read the keys of earlier ones."""

NEAR = 1e-4
"""How far a stored prefix may be from its own projection's output, as a fraction of the largest value: rounding."""


class PrefixStack(ParameterStack["PrefixModule"]):
    """N prefixes of equal shape: the tensors of `PrefixModule.values`, each with a leading dimension N."""

    concurrent = True

    def attach(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Let every pass over an empty cache begin with module n's keys and values in its own rows."""
        dtype = backbone.dtype

        def read_prefix(inputs: dict[str, Any]) -> dict[str, Any]:
            changed = make_room(inputs, self.like.shape.length)
            if is_empty(inputs.get("past_key_values")):
                changed["past_key_values"] = self._cache(inputs["input_ids"].shape[0], dtype)
            return changed | past_padding(changed, backbone.model.config.get_text_config(), dtype)

        return hooked(Hook(backbone.decoder, read_prefix))

    def _cache(self, rows: int, dtype: torch.dtype) -> DynamicCache | EncoderDecoderCache:
        shape = self.like.shape
        prefix = projected(self.parameters).to(dtype)
        prefix = prefix.view(self.size, shape.length, shape.layers, 2, shape.heads, shape.head_dim)
        pairs = per_row(prefix, rows).permute(2, 3, 0, 4, 1, 5)
        cache = DynamicCache([(pairs[pair, 0], pairs[pair, 1]) for pair in shape.pairs])
        return EncoderDecoderCache(cache, DynamicCache()) if shape.seq2seq else cache


@dataclass(frozen=True, eq=False)
class PrefixModule(ValuesModule):
    """A prefix, float32 on the CPU.

    `values` holds `prefix` (length, layers·2·dim), or the projection it is tuned through: `tokens` (length, dim),
    `inner` (bottleneck, dim) with `inner_bias`, `outer` (layers·2·dim, bottleneck) with `outer_bias`.
    """

    kind = "prefix"
    head_prefix = "base_model."
    settings = PrefixSettings
    stack_family = PrefixStack
    shape: PrefixLayout

    @classmethod
    def from_stored(cls, stored: StoredModule) -> Module:
        """The prefix that a validated folder holds: PEFT's, or an `AttentionPrefixModule`.

        PEFT itself saves no projection, only its output: without a projection, the prefix is read as a plain one.
        Raises `ModuleError` if a projection does not give the prefix beside it.
        """
        layout = stored.layout
        if isinstance(layout, AttentionPrefixLayout):
            return AttentionPrefixModule.from_stored(stored)
        assert isinstance(layout, PrefixLayout)  # `load_module` chose this class by the kind on the card
        prefix = to_torch(stored.tensors[EMBEDDINGS]).float()
        if layout.bottleneck is None:
            return cls(stored.card, {**stored.config, "prefix_projection": False}, {"prefix": prefix}, layout)
        values = {key: to_torch(stored.tensors[name]).float() for key, name in PROJECTION.items()}
        if (projected(values) - prefix).abs().max() > NEAR * prefix.abs().max():
            raise ModuleError(
                f"{stored.folder}: tensor '{EMBEDDINGS}' is not what the projection beside it gives; "
                f"remove the {PROJECTION['tokens'].split('.')[0]} tensors, or copy the module again"
            )
        return cls(stored.card, stored.config, values, layout)

    @classmethod
    def fresh(cls, backbone: Backbone, settings: PrefixSettings, *, name: str, seed: int) -> Module:
        """A standard normal prefix, or a standard normal input of a projection as PyTorch initializes it, as in PEFT.

        There is no prefix that does nothing. The result is an `AttentionPrefixModule` if `settings` ask for a prefix
        that PEFT lacks. Raises `SettingError` for settings that make no prefix, or a backbone that it does not fit.
        """
        try:
            if settings.encoder or settings.cross_attention:
                return AttentionPrefixModule.fresh(backbone, settings, name=name, seed=seed)
            layers, heads, head_dim = _cached(backbone)
        except ModuleError as error:
            raise SettingError(str(error)) from error
        bottleneck = settings.bottleneck if settings.reparametrized else None
        shape = PrefixLayout(None, settings.length, layers, heads, head_dim, backbone.seq2seq, bottleneck)
        values = drawn(shape.shapes, seed=seed)
        held = _held(values).values()
        card = card_of(cls.kind, held, name=name, backbone=backbone, rank=settings.length)
        config = peft_config(
            PrefixTuningConfig,
            backbone,
            num_virtual_tokens=shape.length,
            num_layers=shape.layers,
            num_attention_heads=shape.heads,
            token_dim=shape.dim,
            num_transformer_submodules=2 if shape.seq2seq else 1,
            encoder_hidden_size=bottleneck or shape.dim,
            prefix_projection=bottleneck is not None,
        )
        return cls(card, config, values, shape)

    def state_dict(self) -> dict[str, Tensor]:
        """`prompt_embeddings` (length, layers·2·dim), and the projection that gives it, if there is one."""
        return _held(self.values)

    def reset(self, *, seed: int) -> PrefixModule:
        """The same shape, drawn again; see `fresh`."""
        return self.begun(drawn(self.shape.shapes, seed=seed))

    def check(self, backbone: Backbone) -> None:
        """Refuse another stated backbone, another type of backbone, or one with other keys and values."""
        require_backbone_of(self.card, backbone)
        require_task_type(self.config, self.name, backbone)
        here, mine = _cached(backbone), (self.shape.layers, self.shape.heads, self.shape.head_dim)
        if here != mine:
            raise ModuleError(
                f"module '{self.name}' has a prefix for {_words(mine)}, but {backbone.name} caches {_words(here)}; "
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
        """Rows: the layers; columns: the keys and then the values that the layer reads, after any projection."""
        prefix = projected(self.values).view(self.shape.length, self.shape.layers, 2, self.shape.dim)
        return (prefix.permute(1, 2, 0, 3)[self.shape.pairs].flatten(1),)


def _held(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {PROJECTION[key]: value for key, value in values.items()} if "tokens" in values else {}
    return {EMBEDDINGS: projected(values), **named}


def _cached(backbone: Backbone) -> tuple[int, int, int]:
    """(layers, heads, head size) of the keys that a prefix precedes; raises `ModuleError` if they are not uniform."""
    family = str(backbone.model.config.model_type)
    found = set(backbone.cache_shapes)
    one = next(iter(found)) if len(found) == 1 and not family.startswith(SHARING) else None
    if one is None:
        raise ModuleError(
            f"'{family}' does not cache plain keys and values of one shape in every layer, so a prefix has no place; "
            "use another kind of module"
        )
    return (len(backbone.cache_shapes), *one)


def _words(cached: tuple[int, int, int]) -> str:
    return "{} layers of {} heads of {}".format(*cached)
