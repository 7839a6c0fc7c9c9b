"""From what a caller gives as a backbone to the backbone itself."""

from pathlib import Path

from transformers import PreTrainedModel

from headstart.backbones.backbone import Backbone
from headstart.errors import BackboneError, of_type

__all__ = ["BackboneLike", "as_backbone"]

BackboneLike = Backbone | str | Path
"""A backbone, or the folder, GGUF file or hub id that `Backbone.load` reads it from."""


def as_backbone(given: BackboneLike, *, device: str = "auto", dtype: str = "auto") -> Backbone:
    """The backbone that a caller gave, or that `Backbone.load` reads from what was given.

    It is loaded anew at every call, to `device` and in `dtype`; several calls are faster with a `Backbone` that was
    loaded once. Raises `BackboneError` for a value of another type, and whatever `Backbone.load` raises.
    """
    if isinstance(given, Backbone):
        return given
    if isinstance(given, str | Path):
        return Backbone.load(given, device=device, dtype=dtype)
    remedy = "give a Backbone, or the folder, .gguf file or hub id that Backbone.load reads"
    if isinstance(given, PreTrainedModel):
        remedy = "give it with its tokenizer, as Backbone.of(model, tokenizer)"
    raise BackboneError(f"{of_type('backbone', given)}; {remedy}")
