"""What the readers of all AdapterHub configurations share: the method's own fields, and the names of tensors."""

import re
from collections.abc import Mapping
from functools import cache

from headstart.architectures import ARCHITECTURES

__all__ = ["SAVE_AGAIN", "is_adapterhub", "method_fields", "without_base"]

SAVE_AGAIN = "save it again with the library `adapters` 1.3"


def is_adapterhub(config: Mapping[str, object]) -> bool:
    """Whether an adapter_config.json is AdapterHub's rather than PEFT's."""
    return "peft_type" not in config and isinstance(config.get("config"), Mapping) and "model_type" in config


def method_fields(config: Mapping[str, object]) -> Mapping[str, object]:
    """The method's own fields."""
    method = config["config"]
    assert isinstance(method, Mapping)  # `is_adapterhub` has checked it
    return method


def without_base(name: str) -> str:
    """A tensor's name without the path of the base model, whether or not it was saved with a head on top.

    >>> without_base("model.layers.0.mlp"), without_base("layers.0.mlp")
    ('layers.0.mlp', 'layers.0.mlp')
    """
    return _bases().sub("", name)


@cache
def _bases() -> re.Pattern[str]:
    bases = {re.escape(architecture.base) for architecture in ARCHITECTURES.values() if architecture.base}
    return re.compile(rf"^(?:{'|'.join(sorted(bases))})")
