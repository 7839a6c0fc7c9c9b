"""What a prefix of chosen attention units is, read from its configuration and its tensors' shapes; pure, without torch.

PEFT's prefix for an encoder-decoder is only for the decoder's self-attention. Lv et al., 2023, also give the encoder
one, and AdapterHub the cross-attention too. PEFT has no such type, so the folder is Headstart's own, laid out as PEFT
would: `peft_type` "ATTENTION_PREFIX", which PEFT does not know and refuses, and for every site either one tensor
`<site>.prefix` (length, layers·2·token_dim), the keys and values of all layers side by side, or the tensors of the
projection that gives it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from headstart.errors import ModuleError
from headstart.formats.libraries.peft_config import IDENTITY, SAVE_AGAIN, Fields, sizes
from headstart.formats.libraries.peft_virtual_tokens import (
    VirtualTokensLayout,
    halves,
    prefix_shapes,
    require_heads,
    require_shapes,
)

__all__ = ["BIASED_PREFIX", "BIASED_TEXT", "SITES", "AttentionPrefixLayout", "attention_prefix_layout"]

SITES = ("encoder", "decoder", "cross_attention")
"""The sites of a prefix: self-attention of the encoder, that of the decoder, and the decoder's attention to the
encoder's output."""

BIASED_TEXT, BIASED_PREFIX = "text", "adapterhub"
"""What T5's relative position bias does: leaves the prefix alone and the text as it is; or, as the library `adapters`
computes it, counts keys from the prefix's first and queries from the text's first."""

FIELDS = Fields(
    handled={
        "embedding_dim", "encoder_hidden_size", "num_attention_heads", "num_layers", "num_virtual_tokens",
        "prefix_projection", "relative_positions", "token_dim",
    },
    harmless=IDENTITY | {"task_type"},
)  # fmt: skip


@dataclass(frozen=True)
class AttentionPrefixLayout(VirtualTokensLayout):
    """`length` keys and values of `dim` units, all heads together, for every layer of some sites.

    `heads`: how many share `dim`, or `None` if the folder does not say. `layers`: (site, how many), in the order of
    `SITES`. `projection`: the bottleneck of the projections and the width of their input, or `None` if there are none.
    `relative_positions`: `BIASED_TEXT` or `BIASED_PREFIX`.
    """

    dim: int
    heads: int | None
    layers: tuple[tuple[str, int], ...]
    projection: tuple[int, int] | None
    relative_positions: str

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor by its name."""
        return {
            f"{site}.{part}": shape
            for site, count in self.layers
            for part, shape in prefix_shapes(self.length, count * 2 * self.dim, self.projection).items()
        }

    def config(self, *, task_type: str, base_model: object) -> dict[str, object]:
        """The content of the folder's adapter_config.json."""
        bottleneck, width = self.projection or (None, None)
        return {
            "peft_type": "ATTENTION_PREFIX", "task_type": task_type, "num_virtual_tokens": self.length,
            "token_dim": self.dim, "num_attention_heads": self.heads, "num_layers": dict(self.layers),
            "prefix_projection": self.projection is not None, "encoder_hidden_size": bottleneck,
            "embedding_dim": width, "relative_positions": self.relative_positions,
            "base_model_name_or_path": base_model, "inference_mode": True,
        }  # fmt: skip


def attention_prefix_layout(
    config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]
) -> AttentionPrefixLayout:
    """The layout of a prefix of chosen attention units; see `FolderReader.layout`."""
    FIELDS.check(config)
    halves(config)
    length, dim = sizes(config, ("num_virtual_tokens", "token_dim"))
    heads: int | None = None
    if config.get("num_attention_heads") is not None:
        (heads,) = sizes(config, ("num_attention_heads",))
        require_heads(dim, heads)
    layers, projection = _layers(config), None
    if config.get("prefix_projection"):
        bottleneck, width = sizes(config, ("encoder_hidden_size", "embedding_dim"))
        projection = (bottleneck, width)
    positions = config.get("relative_positions")
    if positions not in (BIASED_TEXT, BIASED_PREFIX):
        raise ModuleError(
            f"field 'relative_positions' is {positions!r}, not {BIASED_TEXT!r} or {BIASED_PREFIX!r}; {SAVE_AGAIN}"
        )
    layout = AttentionPrefixLayout(None, length, dim, heads, layers, projection, str(positions))
    require_shapes(shapes, layout.shapes, kind="prefix")
    return layout


def _layers(config: Mapping[str, object]) -> tuple[tuple[str, int], ...]:
    stated = config.get("num_layers")
    if not isinstance(stated, Mapping) or not stated or not set(stated) <= set(SITES):
        raise ModuleError(
            f"field 'num_layers' is {stated!r}, not the number of layers by site ({', '.join(SITES)}); correct it"
        )
    present = [site for site in SITES if site in stated]
    for site in present:
        if isinstance(stated[site], bool) or not isinstance(stated[site], int) or stated[site] < 1:
            raise ModuleError(
                f"field 'num_layers' has {stated[site]!r} for '{site}', not a whole number above 0; correct it"
            )
    return tuple((site, stated[site]) for site in present)
