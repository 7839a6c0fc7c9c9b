"""What every kind's layout tells its users, whatever the tensors are called."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Layout", "Widths", "computing_fields"]

DESCRIPTIVE = frozenset(
    {"base_model_name_or_path", "model_name", "revision", "peft_version", "inference_mode", "auto_mapping"}
)
"""Fields of a configuration that say where a module comes from, not what it computes."""


def computing_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a module's configuration on which its function depends; what is empty or off counts as absent."""
    return {key: value for key, value in config.items() if value and key not in DESCRIPTIVE}


Widths = tuple[int | None, int | None]
"""(in, out) of an adapted layer; `None` is a width that no tensor of the module shows."""


@dataclass(frozen=True)
class Layout:
    """Where the tensors of one validated module belong, and what its card says of its shape.

    `through_peft`: the variants whose function only PEFT computes, so that such modules run through it one by one;
    `None` for modules that a stack computes. `widths`: of every adapted layer, by its path in the backbone. `rank`: the
    largest rank (LoRA), bottleneck size (adapter) or length in tokens (prefix, prompt). `scaling`: the common factor of
    all updates, or `None` if there are several or none. `holds_backbone`: whether weights of the backbone are stored
    beside the module's own, so that they say which backbone fits.
    """

    through_peft: str | None
    widths: Mapping[str, Widths] = field(default_factory=dict, kw_only=True, hash=False)
    rank: int | None = field(default=None, kw_only=True)
    scaling: float | None = field(default=None, kw_only=True)
    holds_backbone: bool = field(default=False, kw_only=True)
