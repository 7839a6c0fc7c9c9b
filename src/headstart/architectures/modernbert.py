"""ModernBERT: an encoder that normalizes before each sublayer, with one projection for queries, keys and values."""

from headstart.architectures.architecture import Architecture, Blocks, Sublayer

__all__ = ["MODERNBERT"]

ATTENTION = Sublayer(
    "attention",
    roots=("attn", "attn_norm"),
    layers={"attn.Wqkv": "query_key_value", "attn.Wo": "attention_output"},
    output="attn",
    norm="attn_norm",
    stream=("attn_norm", 0),
    adapters="attention_adapters",
)
FEED_FORWARD = Sublayer(
    "feed_forward",
    roots=("mlp", "mlp_norm"),
    layers={"mlp.Wi": "gate_up", "mlp.Wo": "down"},
    output="mlp",
    norm="mlp_norm",
    stream=("mlp_norm", 0),
    adapters="output_adapters",
)
MODERNBERT = Architecture("model.", (Blocks("encoder", "layers", (ATTENTION, FEED_FORWARD)),))
