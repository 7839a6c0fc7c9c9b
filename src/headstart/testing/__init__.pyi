from .backbones import BACKBONES, tiny_backbone
from .case import Outcome
from .conformance import CHECKS, check_kind

__all__ = [
    "BACKBONES",
    "CHECKS",
    "Outcome",
    "check_kind",
    "tiny_backbone",
]
