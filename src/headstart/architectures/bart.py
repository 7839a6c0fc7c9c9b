"""BART: an encoder and a decoder that normalize after every sublayer, which adds e itself."""

from headstart.architectures.architecture import Architecture, Blocks, Sublayer, SublayerName

__all__ = ["BART"]


def _attention(name: SublayerName, path: str, adapters: str) -> Sublayer:
    return Sublayer(
        name,
        roots=(path, f"{path}_layer_norm"),
        layers={
            f"{path}.q_proj": "query", f"{path}.k_proj": "key", f"{path}.v_proj": "value",
            f"{path}.out_proj": "attention_output",
        },
        output=path,
        norm=f"{path}_layer_norm",
        stream=(path, 0),
        adapters=adapters,
        unit=path,
    )  # fmt: skip


SELF = _attention("attention", "self_attn", "attention_adapters")
CROSS = _attention("cross_attention", "encoder_attn", "cross_attention_adapters")
FEED_FORWARD = Sublayer(
    "feed_forward",
    roots=("fc1", "fc2", "final_layer_norm", "activation_fn"),
    layers={"fc1": "up", "fc2": "down"},
    output="fc2",
    norm="final_layer_norm",
    stream=("fc1", 0),
    adapters="output_adapters",
)
BART = Architecture(
    "model.",
    (
        Blocks("encoder", "encoder.layers", (SELF, FEED_FORWARD)),
        Blocks("decoder", "decoder.layers", (SELF, CROSS, FEED_FORWARD)),
    ),
    norm_behind=True,
    library=True,
)
