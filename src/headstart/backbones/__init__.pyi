from .backbone import Backbone
from .encoder import EncoderBackbone
from .encoding import Encoded, TextFormat
from .heads import Head, HeadStack, require_head, target_loss
from .hooks import attached
from .identity import fingerprint
from .plan import PASS_COST, TargetBatch, plan_batches

__all__ = [
    "PASS_COST",
    "Backbone",
    "Encoded",
    "EncoderBackbone",
    "Head",
    "HeadStack",
    "TargetBatch",
    "TextFormat",
    "attached",
    "fingerprint",
    "plan_batches",
    "require_head",
    "target_loss",
]
