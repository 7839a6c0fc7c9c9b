"""T5 and mT5: an encoder and a decoder that normalize before every sublayer; a sublayer is a layer of the block."""

from headstart.architectures.architecture import Architecture, Blocks, Role, Sublayer

__all__ = ["T5"]


def _attention(number: int, unit: str, name: str) -> Sublayer:
    layer = f"layer.{number}"
    roles: dict[str, Role] = {"q": "query", "k": "key", "v": "value", "o": "attention_output"}
    return Sublayer(
        "cross_attention" if name == "cross" else "attention",
        roots=(layer,),
        layers={f"{layer}.{unit}.{own}": role for own, role in roles.items()},
        output=f"{layer}.{unit}",
        norm=f"{layer}.layer_norm",
        stream=(f"{layer}.layer_norm", 0),
        adapters=layer,
        unit=f"{layer}.{unit}",
    )


def _feed_forward(number: int) -> Sublayer:
    layer = f"layer.{number}"
    # `wi` in the first version; with a gated activation, `wi_0` goes through it and `wi_1` does not.
    roles: dict[str, Role] = {"wi": "up", "wi_0": "gate", "wi_1": "up", "wo": "down"}
    return Sublayer(
        "feed_forward",
        roots=(layer,),
        layers={f"{layer}.DenseReluDense.{own}": role for own, role in roles.items()},
        output=f"{layer}.DenseReluDense",
        norm=f"{layer}.layer_norm",
        stream=(f"{layer}.layer_norm", 0),
        adapters=layer,
    )


T5 = Architecture(
    base="",
    blocks=(
        Blocks("encoder", "encoder.block", (_attention(0, "SelfAttention", "self"), _feed_forward(1))),
        Blocks(
            "decoder",
            "decoder.block",
            (_attention(0, "SelfAttention", "self"), _attention(1, "EncDecAttention", "cross"), _feed_forward(2)),
        ),
    ),
    library=True,
    relative_bias=True,
)
