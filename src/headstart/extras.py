"""Optional packages: if one is needed and not installed, the error says how to install it."""

from importlib.util import find_spec

from headstart.errors import SettingError

__all__ = ["missing", "require"]

EXTRAS = {
    "gguf": "gguf",
    "datasets": "datasets",
    "sentencepiece": "sentencepiece",
    "lancedb": "lancedb",
    "nevergrad": "nevergrad",
}
"""Package → the extra of Headstart that installs it; pyproject.toml names the same."""


def missing(package: str) -> str | None:
    """How to install an optional package that is missing; `None` if it is installed."""
    return None if find_spec(package) else f"install it with pip install 'headstart[{EXTRAS[package]}]'"


def require(package: str, *, for_what: str) -> None:
    """Raise `SettingError`, which names the extra, unless the optional package is installed."""
    remedy = missing(package)
    if remedy is not None:
        raise SettingError(f"{for_what} needs the package {package}, which is not installed; {remedy}")
