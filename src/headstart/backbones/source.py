"""What identifies a backbone in a unit's inputs, and how another process loads the same backbone."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from headstart.backbones.backbone import Backbone
from headstart.errors import BackboneError
from headstart.records import Fingerprint, TextFormat

__all__ = ["RESOURCE", "BackboneInput", "backbone_loaders"]

RESOURCE = "backbone"
"""The name under which units ask for the backbone that they run."""


@dataclass(frozen=True)
class BackboneInput:
    """Everything about a backbone that a result depends on: not its name, and not where it was loaded from.

    `config`: a hash of the settings that it computes by; `tokenizer`: of how it makes tokens. `dtype` and `device`
    ("cpu", "cuda", …): what it computes in and on. `chat`: a hash of the tokenizer's chat template, if it is used.
    """

    architecture: str
    shapes: str
    weights: str
    config: str
    tokenizer: str
    dtype: str
    device: str
    chat: str = ""

    @classmethod
    def of(cls, backbone: Backbone, text_format: TextFormat | None = None) -> "BackboneInput":
        """The identity of a loaded backbone that reads texts of this format."""
        print_ = backbone.fingerprint
        chat = ""
        if text_format is not None and text_format.chat_template:
            chat = hashlib.sha256(str(backbone.tokenizer.chat_template).encode()).hexdigest()
        return cls(
            print_.architecture, print_.shapes, print_.weights, backbone.config_digest,
            backbone.tokenizer_digest, str(backbone.dtype).removeprefix("torch."), backbone.device.type,
            chat,
        )  # fmt: skip


def backbone_loaders(backbone: Backbone) -> Mapping[str, Callable[[], Backbone]]:
    """A loader that gives units `backbone` itself in this process, and loads the same one anew in another process."""
    return {RESOURCE: _Here(backbone)}


class _Here:
    """Returns the backbone; sent to another process, it loads the backbone from the same source."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def __call__(self) -> Backbone:
        return self.backbone

    def __reduce__(self) -> tuple[object, ...]:
        backbone = self.backbone
        if backbone.source is None:
            raise BackboneError(f"{backbone.name} was not loaded by Backbone.load; load it so, or use engine 'serial'")
        return partial, (
            _load, backbone.source, str(backbone.device), str(backbone.dtype).removeprefix("torch."),
            backbone.fingerprint,
        )  # fmt: skip


def _load(source: tuple[str, str | None], device: str, dtype: str, expected: Fingerprint) -> Backbone:
    place, revision = source
    backbone = Backbone.load(
        Path(place) if Path(place).exists() else place, device=device, dtype=dtype, revision=revision
    )
    if not backbone.fingerprint.same_as(expected):
        raise BackboneError(f"{place} holds other weights than when the work began; put the former back or begin anew")
    return backbone
