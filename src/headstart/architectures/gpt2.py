"""GPT-2: one projection for queries, keys and values, and a layer norm before each sublayer."""

from headstart.architectures.architecture import Architecture, Blocks, Sublayer

__all__ = ["GPT2"]

ATTENTION = Sublayer(
    "attention",
    roots=("attn", "ln_1"),
    layers={"attn.c_attn": "query_key_value", "attn.c_proj": "attention_output"},
    output="attn",
    norm="ln_1",
    stream=("ln_1", 0),
    adapters="attention_adapters",
)
FEED_FORWARD = Sublayer(
    "feed_forward",
    roots=("mlp", "ln_2"),
    layers={"mlp.c_fc": "up", "mlp.c_proj": "down"},
    output="mlp",
    norm="ln_2",
    stream=("ln_2", 0),
    adapters="output_adapters",
)
GPT2 = Architecture("transformer.", (Blocks("decoder", "h", (ATTENTION, FEED_FORWARD)),), library=True, transposed=True)
