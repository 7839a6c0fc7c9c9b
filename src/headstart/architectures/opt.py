"""OPT, which normalizes before each sublayer: all sizes except the one with 350 million parameters."""

from headstart.architectures.architecture import Architecture, Blocks, Sublayer

__all__ = ["OPT"]

ATTENTION = Sublayer(
    "attention",
    roots=("self_attn", "self_attn_layer_norm"),
    layers={
        "self_attn.q_proj": "query", "self_attn.k_proj": "key", "self_attn.v_proj": "value",
        "self_attn.out_proj": "attention_output",
    },
    output="self_attn",
    norm="self_attn_layer_norm",
    stream=("self_attn_layer_norm", 0),
    adapters="attention_adapters",
)  # fmt: skip
FEED_FORWARD = Sublayer(
    "feed_forward",
    roots=("fc1", "fc2", "final_layer_norm", "activation_fn"),
    layers={"fc1": "up", "fc2": "down"},
    output="fc2",
    norm="final_layer_norm",
    stream=("final_layer_norm", 0),
    adapters="output_adapters",
)
OPT = Architecture(
    "model.",
    (Blocks("decoder", "decoder.layers", (ATTENTION, FEED_FORWARD)),),
    requires={"do_layer_norm_before": True},
)
