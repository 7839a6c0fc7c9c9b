from .backbone import Backbone
from .encoder import EncoderBackbone
from .encoding import Encoded, TextFormat
from .given import BackboneLike, as_backbone
from .heads import Head, HeadStack, require_head, target_loss
from .hooks import attached
from .identity import fingerprint
from .plan import PASS_COST, TargetBatch, plan_batches
from .source import BackboneInput, backbone_loaders

__all__ = [
    "PASS_COST",
    "Backbone",
    "BackboneInput",
    "BackboneLike",
    "Encoded",
    "EncoderBackbone",
    "Head",
    "HeadStack",
    "TargetBatch",
    "TextFormat",
    "as_backbone",
    "attached",
    "backbone_loaders",
    "fingerprint",
    "plan_batches",
    "require_head",
    "target_loss",
]
