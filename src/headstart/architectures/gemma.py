"""Gemma 2 and the language models of Gemma 3: Llama's layers, with a norm before each sublayer and one after it."""

from dataclasses import replace

from headstart.architectures.architecture import Architecture, Blocks
from headstart.architectures.llama import ATTENTION, FEED_FORWARD

__all__ = ["GEMMA"]

# The output of the second norm is added to the residual stream.
GEMMA = Architecture(
    "model.",
    (
        Blocks(
            "decoder",
            "layers",
            (
                replace(
                    ATTENTION,
                    roots=("self_attn", "input_layernorm", "post_attention_layernorm"),
                    output="post_attention_layernorm",
                ),
                replace(
                    FEED_FORWARD,
                    roots=("mlp", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
                    output="post_feedforward_layernorm",
                    norm="pre_feedforward_layernorm",
                    stream=("pre_feedforward_layernorm", 0),
                ),
            ),
        ),
    ),
)
