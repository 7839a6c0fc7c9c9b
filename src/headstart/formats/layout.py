"""What every kind's layout tells its users, whatever the tensors are called."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Layout", "computing_fields"]

DESCRIPTIVE = frozenset(
    {"base_model_name_or_path", "model_name", "revision", "peft_version", "inference_mode", "auto_mapping"}
)
"""Fields of a configuration that say where a module comes from, not what it computes."""


def computing_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a module's configuration on which its function depends; what is empty or off counts as absent."""
    return {key: value for key, value in config.items() if value and key not in DESCRIPTIVE}


@dataclass(frozen=True)
class Layout:
    """Where the tensors of one validated module belong.

    `through_peft` names the variants whose function only PEFT computes, so that such modules run through it one by one;
    `None` for modules that a stack computes.
    """

    through_peft: str | None

    @property
    def widths(self) -> Mapping[str, tuple[int | None, int | None]]:
        """(in, out) of every adapted layer by its path in the backbone; `None` is a width that no tensor shows."""
        return {}

    @property
    def holds_backbone(self) -> bool:
        """Whether weights of the backbone are stored beside the module's own, so that they say which backbone fits."""
        return False

    @property
    def rank(self) -> int | None:
        """The largest rank (LoRA), bottleneck size (adapter) or length in tokens (prefix, prompt); else `None`."""
        return None

    @property
    def scaling(self) -> float | None:
        """The common factor of all updates, or `None` if there are several or none."""
        return None
