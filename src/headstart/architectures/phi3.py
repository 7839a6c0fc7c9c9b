"""Phi-3: like Llama, with one projection for queries, keys and values, and one for the gate and what it gates."""

from dataclasses import replace

from headstart.architectures.architecture import Architecture, Blocks
from headstart.architectures.llama import ATTENTION, FEED_FORWARD

__all__ = ["PHI3"]

PHI3 = Architecture(
    "model.",
    (
        Blocks(
            "decoder",
            "layers",
            (
                replace(
                    ATTENTION,
                    layers={"self_attn.qkv_proj": "query_key_value", "self_attn.o_proj": "attention_output"},
                ),
                replace(FEED_FORWARD, layers={"mlp.gate_up_proj": "gate_up", "mlp.down_proj": "down"}),
            ),
        ),
    ),
)
