"""The canonical form of a unit's inputs: everything that counts for its key, as plain JSON values."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Set
from numbers import Integral, Real
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

__all__ = ["Content", "Digested", "canonical", "digest_of"]

T_co = TypeVar("T_co", covariant=True)

EXACT = 2**53
"""Up to this size, a float with a whole value equals exactly one integer."""


@runtime_checkable
class Digested(Protocol):
    """An object that knows the hash of its own contents, such as a module: the hash stands for the object."""

    def digest(self) -> str:
        """A hash of the contents: equal contents have equal digests."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Content(Generic[T_co]):
    """A large input that many units share, such as the rows of a split: its digest is computed once.

    `value` is what the computation reads; `stated` is its digest.
    """

    value: T_co = dataclasses.field(repr=False)
    stated: str

    @classmethod
    def of(cls, value: T_co) -> "Content[T_co]":  # type: ignore[misc]
        """`value` with the digest of its canonical form."""
        return cls(value, digest_of(canonical(value)))

    def digest(self) -> str:
        """The digest that stands for the value."""
        return self.stated


def canonical(value: Any) -> Any:
    """`value` as JSON values, equal for equal contents.

    In records (dataclasses and pydantic models), a field counts only if it differs from its default and is not named
    in the class attribute `uncounted`; so a new field with a default changes no key. A whole number is the same as an
    integer and as a float, a list is the same as a tuple, and the order of mappings and sets does not count.

    Raises:
        TypeError: a value has no canonical form, such as an open file, a path or a function.
    """
    match value:
        case None | bool() | str():
            return value
        case Integral():
            return int(value)
        case Real():
            return _number(float(value))
        case bytes():
            return {"bytes": hashlib.sha256(value).hexdigest()}
        case list() | tuple():
            return [canonical(item) for item in value]
        case Set():
            return {"set": sorted((canonical(item) for item in value), key=_text)}
        case Mapping():
            return {"map": {_name(key): canonical(item) for key, item in value.items()}}
        case Digested():
            return {"digest": value.digest()}
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return {"record": type(value).__name__, "fields": canonical_fields(value)}
    raise TypeError(f"a {type(value).__name__} cannot be an input of a unit; give its contents or its digest")


def canonical_fields(record: Any) -> dict[str, Any]:
    """The fields of a dataclass or pydantic model that count, in canonical form."""
    uncounted: frozenset[str] = getattr(type(record), "uncounted", frozenset())
    found = {}
    for name, default in _defaults(record):
        if name in uncounted:
            continue
        value = canonical(getattr(record, name))
        if default is dataclasses.MISSING or value != canonical(default):
            found[name] = value
    return found


def digest_of(form: Any) -> str:
    """SHA-256 of a canonical form, in hexadecimal."""
    return hashlib.sha256(_text(form).encode()).hexdigest()


def _defaults(record: Any) -> Iterator[tuple[str, Any]]:
    """Every field with its default, or `MISSING` if it has none."""
    if isinstance(record, BaseModel):
        for name, info in type(record).model_fields.items():
            yield name, dataclasses.MISSING if info.is_required() else info.get_default(call_default_factory=True)
        return
    for field in dataclasses.fields(record):
        if field.default_factory is not dataclasses.MISSING:
            yield field.name, field.default_factory()
        else:
            yield field.name, field.default


def _number(value: float) -> Any:
    if math.isfinite(value):
        return int(value) if value.is_integer() and abs(value) <= EXACT else value
    return {"float": repr(value)}


def _name(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"the key {key!r} of a mapping in a unit's inputs must be a string")
    return key


def _text(form: Any) -> str:
    return json.dumps(form, sort_keys=True, separators=(",", ":"), allow_nan=False)
