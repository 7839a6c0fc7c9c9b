"""What a PEFT prefix tuning module is, read from its configuration and its tensors' shapes; pure, without torch.

Prefix tuning (Li and Liang, 2021) puts `num_virtual_tokens` keys and values before those of self-attention. PEFT saves
one row per virtual token, the keys and values of all layers side by side, also where it trained them through a
projection (`prefix_projection`), which is computed when the module is saved. Headstart keeps the projection beside it,
in tensors that PEFT passes over, so that modules can be averaged before it (Lv et al., 2023).

`HARMLESS`, `HANDLED` and `REFUSED` together hold every field of PEFT 0.21's PrefixTuningConfig, and a field in none of
them is refused unless it is empty.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from headstart.errors import ModuleError
from headstart.formats.layout import Layout
from headstart.formats.libraries.peft_config import refuse_fields
from headstart.formats.libraries.peft_virtual_tokens import EMBEDDINGS, IDENTITY, REFUSED, halves, require_shapes, sizes

__all__ = ["HANDLED", "HARMLESS", "PROJECTION", "REFUSED", "PrefixLayout", "prefix_layout"]

HARMLESS = IDENTITY | {"init_weights"}
"""Fields that leave the function of a saved module alone."""

HANDLED = frozenset(
    {
        "encoder_hidden_size", "num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens",
        "prefix_projection", "task_type", "token_dim",
    }
)  # fmt: skip
"""Fields that `prefix_layout` computes with."""

PROJECTION = {
    "tokens": "prompt_encoder.embedding.weight",
    "inner": "prompt_encoder.transform.0.weight",
    "inner_bias": "prompt_encoder.transform.0.bias",
    "outer": "prompt_encoder.transform.2.weight",
    "outer_bias": "prompt_encoder.transform.2.bias",
}
"""Names of the projection's tensors, as PEFT calls them while it trains, by what they are."""


@dataclass(frozen=True)
class PrefixLayout(Layout):
    """`length` keys and values of (`heads`, `head_dim`) for each of `layers` self-attention layers.

    `seq2seq`: they go to a decoder, which reads them in PEFT's peculiar order. `bottleneck`: the width of the
    projection whose tensors are there too, or `None`.
    """

    length: int
    layers: int
    heads: int
    head_dim: int
    seq2seq: bool
    bottleneck: int | None

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Empty: no layer's weight is adapted."""
        return {}

    @property
    def rank(self) -> int:
        """The length in tokens."""
        return self.length


def prefix_layout(config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> PrefixLayout:
    """Read the layout of a prefix tuning module.

    Args:
        config: the content of adapter_config.json.
        shapes: shape of each stored tensor by its name.

    Raises:
        ModuleError: a field that Headstart does not compute, a size that is none, or a tensor that is unknown,
            missing or misshapen. The message names the field or tensor.
    """
    refuse_fields(config, known=HARMLESS | HANDLED, refused=REFUSED)
    parts = halves(config)
    stated = config.get("num_transformer_submodules")
    if stated is not None and stated != parts:
        raise ModuleError(
            f"field 'num_transformer_submodules' is {stated!r} for task type {config['task_type']}, where "
            f"PEFT expects {parts}; correct it"
        )
    length, layers, heads, dim = sizes(config, ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim"))
    if dim % heads:
        raise ModuleError(
            f"field 'token_dim' is {dim}, which num_attention_heads {heads} does not divide; correct them"
        )
    wanted: dict[str, tuple[int, ...]] = {EMBEDDINGS: (length, layers * 2 * dim)}
    bottleneck = None
    if config.get("prefix_projection") and shapes.keys() & set(PROJECTION.values()):
        (bottleneck,) = sizes(config, ("encoder_hidden_size",))
        wanted |= {
            PROJECTION["tokens"]: (length, dim),
            PROJECTION["inner"]: (bottleneck, dim),
            PROJECTION["inner_bias"]: (bottleneck,),
            PROJECTION["outer"]: (layers * 2 * dim, bottleneck),
            PROJECTION["outer_bias"]: (layers * 2 * dim,),
        }
    require_shapes(shapes, wanted, kind="prefix")
    return PrefixLayout(None, length, layers, heads, dim // heads, parts == 2, bottleneck)
