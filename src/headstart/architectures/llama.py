"""Llama and those built like it (Mistral, Qwen2, Qwen3): separate projections, and an RMS norm before each sublayer."""

from dataclasses import replace

from headstart.architectures.architecture import Architecture, Blocks, Sublayer

__all__ = ["LLAMA", "QWEN"]

ATTENTION = Sublayer(
    "attention",
    roots=("self_attn", "input_layernorm"),
    layers={
        "self_attn.q_proj": "query", "self_attn.k_proj": "key", "self_attn.v_proj": "value",
        "self_attn.o_proj": "attention_output",
    },
    output="self_attn",
    norm="input_layernorm",
    stream=("input_layernorm", 0),
    adapters="attention_adapters",
)  # fmt: skip
FEED_FORWARD = Sublayer(
    "feed_forward",
    roots=("mlp", "post_attention_layernorm"),
    layers={"mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down"},
    output="mlp",
    norm="post_attention_layernorm",
    stream=("post_attention_layernorm", 0),
    adapters="output_adapters",
)
LLAMA = Architecture("model.", (Blocks("decoder", "layers", (ATTENTION, FEED_FORWARD)),), library=True)
QWEN = replace(LLAMA, library=False)
