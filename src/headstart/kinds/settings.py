"""What shapes a fresh module, by kind, and the check of such settings. No torch: recipes are checked without it."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from headstart.errors import SettingError
from headstart.kinds.registry import KINDS
from headstart.records import fault
from headstart.registry import Registry

__all__ = [
    "SETTINGS",
    "AdapterSettings",
    "BitFitSettings",
    "IA3Settings",
    "LoraSettings",
    "Names",
    "PrefixSettings",
    "PromptSettings",
    "checked",
    "kinds_with",
    "names_of",
    "refuse_truth",
    "settings_of",
]


def _names(value: object) -> object:
    """Split a text such as "query,value" into a list of names."""
    if not isinstance(value, str):
        return value
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names:
        raise ValueError("it names no layer")
    return names


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
"""Names of layers; also as one text, separated by commas."""
Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class LoraSettings:
    """Shape of a fresh LoRA module.

    `rank` r and `alpha` give the scaling α/r ([PEWE]: r 10, α 16; [TuPaTE]: r 8, α 8). `targets`: layer names as in
    PEFT's `target_modules` (a layer matches if its path is or ends with one), which may include token embeddings, or
    `None` for PEFT's default for the architecture.
    """

    rank: Count = 8
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 16.0
    targets: Names | None = None


@dataclass(frozen=True)
class IA3Settings:
    """Shape of a fresh IA3 module.

    `targets`: layer names as in PEFT's `target_modules` (a layer matches when its path is or ends with one);
    `feedforward`: those of them whose input is scaled. `None` is PEFT's default for the architecture or, if targets are
    given, those targets that PEFT's default counts as feed-forward.
    """

    targets: Names | None = None
    feedforward: Names | None = None


@dataclass(frozen=True)
class BitFitSettings:
    """Which bias terms a fresh BitFit module tunes.

    `targets`: names of layers (a layer matches when its path is or ends with one), or `None` for every bias term of
    the backbone, including those of LayerNorm, as in [TuPaTE].
    """

    targets: Names | None = None


@dataclass(frozen=True)
class PromptSettings:
    """Shape of a fresh prompt: `length` in tokens (Lester et al., 2021, §3.2, find little gain beyond 20)."""

    length: Count = 20


@dataclass(frozen=True)
class PrefixSettings:
    """Shape of a fresh prefix.

    `length` in tokens ([TuPaTE]: 20, [PEWE]: 120). `reparametrized`: tuned through a projection of width `bottleneck`
    ([PEWE]: 24). In an encoder-decoder, the decoder's self-attention has a prefix, as PEFT computes it; with `encoder`
    ([PEWE]) or `cross_attention`, so does the encoder's self-attention or the cross-attention, which PEFT lacks.
    """

    length: Count = 20
    reparametrized: bool = False
    bottleneck: Count = 24
    encoder: bool = False
    cross_attention: bool = False


@dataclass(frozen=True)
class AdapterSettings:
    """Shape of a fresh adapter: `bottleneck` m in units ([PEWE]: 12) and the name of a `placement`.

    `activation` (one of AdapterHub's names) and `biases` are the placement's own if they are `None`.
    """

    bottleneck: Count = 12
    placement: str = "pewe"
    activation: str | None = None
    biases: bool | None = None


SETTINGS: Registry[type] = Registry(
    "kind",
    members={
        "lora": f"{__name__}:LoraSettings",
        "prefix": f"{__name__}:PrefixSettings",
        "prompt": f"{__name__}:PromptSettings",
        "ia3": f"{__name__}:IA3Settings",
        "bitfit": f"{__name__}:BitFitSettings",
        "adapter": f"{__name__}:AdapterSettings",
    },
)
"""The settings of Headstart's own kinds; those of a plug-in's kind are `Module.settings` of its class."""


def settings_of(kind: str) -> type:
    """The dataclass of a kind's settings. Raises `SettingError` for an unknown kind or a plug-in that is broken."""
    return SETTINGS[kind] if kind in SETTINGS else KINDS[kind].settings


def names_of(kind: str) -> list[str]:
    """The names of a kind's settings."""
    return [field.name for field in fields(settings_of(kind))]


def kinds_with(name: str, kind: str) -> list[str]:
    """Those of `kind` and Headstart's own kinds that have a setting of this name."""
    return [other for other in dict.fromkeys((kind, *SETTINGS)) if name in names_of(other)]


def checked(kind: str, shape: Mapping[str, Any]) -> Any:
    """The kind's settings with the values of `shape`; `None` is the kind's own default.

    Types and ranges are those of the settings' annotations, as pydantic reads them. Raises `SettingError`, which names
    the setting, if the kind has none of that name or the value is not allowed.
    """
    family, own = settings_of(kind), names_of(kind)
    for name in shape:
        if name not in own:
            raise SettingError(_unknown(kind, name, own))
    given = {name: value for name, value in shape.items() if value is not None}
    refuse_truth(family, given)
    try:
        return TypeAdapter(family).validate_python(given)
    except ValidationError as error:
        raise SettingError(f"setting of kind '{kind}': {fault(error)}; correct it") from error


def refuse_truth(family: type, given: Mapping[str, Any]) -> None:
    """Raise `SettingError` for true or false where a number is asked for: it would count as 1 or 0."""
    hints = get_type_hints(family)
    for name, value in given.items():
        if isinstance(value, bool) and name in hints and bool not in (hints[name], *get_args(hints[name])):
            raise SettingError(f"setting {name}={str(value).lower()} is not a number or a text; correct it")


def _unknown(kind: str, name: str, own: list[str]) -> str:
    reads = f"which reads: {', '.join(own) or 'none'}"
    others = kinds_with(name, kind)
    if others:
        return (
            f"setting {name} is not for kind '{kind}', {reads}; leave it out, or name a kind that has it "
            f"(kind={', kind='.join(others)})"
        )
    near = difflib.get_close_matches(name, own, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "leave it out"
    return f"kind '{kind}' has no setting '{name}', {reads}; {hint}"
