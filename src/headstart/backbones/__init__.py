"""Backbones: loading, identity, and the forward passes that everything above shares."""

from headstart.backbones.backbone import Backbone
from headstart.backbones.encoder import EncoderBackbone
from headstart.backbones.encoding import Encoded, TextFormat
from headstart.backbones.heads import Head, HeadStack, require_head, target_loss
from headstart.backbones.hooks import attached
from headstart.backbones.identity import fingerprint
from headstart.backbones.plan import PASS_COST, TargetBatch, plan_batches

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
