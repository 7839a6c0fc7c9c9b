"""What a PEFT prefix tuning module is, read from its configuration and its tensors' shapes; pure, without torch.

Prefix tuning (Li and Liang, 2021) puts `num_virtual_tokens` keys and values before those of self-attention. PEFT saves
one row per virtual token, the keys and values of all layers side by side. It does so even if it trained them through a
projection (`prefix_projection`), which is computed when the module is saved. Headstart keeps the projection beside it,
in tensors that PEFT ignores, so that the projections can be averaged (Lv et al., 2023).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from headstart.errors import ModuleError
from headstart.formats.libraries.peft_config import IDENTITY, Fields, sizes
from headstart.formats.libraries.peft_virtual_tokens import (
    EMBEDDINGS,
    REFUSED,
    VirtualTokensLayout,
    halves,
    prefix_shapes,
    require_heads,
    require_shapes,
)

__all__ = ["FIELDS", "PROJECTION", "PrefixLayout", "prefix_layout"]

FIELDS = Fields(
    handled={
        "encoder_hidden_size", "num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens",
        "prefix_projection", "task_type", "token_dim",
    },
    harmless=IDENTITY | {"init_weights"},
    refused=REFUSED,
)  # fmt: skip
"""The fields of PEFT 0.21's PrefixTuningConfig."""

PROJECTION = {
    "tokens": "prompt_encoder.embedding.weight",
    "inner": "prompt_encoder.transform.0.weight",
    "inner_bias": "prompt_encoder.transform.0.bias",
    "outer": "prompt_encoder.transform.2.weight",
    "outer_bias": "prompt_encoder.transform.2.bias",
}
"""The names of the projection's tensors that PEFT uses during training, by what they are."""


@dataclass(frozen=True)
class PrefixLayout(VirtualTokensLayout):
    """`length` keys and values of (`heads`, `head_dim`) for each of `layers` self-attention layers.

    `seq2seq`: they go to a decoder, which reads them in PEFT's peculiar order. `bottleneck`: the width of the
    projection if its tensors are there too, else `None`.
    """

    layers: int
    heads: int
    head_dim: int
    seq2seq: bool
    bottleneck: int | None

    @property
    def dim(self) -> int:
        """The width of the keys of one layer, all heads together."""
        return self.heads * self.head_dim

    @property
    def pairs(self) -> list[int]:
        """For every layer, which of the stored pairs of keys and values it reads.

        For encoder-decoders PEFT lays the pairs out twice, for self- and cross-attention, and recomputes the latter:
        layer i reads pair 2i modulo the number of pairs. If that number is even, every other pair is never read.
        """
        step = 2 if self.seq2seq else 1
        return [step * layer % self.layers for layer in range(self.layers)]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of `prefix`, or of the parts of the projection."""
        projection = None if self.bottleneck is None else (self.bottleneck, self.dim)
        return prefix_shapes(self.length, self.layers * 2 * self.dim, projection)


def prefix_layout(config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> PrefixLayout:
    """The layout of a prefix tuning module; see `FolderReader.layout`."""
    FIELDS.check(config)
    parts = halves(config)
    stated = config.get("num_transformer_submodules")
    if stated is not None and stated != parts:
        raise ModuleError(
            f"field 'num_transformer_submodules' is {stated!r} for task type {config['task_type']}, where "
            f"PEFT expects {parts}; correct it"
        )
    length, layers, heads, dim = sizes(config, ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim"))
    require_heads(dim, heads)
    bottleneck = None
    if config.get("prefix_projection") and shapes.keys() & set(PROJECTION.values()):
        (bottleneck,) = sizes(config, ("encoder_hidden_size",))
    layout = PrefixLayout(None, length, layers, heads, dim // heads, parts == 2, bottleneck)
    projection = {} if bottleneck is None else {PROJECTION[part]: shape for part, shape in layout.shapes.items()}
    require_shapes(shapes, {EMBEDDINGS: (length, layers * 2 * dim), **projection}, kind="prefix")
    return layout
