"""GPT-NeoX and Pythia: attention and feed-forward mostly read the same residual stream, each through its own norm."""

from headstart.architectures.architecture import Architecture, Blocks, Sublayer

__all__ = ["GPT_NEOX"]

ATTENTION = Sublayer(
    "attention",
    roots=("attention", "input_layernorm", "post_attention_dropout"),
    layers={"attention.query_key_value": "query_key_value", "attention.dense": "attention_output"},
    output="attention",
    norm="input_layernorm",
    stream=("input_layernorm", 0),
    adapters="attention_adapters",
)
FEED_FORWARD = Sublayer(
    "feed_forward",
    roots=("mlp", "post_attention_layernorm", "post_mlp_dropout"),
    layers={"mlp.dense_h_to_4h": "up", "mlp.dense_4h_to_h": "down"},
    output="mlp",
    norm="post_attention_layernorm",
    stream=("post_attention_layernorm", 0),
    adapters="output_adapters",
)
GPT_NEOX = Architecture("gpt_neox.", (Blocks("decoder", "layers", (ATTENTION, FEED_FORWARD)),))
