"""A unit of work: typed inputs, a key that hashes their contents, and a computation that gives a result."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from headstart.events import Listener
from headstart.units.canonical import canonical_fields, digest_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["Context", "Found", "Result", "Unit", "alone"]


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a unit found.

    Args:
        facts: single values by name; JSON values, and numbers that are not finite.
        rows: a table, one mapping a row, with values as in `facts`.
        tensors: NumPy arrays by name.
        module: folder of a saved module. A computation writes it inside its working folder, and the store takes it
            from there.
        device: where it was computed, for people.
        seconds: what it cost; `None`: the engine measures it.
    """

    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    tensors: "Mapping[str, NDArray[Any]]" = dataclasses.field(default_factory=dict)
    module: Path | None = None
    device: str = ""
    seconds: float | None = None

    def frame(self) -> "pd.DataFrame":
        """The rows as a table."""
        import pandas as pd

        return pd.DataFrame([dict(row) for row in self.rows])


class Context(Protocol):
    """What a computation may use beside its inputs."""

    @property
    def listener(self) -> Listener | None:
        """Takes the events of the work, such as `Progress`; `None`: nobody listens."""
        ...

    def result(self, unit: "Unit") -> Result:
        """The result of a unit that is among `needs()`."""
        ...

    def resource(self, name: str) -> Any:
        """What is loaded once for many units, such as the frozen backbone."""
        ...

    def work(self, unit: "Unit") -> Path:
        """A folder for checkpoints that outlives a killed run and is removed once the result is stored."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Unit(ABC):
    """One piece of work. Subclasses are dataclasses with `frozen=True, eq=False` whose fields are the inputs.

    The key is a hash over `type`, `version` and the contents of the inputs (see `canonical`); an input that is a unit
    counts with its key, so that the keys of a whole graph are known before anything runs.

    Class attributes:
        type: of the work, as people read it: "tune", "score", "evaluate", "merge", "embed".
        version: raised by hand whenever the computation gives other results than before.
        uncounted: fields that are no part of the key: labels, names, and objects that another field identifies.
        together: how many units with one `batch_key` a worker is handed at most.
    """

    type: ClassVar[str]
    version: ClassVar[int] = 1
    uncounted: ClassVar[frozenset[str]] = frozenset()
    together: ClassVar[int] = 1

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The inputs that count, in canonical form."""
        return canonical_fields(self)

    @cached_property
    def key(self) -> str:
        """SHA-256 over type, version and inputs, in hexadecimal."""
        return digest_of([self.type, self.version, self.inputs])

    def digest(self) -> str:
        """The key, which stands for the unit among the inputs of others."""
        return self.key

    @property
    def label(self) -> str:
        """What it is, in a few words for people; no part of the key."""
        return f"{self.type} {self.key[:8]}"

    def needs(self) -> "tuple[Unit, ...]":
        """The units whose results this one reads: those among its inputs, also inside of tuples and records."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return tuple({unit.key: unit for value in values for unit in _units_in(value)}.values())

    def batch_key(self) -> Hashable:
        """Units of one type and batch key may be computed together; `None`: this one alone."""
        return None

    @abstractmethod
    def compute(self, context: Context) -> Result:
        """Do the work. Raises `HeadstartError` for what a user can mend; other errors are tried again."""

    @classmethod
    def compute_many(cls, units: Sequence[Self], context: Context) -> "Iterator[Found]":
        """Do the work of many, by default one by one; yields each as soon as it is finished, so that it is kept.

        An error of one unit may be yielded in place of its result, and the others go on.
        """
        for unit in units:
            yield unit, unit.compute(context)


Found = tuple[Unit, Result | Exception]
"""A unit with its result, or with the error that it ended in."""


def alone(unit: Unit, context: Context) -> Result:
    """What `compute_many` finds for one unit: the `compute` of those that are made to be computed together."""
    ((_, found),) = type(unit).compute_many([unit], context)
    if isinstance(found, Exception):
        raise found
    return found


def _units_in(value: Any) -> Iterator[Unit]:
    match value:
        case Unit():
            yield value
        case tuple() | list():
            for item in value:
                yield from _units_in(item)
        case Mapping():
            for item in value.values():
                yield from _units_in(item)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                yield from _units_in(getattr(value, field.name))
