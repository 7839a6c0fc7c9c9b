"""The embeddings by the names that users type."""

from typing import TYPE_CHECKING

from headstart.registry import Registry

if TYPE_CHECKING:
    from headstart.embeddings.contract import Embedding

__all__ = ["EMBEDDINGS"]

EMBEDDINGS: "Registry[type[Embedding]]" = Registry(
    "embedding",
    group="headstart.embeddings",
    contract="headstart.embeddings:Embedding",
    members={
        "tupate": "headstart.embeddings.tupate:Tupate",
        "flat": "headstart.embeddings.flat:Flat",
        "canonical": "headstart.embeddings.canonical:Canonical",
        "pooled": "headstart.embeddings.pooled:Pooled",
    },
)
