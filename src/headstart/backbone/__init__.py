"""Backbones: loading, identity, and the forward passes that everything above shares."""

from headstart.backbone.backbone import Backbone
from headstart.backbone.encoder import EncoderBackbone
from headstart.backbone.encoding import Encoded, TextFormat
from headstart.backbone.heads import Head, HeadStack, require_head, target_loss
from headstart.backbone.hooks import attached
from headstart.backbone.identity import fingerprint
from headstart.backbone.plan import PASS_COST, TargetBatch, plan_batches

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
