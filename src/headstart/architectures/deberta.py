"""DeBERTa-v2 and v3: BERT's blocks, whose attention also reads embeddings of relative positions."""

from dataclasses import replace

from headstart.architectures.architecture import Architecture, Blocks
from headstart.architectures.bert import ATTENTION, FEED_FORWARD

__all__ = ["DEBERTA"]

DEBERTA = Architecture(
    "deberta.",
    (
        Blocks(
            "encoder",
            "encoder.layer",
            (
                replace(
                    ATTENTION,
                    layers={
                        "attention.self.query_proj": "query", "attention.self.key_proj": "key",
                        "attention.self.value_proj": "value", "attention.self.pos_key_proj": "position_key",
                        "attention.self.pos_query_proj": "position_query", "attention.output.dense": "attention_output",
                    },
                    unit=None,
                ),
                FEED_FORWARD,
            ),
        ),
    ),
    norm_behind=True,
    library=True,
    shared="its projections also read embeddings of relative positions, of which all rows share one set",
)  # fmt: skip
