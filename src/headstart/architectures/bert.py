"""BERT, and RoBERTa, XLM-RoBERTa and ELECTRA, which are built like it: a layer norm after each sublayer."""

from dataclasses import replace

from headstart.architectures.architecture import Architecture, Blocks, Sublayer

__all__ = ["BERT", "ELECTRA", "ROBERTA"]

ATTENTION = Sublayer(
    "attention",
    roots=("attention",),
    layers={
        "attention.self.query": "query", "attention.self.key": "key", "attention.self.value": "value",
        "attention.output.dense": "attention_output",
    },
    output="attention.output.dense",
    norm="attention.output.LayerNorm",
    stream=("attention.output", 1),
    adapters="attention.output",
    unit="attention.self",
)  # fmt: skip
FEED_FORWARD = Sublayer(
    "feed_forward",
    roots=("intermediate", "output"),
    layers={"intermediate.dense": "up", "output.dense": "down"},
    output="output.dense",
    norm="output.LayerNorm",
    stream=("output", 1),
    adapters="output",
)
BERT = Architecture(
    "bert.", (Blocks("encoder", "encoder.layer", (ATTENTION, FEED_FORWARD)),), norm_behind=True, library=True
)
ROBERTA = replace(BERT, base="roberta.")
ELECTRA = replace(BERT, base="electra.")
