"""The embeddings by the names that users type."""

from typing import TYPE_CHECKING

from headstart.registry import Registry

if TYPE_CHECKING:
    from headstart.embeddings.contract import Embedding

__all__ = ["EMBEDDINGS", "usual_embedding"]

EMBEDDINGS: "Registry[type[Embedding]]" = Registry(
    "embedding",
    group="headstart.embeddings",
    contract="headstart.embeddings:Embedding",
    members={
        "tupate": "headstart.embeddings.tupate:Tupate",
        "flat": "headstart.embeddings.flat:Flat",
        "canonical": "headstart.embeddings.canonical:Canonical",
        "gram": "headstart.embeddings.gram:Gram",
        "early": "headstart.embeddings.early:Early",
        "late": "headstart.embeddings.late:Late",
        "3e": "headstart.embeddings.three_e:ThreeE",
        "taskemb": "headstart.embeddings.taskemb:TaskEmb",
        "textemb": "headstart.embeddings.textemb:TextEmb",
        "data_size": "headstart.embeddings.data_size:DataSize",
        "curve_gradient": "headstart.embeddings.curve_gradient:CurveGradient",
        "pooled": "headstart.embeddings.pooled:Pooled",
    },
)


def usual_embedding(kind: str) -> str:
    """By what modules of a kind are compared if nothing is said.

    That is "gram" for LoRA, which begins with random numbers that have nothing to do with the task, else "tupate".
    """
    return "gram" if kind == "lora" else "tupate"
