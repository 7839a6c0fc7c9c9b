from .backbones import BACKBONES, MORE_BACKBONES, tiny_backbone
from .case import Outcome
from .conformance import CHECKS, check_kind

__all__ = [
    "BACKBONES",
    "CHECKS",
    "MORE_BACKBONES",
    "Outcome",
    "check_kind",
    "tiny_backbone",
]
