"""From a spec to the indicator that it names."""

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from headstart.errors import SettingError, of_type
from headstart.indicators.contract import Indicator
from headstart.indicators.registry import INDICATORS
from headstart.indicators.spec import Spec

__all__ = ["make_indicator"]


def make_indicator(asked: str | Spec | Indicator) -> Indicator:
    """The indicator that a spec names.

    Raises `SettingError` for an unknown name or parameter, or a value that the parameter cannot have.

    >>> make_indicator("grand:block=3,sublayer=attention")
    Grand(stack=None, block=3, sublayer='attention')
    >>> str(make_indicator("grand:block=03").spec)
    'grand:block=3'
    """
    if isinstance(asked, Indicator):
        return asked
    if not isinstance(asked, str | Spec):
        raise SettingError(f"{of_type('an indicator', asked)}; give its name, such as 'cosine' or 'grand:block=3'")
    spec = Spec.parse(asked) if isinstance(asked, str) else asked
    family = INDICATORS[spec.name]
    types = get_type_hints(family)
    known = {field.name: types[field.name] for field in fields(family)}
    values = {}
    for name, text in spec.parameters:
        if name not in known:
            have = f"it has {', '.join(known)}" if known else f"write '{spec.name}' alone: it has none"
            raise SettingError(f"'{spec.name}' has no parameter '{name}'; {have}")
        try:
            values[name] = TypeAdapter(known[name]).validate_python(text)
        except ValidationError as error:
            raise SettingError(f"'{spec}': {name} cannot be '{text}'; {_remedy(known[name], error)}") from error
    return family(**values)


def _remedy(kind: Any, error: ValidationError) -> str:
    """The remedy for a bad value: the literal values that a parameter can have, or what pydantic found wrong."""
    members = (kind, *get_args(kind))
    literals = [value for member in members if get_origin(member) is Literal for value in get_args(member)]
    if literals:
        return f"choose one of: {', '.join(map(str, literals))}"
    said = error.errors()[0]["msg"]
    return said[:1].lower() + said[1:]
