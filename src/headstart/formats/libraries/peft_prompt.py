"""What a PEFT prompt tuning module is, read from its configuration and its tensor's shape; pure, without torch.

Prompt tuning (Lester et al., 2021) puts `num_virtual_tokens` rows of width `token_dim` before the embedded input.
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
    require_shapes,
)

__all__ = ["FIELDS", "PromptLayout", "prompt_layout"]

FIELDS = Fields(
    handled={"num_transformer_submodules", "num_virtual_tokens", "task_type", "token_dim"},
    harmless=IDENTITY | {
        # how the rows were initialized
        "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs", "tokenizer_name_or_path",
        # the backbone's own, which only prefix tuning uses
        "num_attention_heads", "num_layers",
    },
    refused=REFUSED,
)  # fmt: skip
"""The fields of PEFT 0.21's PromptTuningConfig."""


@dataclass(frozen=True)
class PromptLayout(VirtualTokensLayout):
    """`length` rows of width `dim` that are used; the tensor may hold the same number again, which PEFT never reads.

    `seq2seq` says that the rows go before the input of an encoder.
    """

    dim: int
    seq2seq: bool


def prompt_layout(config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> PromptLayout:
    """The layout of a prompt tuning module; see `FolderReader.layout`."""
    FIELDS.check(config)
    most = halves(config)
    length, dim = sizes(config, ("num_virtual_tokens", "token_dim"))
    stated = config.get("num_transformer_submodules")
    # For an encoder-decoder, PEFT doubles the rows by default, and then uses the first half, in the encoder.
    doubled = most if stated is None else stated
    if isinstance(doubled, bool) or not isinstance(doubled, int) or not 1 <= doubled <= most:
        raise ModuleError(
            f"field 'num_transformer_submodules' is {stated!r} for task type {config['task_type']}, where "
            f"PEFT expects {most}; correct it"
        )
    require_shapes(shapes, {EMBEDDINGS: (length * doubled, dim)}, kind="prompt")
    return PromptLayout(None, length, dim, most == 2)
