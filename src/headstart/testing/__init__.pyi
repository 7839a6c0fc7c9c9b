from .backbones import BACKBONES, MORE_BACKBONES, tiny_backbone
from .blending import RULE_CHECKS, SPACE_CHECKS, check_rule, check_space
from .case import Outcome
from .conformance import CHECKS, check_kind
from .embeddings import EMBEDDING_CHECKS, check_embedding
from .indicators import INDICATOR_CHECKS, check_indicator

__all__ = [
    "BACKBONES",
    "CHECKS",
    "EMBEDDING_CHECKS",
    "INDICATOR_CHECKS",
    "MORE_BACKBONES",
    "RULE_CHECKS",
    "SPACE_CHECKS",
    "Outcome",
    "check_embedding",
    "check_indicator",
    "check_kind",
    "check_rule",
    "check_space",
    "tiny_backbone",
]
