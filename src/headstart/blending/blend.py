"""How a start is blended, as one frozen record that goes from the command line to the merge. It holds no tensors."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from pydantic import ValidationError, field_validator, model_validator

from headstart.errors import SettingError
from headstart.records import Record
from headstart.showing import line

__all__ = ["SCALES", "Blend", "fields_of"]

SCALES = (1.0, 0.5, 0.75, 1.5, 2.0, 3.0)
"""The scales among which held-out loss chooses; of equal losses, the first counts."""


class Blend(Record):
    """How scores become weights, and weights become a module. A field that is `None` or empty has the default below.

    `rule`: a name in `RULES`. `indicator`: the spec of the indicator whose scores are the S_i ("cosine",
    "grand:block=3"). `reduction`: "mean" or "sum" over target tokens. `members`: names of modules, for rule "manual";
    default: all modules of the task's family; `weights`: one for each of them, default: equal ones. `top_k`: blend only
    the k best ("softmax", "top_k").

    Two fields say how concentrated the weights of "softmax" are: `temperature` is τ itself; or τ is chosen such that
    the effective number of modules 1/Σw² is `effective`. Default: √n of n modules, at most 4 (see `usual_effective`).

    `scale` multiplies the blend: a number above 0, or "held_out" for the one of `SCALES` with the lowest held-out loss;
    default: 1. `split`: where held-out rows come from, "train" or "dev"; default: "train", on which no score is read.

    Three fields are about learned weights: `signed` lets those of "gradient" have any sign and sum; `l1` is the weight
    of their L1 norm in the loss of "gradient" and "nevergrad", default: 0.05; `groups`: into how many groups of
    neighbouring layers, each with weights of its own, "gradient" divides the backbone.

    `space`: a name in `SPACES`; "auto" is "parameters" where shapes are equal, else "svd". `rank`: the rank that "svd"
    and the "core" spaces cut to; default: the largest among the modules. `density`: the share of each module's numbers
    that "ties", "core_ties" and "dare" keep; default: a half.

    >>> Blend.parse("softmax:indicator=loss,temperature=0.1").temperature
    0.1
    """

    rule: str = "softmax"
    indicator: str = "cosine"
    temperature: float | None = None
    effective: float | None = None
    top_k: int | None = None
    members: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    scale: float | Literal["held_out"] | None = None
    split: str | None = None
    signed: bool | None = None
    l1: float | None = None
    groups: int | None = None
    space: str = "auto"
    rank: int | None = None
    density: float | None = None
    reduction: str = "mean"

    def __repr__(self) -> str:
        stated = self.model_dump(exclude_defaults=True, exclude={"rule"})
        words = (
            f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
            for name, value in stated.items()
        )
        return line(type(self).__name__, f"'{self.rule}{':' * bool(stated)}{','.join(words)}'")

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, data: Any, make: Callable[[Any], Self]) -> Self:
        try:
            return make(data)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "the value"
            if first["type"] == "extra_forbidden":
                known = ", ".join(cls.model_fields)
                raise SettingError(f"a blend has no field '{name}'; choose one of: {known}") from None
            raise SettingError(f"{name}={first['input']!r} of a blend: {first['msg']}; correct it") from None

    @field_validator("scale")
    @classmethod
    def _above_0(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, float) and not 0 < value < math.inf:
            raise ValueError("a scale is a number above 0, or held_out")
        return value

    @field_validator("weights", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        """Split a text "0.7,0.3" into numbers."""
        return tuple(value.split(",")) if isinstance(value, str) else value

    @field_validator("members", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        """Split a text "ada,bob" into names; a name that occurs twice counts once."""
        names = value.split(",") if isinstance(value, str) else value
        if isinstance(names, list | tuple):
            return tuple(dict.fromkeys(name.strip() if isinstance(name, str) else name for name in names))
        return names

    @classmethod
    def parse(cls, text: str) -> Self:
        """The blend that a text describes: "RULE" or "RULE:field=value,field=value".

        Raises `SettingError` for an unknown field or a bad value.
        """
        rule, _, rest = text.partition(":")
        return cls(rule=rule.strip()).change(**fields_of(rest, source=text))

    def change(self, **fields: Any) -> Self:
        """The same blend with some fields changed. Raises `SettingError` for an unknown field or a bad value."""
        return type(self).model_validate(self.model_dump() | fields)


def fields_of(text: str, *, source: str) -> Mapping[str, str]:
    """The fields in "field=value,field=value"; `source` is the whole text, for the error.

    A part that does not begin with a field's name belongs to the value before it if that value is an indicator with
    parameters ("indicator=grand:block=3,sublayer=attention"), the members ("members=ada,bob") or their weights.
    """
    found: dict[str, str] = {}
    last = ""
    for part in filter(None, text.split(",")):
        name, separator, value = (piece.strip() for piece in part.partition("="))
        if separator and name in Blend.model_fields:
            if name in found:
                raise SettingError(f"'{source}' gives {name} twice; keep one of them")
            if name == "members" and not value:
                raise SettingError(f"'{source}' has members without names; write members=NAME,NAME or leave it out")
            found[name], last = value, name
        elif (last in ("members", "weights") and not separator) or (last == "indicator" and ":" in found[last]):
            found[last] += f",{part.strip()}"
        elif separator:
            raise SettingError(
                f"'{source}' has the unknown field '{name}'; choose one of: {', '.join(Blend.model_fields)}"
            )
        else:
            raise SettingError(f"'{source}' has '{name}' without a value; write field=value")
    return found
