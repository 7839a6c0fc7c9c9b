"""A unit of work: typed inputs, a key that hashes their contents, and a computation that returns a result."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from headstart.events import Listener
from headstart.units.canonical import Content, canonical_fields, digest_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["Context", "Found", "Result", "Unit", "alone"]


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """The result of a unit.

    Args:
        facts: single values by name: JSON values, where numbers need not be finite.
        rows: a table, one mapping per row, with values as in `facts`.
        tensors: NumPy arrays by name.
        module: folder of a saved module. A computation writes it inside its working folder, and the store takes it
            from there.
        device: where it was computed, for people.
        seconds: how long it took; `None`: the engine measures it.
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
    """What a computation may use besides its inputs."""

    @property
    def listener(self) -> Listener | None:
        """Takes the events of the work, such as `Progress`; `None`: nobody listens."""
        ...

    def result(self, unit: "Unit") -> Result:
        """The result of one of the units in `needs()`."""
        ...

    def resource(self, name: str) -> Any:
        """A resource that is loaded once for many units, such as the frozen backbone."""
        ...

    def work(self, unit: "Unit") -> Path:
        """A folder for checkpoints that outlives a killed run and is removed once the result is stored."""
        ...


@dataclasses.dataclass(frozen=True)
class Load:
    """About what computing a unit takes: tokens that a model reads, floating point operations, and on which device.

    `shared`: equal for units that share one pass, whose tokens count once; `None`: a pass of its own. `backward`: those
    of the tokens that gradients go back through. `speed`: measures, in a second or so, how many of these operations the
    device does in one; it is called only where no earlier result tells.
    """

    tokens: int = 0
    operations: float = 0.0
    device: str = "cpu"
    shared: Hashable = None
    backward: int = 0
    speed: Callable[[], float] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Unit(ABC):
    """One piece of work. Subclasses are dataclasses with `frozen=True, eq=False` whose fields are the inputs.

    The key is a hash of `type`, `version` and the contents of the inputs (see `canonical`). An input that is a unit
    counts with its key, so that all keys of a graph are known before anything runs.

    Class attributes:
        type: the type of work, as people read it: "tune", "score", "evaluate", "merge", "embed".
        version: raised by hand whenever the computation gives other results than before.
        uncounted: fields that do not enter the key: labels, names, and objects that another field identifies.
        together: how many units with the same `batch_key` a worker takes at most.
    """

    type: ClassVar[str]
    version: ClassVar[int] = 1
    uncounted: ClassVar[frozenset[str]] = frozenset()
    together: ClassVar[int] = 1

    @property
    def versions(self) -> Mapping[str, int]:
        """The versions of the members of families, such as an indicator, that the computation uses, by name."""
        return {}

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The inputs that count, in canonical form; `versions` count once they are raised, so that older keys stay."""
        raised = {name: version for name, version in self.versions.items() if version != 1}
        return canonical_fields(self) | ({"versions": raised} if raised else {})

    @cached_property
    def key(self) -> str:
        """SHA-256 of type, version and inputs, in hexadecimal."""
        return digest_of([self.type, self.version, self.inputs])

    def digest(self) -> str:
        """The key, which stands for the unit among the inputs of others."""
        return self.key

    @property
    def label(self) -> str:
        """What it is, in a few words for people; not part of the key."""
        return f"{self.type} {self.key[:8]}"

    def needs(self) -> "tuple[Unit, ...]":
        """The units whose results this one reads: those among its inputs, including inside tuples and records."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return tuple({unit.key: unit for value in values for unit in _units_in(value)}.values())

    def batch_key(self) -> Hashable:
        """Units of one type with the same batch key may be computed together; `None`: this unit alone."""
        return None

    @property
    def most_together(self) -> int:
        """How many units with its batch key a worker takes at most; `together`, unless it depends on the inputs."""
        return self.together

    def load(self, context: Context) -> "Load":
        """What computing it takes, for an estimate made before."""
        del context
        return Load()

    @classmethod
    def size_of(cls, inputs: Mapping[str, Any]) -> float:
        """How much work a unit of this type with these canonical inputs is, in proportion to others; above 0."""
        del inputs
        return 1.0

    @classmethod
    def pace_of(cls, inputs: Mapping[str, Any]) -> Hashable:
        """What units of this type have in common whose seconds tell something about each other."""
        del inputs
        return None

    @abstractmethod
    def compute(self, context: Context) -> Result:
        """Do the work. Raise `HeadstartError` for what a user can fix; after other errors, the unit is tried again."""

    @classmethod
    def compute_many(cls, units: Sequence[Self], context: Context) -> "Iterator[Found]":
        """Do the work of many units, by default one by one; yields each as soon as it is finished, so that it is kept.

        The error of a unit may be yielded in place of its result; then the others continue.
        """
        for unit in units:
            yield unit, unit.compute(context)


Found = tuple[Unit, Result | Exception]
"""A unit with its result, or with the error that it failed with."""


def alone(unit: Unit, context: Context) -> Result:
    """What `compute_many` yields for one unit: the `compute` of units that are made to be computed together."""
    ((_, found),) = type(unit).compute_many([unit], context)
    if isinstance(found, Exception):
        raise found
    return found


def _units_in(value: Any) -> Iterator[Unit]:
    match value:
        case Unit():
            yield value
        case Content():  # data, which may be long
            return
        case tuple() | list():
            for item in value:
                yield from _units_in(item)
        case Mapping():
            for item in value.values():
                yield from _units_in(item)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                yield from _units_in(getattr(value, field.name))
