"""A registry maps the name that a user types to one implementation; built-ins and plug-ins enter the same way.

Names are known before anything is imported: built-ins are declared as references, plug-ins as entry points.
"""

import difflib
import warnings
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar, cast, overload

from headstart.errors import PluginWarning, SettingError
from headstart.records import Refused
from headstart.showing import line, plural

__all__ = ["Declared", "Registry"]

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True)
class Declared:
    """What is known about a member before it is loaded.

    `source`: "headstart", or the name and version of the plug-in's distribution. `reference`: "module:object", empty
    for a member that was added as an object. `problem`: why it cannot be used, `None` if no problem is known.
    """

    name: str
    source: str
    reference: str
    problem: str | None = None


class Registry(Mapping[str, T], Generic[T]):
    """Named members of one family: built-ins in the order of their declaration, then plug-ins.

    Listing names imports nothing. A member is imported when it is first looked up. A plug-in that cannot be imported
    leaves the others as they are: looking it up raises `SettingError`, which names it; `values` and `items` leave it
    out with a `PluginWarning`.

    Args:
        family: what the members are, in the user's words ("indicator"); used in error messages.
        members: built-ins as name → "module:object".
        group: entry-point group of the plug-ins. `None`: no plug-ins.
        instances: members are instances; where a reference or an entry point leads to a class, it is called without
            arguments. Otherwise they are classes.
        contract: "module:class" of what every member is, an instance of it or a class derived from it; a plug-in is
            checked when it is loaded. `None`: anything.

    >>> encodings = Registry("encoding", members={"json": "json:dumps"})
    >>> list(encodings)
    ['json']
    >>> encodings["json"]([1])
    '[1]'
    """

    def __init__(
        self,
        family: str,
        *,
        members: Mapping[str, str] | None = None,
        group: str | None = None,
        instances: bool = False,
        contract: str | None = None,
    ) -> None:
        self.family = family
        self.group = group
        self._references = dict(members or {})
        self._instances = instances
        self._contract = contract
        self._added: list[str] = []
        self._loaded: dict[str, T] = {}
        self._broken: dict[str, str] = {}

    def add(self, name: str, member: T) -> None:
        """Register `member` under `name`. Raises `SettingError` if another member has that name."""
        taken = name in self._references or (name in self._loaded and self._loaded[name] is not member)
        if taken:
            raise SettingError(f"two members of family '{self.family}' are named '{name}'; rename one of them")
        self._added.append(name)
        self._loaded[name] = member

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that adds what it decorates under `name`."""

        def decorate(member: T) -> T:
            self.add(name, member)
            return member

        return decorate

    def declared(self) -> list[Declared]:
        """Every member, without importing any; a plug-in that failed to load in this process is named as broken."""
        found = [Declared(name, "headstart", self._references.get(name, "")) for name in self._own()]
        for name, points in self._plugins.items():
            found += [Declared(name, _source(p), p.value, self._clash(name) or self._broken.get(name)) for p in points]
        return found

    def problems(self) -> list[Refused]:
        """Load every member; returns those that cannot be used, and why."""
        for name in self:
            self._try(name)
        clashes = {name: clash for name in self._plugins if (clash := self._clash(name))}
        return [Refused(name, reason) for name, reason in {**clashes, **self._broken}.items()]

    @overload
    def get(self, key: str, /) -> T | None: ...
    @overload
    def get(self, key: str, /, default: D) -> T | D: ...
    def get(self, key: str, /, default: Any = None) -> Any:
        """The member, or `default` for a name that is not declared."""
        return self[key] if key in self else default  # noqa: SIM401 - it is `get`

    def values(self) -> ValuesView[T]:
        """The members that can be used."""
        return self._usable().values()

    def items(self) -> ItemsView[str, T]:
        """The members that can be used, with their names."""
        return self._usable().items()

    def __getitem__(self, name: str) -> T:
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def require(self, name: str) -> None:
        """Raise `SettingError` for a name that is not declared, without importing what it names."""
        if name not in self and name not in self._loaded:
            raise SettingError(self._unknown(name))

    def __contains__(self, name: object) -> bool:
        return name in self._references or name in self._added or name in self._plugins

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._own(), *self._plugins)))

    def __repr__(self) -> str:
        return line(type(self).__name__, f"{plural(len(self), self.family)}: {', '.join(self)}")

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @cached_property
    def _plugins(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name; more than one if several distributions declare the same name."""
        found: dict[str, list[EntryPoint]] = {}
        for point in points_of(self.group) if self.group else ():
            found.setdefault(point.name, []).append(point)
        return found

    def _own(self) -> list[str]:
        """The names of built-in and added members, in order."""
        return list(dict.fromkeys((*self._references, *self._added)))

    def _load(self, name: str) -> T:
        if name in self._references:
            return self._made(resolve_name(self._references[name]))
        points = self._plugins.get(name)
        if points is None:
            raise SettingError(self._unknown(name))
        clash = self._clash(name)
        if clash is not None:
            raise SettingError(clash)
        point = points[0]
        try:
            found = self._made(point.load())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plug-in that ends the program, too, is only one plug-in that is broken
            self._broken[name] = (
                f"{self.family} '{name}' of the plug-in {_source(point)} cannot be loaded from {point.value} "
                f"({type(error).__name__}: {error}); repair, upgrade or uninstall that package"
            )
            raise SettingError(self._broken[name]) from error
        expected = self._mismatch(found)
        if expected is not None:
            self._broken[name] = (
                f"{self.family} '{name}' of the plug-in {_source(point)} cannot be used: its entry point "
                f"{name} = {point.value} must lead to {expected}, and leads to {_kind_of(found)}; "
                "correct the entry point, or uninstall that package"
            )
            raise SettingError(self._broken[name])
        return found

    def _made(self, found: Any) -> T:
        return cast("T", found() if self._instances and isinstance(found, type) else found)

    def _mismatch(self, found: object) -> str | None:
        """What a member should be, where `found` is not that."""
        if self._contract is None:
            return None
        wanted, name = resolve_name(self._contract), self._contract.replace(":", ".")
        if self._instances:
            return None if isinstance(found, wanted) else f"an instance of {name}"
        fits = isinstance(found, type) and issubclass(found, wanted)
        return None if fits else f"a class derived from {name}"

    def _clash(self, name: str) -> str | None:
        """The message for a plug-in's name that is already taken."""
        points = self._plugins.get(name, [])
        own = ["headstart"] if name in self._own() else []
        sources = [*own, *(_source(point) for point in points)]
        if len(sources) < 2:
            return None
        kept = "; Headstart's own is used" if own else ""
        return (
            f"{self.family} '{name}' is declared by {' and by '.join(sources)}{kept}; "
            "uninstall one of the packages, or rename its entry point"
        )

    def _try(self, name: str) -> T | None:
        try:
            return self[name]
        except SettingError:
            return None

    def _usable(self) -> dict[str, T]:
        for problem in self.problems():
            warnings.warn(problem.reason, PluginWarning, stacklevel=3)
        return {name: self._loaded[name] for name in self if name in self._loaded}

    def _unknown(self, name: str) -> str:
        known = list(self)
        parts = [part.strip() for part in str(name).split(",")]
        said = f"unknown {self.family} '{name}'; choose one of: {', '.join(known)}"
        if len(parts) > 1 and all(part in known for part in parts):
            return f"{said}; give several one by one (on the command line, repeat the option)"
        lower = {each.lower(): each for each in reversed(known)}
        near = difflib.get_close_matches(str(name).lower(), lower, n=1)
        return f"{said}; did you mean '{lower[near[0]]}'?" if near else said


def points_of(group: str) -> list[EntryPoint]:
    """The entry points of a group, from all installed packages."""
    return list(_installed().select(group=group))


@cache
def _installed() -> EntryPoints:
    """All entry points, read only once, because that opens a file of every installed distribution."""
    return cast("EntryPoints", entry_points())  # mypy still reads it as what it was before Python 3.12


def _source(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value.partition(":")[0]


def _kind_of(found: object) -> str:
    """What was found in place of a member, in words."""
    return f"the class {found.__name__}" if isinstance(found, type) else f"a value of type {type(found).__name__}"
