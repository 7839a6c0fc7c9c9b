"""What the layouts of virtual tokens share: PEFT's prompts and prefixes, and Headstart's own prefixes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headstart.errors import ModuleError
from headstart.formats.layout import Layout
from headstart.formats.libraries.peft_config import SAVE_AGAIN

__all__ = ["EMBEDDINGS", "REFUSED", "VirtualTokensLayout", "halves", "prefix_shapes", "require_heads", "require_shapes"]

EMBEDDINGS = "prompt_embeddings"
"""The one tensor that PEFT saves for such a module."""

REFUSED = {"modules_to_save": "it carries whole layers, such as a classification head, beside the virtual tokens"}

HALVES = {"CAUSAL_LM": 1, "SEQ_2_SEQ_LM": 2, "SEQ_CLS": 1, "QUESTION_ANS": 1}


@dataclass(frozen=True)
class VirtualTokensLayout(Layout):
    """`length` virtual tokens, which adapt no layer's weight."""

    length: int
    rank: int | None = field(init=False)

    def __post_init__(self) -> None:
        """The length is what the card calls a rank."""
        object.__setattr__(self, "rank", self.length)


def halves(config: Mapping[str, object]) -> int:
    """1 for a module of a causal backbone or an encoder, 2 (encoder and decoder) for one of an encoder-decoder.

    Without a task type, PEFT runs the backbone as it is and ignores the virtual tokens; so a missing or unknown task
    type is refused with a `ModuleError`.
    """
    task = config.get("task_type")
    if not isinstance(task, str) or task not in HALVES:
        raise ModuleError(
            f"field 'task_type' is {task!r}; Headstart uses modules for "
            f"{', '.join(HALVES)}: set it, or leave the module out"
        )
    return HALVES[task]


def require_heads(dim: int, heads: int) -> None:
    """Raise `ModuleError` unless `heads` divides `dim` evenly."""
    if dim % heads:
        raise ModuleError(
            f"field 'token_dim' is {dim}, which num_attention_heads {heads} does not divide; correct them"
        )


def prefix_shapes(length: int, whole: int, projection: tuple[int, int] | None) -> dict[str, tuple[int, ...]]:
    """The shapes of what gives a prefix (length, whole): the prefix itself, or the projection that it is tuned through.

    `whole` is layers·2·dim, keys and values of all layers side by side; `projection` is (bottleneck, width of tokens).

    >>> prefix_shapes(3, 16, None)
    {'prefix': (3, 16)}
    """
    if projection is None:
        return {"prefix": (length, whole)}
    bottleneck, width = projection
    return {
        "tokens": (length, width),
        "inner": (bottleneck, width),
        "inner_bias": (bottleneck,),
        "outer": (whole, bottleneck),
        "outer_bias": (whole,),
    }


def require_shapes(shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], *, kind: str) -> None:
    """Raise `ModuleError` unless `shapes` is `wanted`: no tensor missing, none beside them, none of another shape."""
    for name, shape in wanted.items():
        if name not in shapes:
            raise ModuleError(f"tensor '{name}' is missing; {SAVE_AGAIN}")
        if tuple(shapes[name]) != shape:
            raise ModuleError(
                f"tensor '{name}' has shape {tuple(shapes[name])} but the configuration says {shape}; {SAVE_AGAIN}"
            )
    for name in shapes:
        if name not in wanted:
            raise ModuleError(f"tensor '{name}' is not part of a {kind}; train the module without saved heads")
