"""Backbones: loading, identity, and the forward passes that everything above shares."""

from headstart.backbone.backbone import Backbone
from headstart.backbone.encoding import Encoded, TextFormat
from headstart.backbone.identity import fingerprint
from headstart.backbone.plan import PASS_COST, TargetBatch, plan_batches

__all__ = ["PASS_COST", "Backbone", "Encoded", "TargetBatch", "TextFormat", "fingerprint", "plan_batches"]
