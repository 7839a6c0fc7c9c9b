"""For those who write a kind of their own: does it keep the contract? `check_kind(name)` says."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.testing.backbones import BACKBONES, tiny_backbone
    from headstart.testing.case import Outcome
    from headstart.testing.conformance import CHECKS, check_kind

__all__ = ["BACKBONES", "CHECKS", "Outcome", "check_kind", "tiny_backbone"]

_HOMES = {
    "BACKBONES": "backbones",
    "CHECKS": "conformance",
    "Outcome": "case",
    "check_kind": "conformance",
    "tiny_backbone": "backbones",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `python -m headstart.testing.conformance` imports itself once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'headstart.testing' has no attribute '{name}'")
    return getattr(import_module(f"headstart.testing.{_HOMES[name]}"), name)
