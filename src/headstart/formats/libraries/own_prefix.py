"""What a prefix of chosen attention units is, read from its configuration and its tensors' shapes; pure, without torch.

PEFT's prefix for an encoder-decoder goes to the decoder's self-attention only. Lv et al., 2023, give the encoder one of
its own, and AdapterHub the cross-attention too. PEFT has no such type, so the folder is Headstart's own, laid out as
PEFT would: `peft_type` "ATTENTION_PREFIX", which PEFT does not know and refuses, and for every site one tensor
`<site>.prefix` (length, layers·2·token_dim), the keys and values of all layers side by side, or the tensors of the
projection that gives it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from headstart.errors import ModuleError
from headstart.formats.layout import Layout
from headstart.formats.libraries.peft_config import SAVE_AGAIN, refuse_fields
from headstart.formats.libraries.peft_virtual_tokens import IDENTITY, halves, require_shapes, sizes

__all__ = [
    "BIASED_PREFIX",
    "BIASED_TEXT",
    "SITES",
    "AttentionPrefixLayout",
    "attention_prefix_layout",
    "attention_prefix_shapes",
]

SITES = ("encoder", "decoder", "cross_attention")
"""Where a prefix can stand: self-attention of the encoder, that of the decoder, and the decoder's attention to the
encoder's output."""

BIASED_TEXT, BIASED_PREFIX = "text", "adapterhub"
"""What T5's relative position bias does: leaves the prefix alone and the text as it is; or, as the library `adapters`
computes it, counts keys from the prefix's first and queries from the text's first."""

HARMLESS = IDENTITY | {"task_type"}
HANDLED = frozenset(
    {
        "embedding_dim", "encoder_hidden_size", "num_attention_heads", "num_layers", "num_virtual_tokens",
        "prefix_projection", "relative_positions", "token_dim",
    }
)  # fmt: skip


@dataclass(frozen=True)
class AttentionPrefixLayout(Layout):
    """`length` keys and values of `dim` units, all heads together, for every layer of some sites.

    `layers`: how many by site, in the order of `SITES`. `heads`: how many share `dim`, or `None` where the folder
    does not say. `bottleneck` and `width`: of the projection and of what goes into it, or `None` without one.
    `relative_positions`: `BIASED_TEXT` or `BIASED_PREFIX`.
    """

    length: int
    dim: int
    heads: int | None
    layers: Mapping[str, int]
    bottleneck: int | None
    width: int | None
    relative_positions: str

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Empty: no layer's weight is adapted."""
        return {}

    @property
    def rank(self) -> int:
        """The length in tokens."""
        return self.length


def attention_prefix_shapes(
    layers: Mapping[str, int], *, length: int, dim: int, projection: tuple[int, int] | None
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by its name; `projection`: bottleneck and width of a projection, where there is one.

    >>> attention_prefix_shapes({"encoder": 2}, length=3, dim=4, projection=None)
    {'encoder.prefix': (3, 16)}
    """
    found: dict[str, tuple[int, ...]] = {}
    for site, count in layers.items():
        whole = count * 2 * dim
        if projection is None:
            found[f"{site}.prefix"] = (length, whole)
            continue
        bottleneck, width = projection
        found |= {
            f"{site}.tokens": (length, width),
            f"{site}.inner": (bottleneck, width),
            f"{site}.inner_bias": (bottleneck,),
            f"{site}.outer": (whole, bottleneck),
            f"{site}.outer_bias": (whole,),
        }
    return found


def attention_prefix_layout(
    config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]
) -> AttentionPrefixLayout:
    """Read the layout of a prefix of chosen attention units.

    Args:
        config: the content of adapter_config.json.
        shapes: shape of each stored tensor by its name.

    Raises:
        ModuleError: a field is unknown or unsound, or a tensor is missing, misshapen or not part of the prefix. The
            message names the field or tensor.
    """
    refuse_fields(config, known=HARMLESS | HANDLED, refused={})
    halves(config)
    length, dim = sizes(config, ("num_virtual_tokens", "token_dim"))
    heads = None
    if config.get("num_attention_heads") is not None:
        (heads,) = sizes(config, ("num_attention_heads",))
        if dim % heads:
            raise ModuleError(
                f"field 'token_dim' is {dim}, which num_attention_heads {heads} does not divide; correct them"
            )
    layers, bottleneck, width = _layers(config), None, None
    if config.get("prefix_projection"):
        bottleneck, width = sizes(config, ("encoder_hidden_size", "embedding_dim"))
    positions = config.get("relative_positions")
    if positions not in (BIASED_TEXT, BIASED_PREFIX):
        raise ModuleError(
            f"field 'relative_positions' is {positions!r}, not {BIASED_TEXT!r} or {BIASED_PREFIX!r}; {SAVE_AGAIN}"
        )
    projection = None if bottleneck is None or width is None else (bottleneck, width)
    wanted = attention_prefix_shapes(layers, length=length, dim=dim, projection=projection)
    require_shapes(shapes, wanted, kind="prefix")
    return AttentionPrefixLayout(None, length, dim, heads, layers, bottleneck, width, str(positions))


def _layers(config: Mapping[str, object]) -> dict[str, int]:
    stated = config.get("num_layers")
    if not isinstance(stated, Mapping) or not stated or not set(stated) <= set(SITES):
        raise ModuleError(
            f"field 'num_layers' is {stated!r}, not the number of layers by site ({', '.join(SITES)}); correct it"
        )
    present = tuple(site for site in SITES if site in stated)
    for site in present:
        if isinstance(stated[site], bool) or not isinstance(stated[site], int) or stated[site] < 1:
            raise ModuleError(
                f"field 'num_layers' has {stated[site]!r} for '{site}', not a whole number above 0; correct it"
            )
    return {site: stated[site] for site in present}
