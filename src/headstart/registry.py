"""A registry maps the name a user types to one implementation; built-ins and plugins enter the same way."""

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from headstart.errors import SettingError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Named members of one family, in the order in which they were added.

    Args:
        family: what the members are, in the user's words ("indicator"); used in error messages.
        group: entry-point group whose members are loaded on the first look-up that needs them, so that an
            installed plugin appears beside the built-ins. `None`: no plugins.

    >>> colours = Registry("colour")
    >>> colours.add("red", 1)
    >>> colours["red"]
    1
    """

    def __init__(self, family: str, *, group: str | None = None) -> None:
        self.family = family
        self._group = group
        self._members: dict[str, T] = {}
        self._plugins_loaded = group is None

    def add(self, name: str, member: T) -> None:
        """Register `member` under `name`. Raises `SettingError` when another member has the name."""
        if name in self._members and self._members[name] is not member:
            raise SettingError(f"two members of family '{self.family}' are named '{name}'; rename one of them")
        self._members[name] = member

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that adds what it decorates under `name`."""

        def decorate(member: T) -> T:
            self.add(name, member)
            return member

        return decorate

    def __getitem__(self, name: str) -> T:
        if name not in self._members:
            self._load_plugins()
        try:
            return self._members[name]
        except KeyError:
            known = ", ".join(self)
            raise SettingError(f"unknown {self.family} '{name}'; choose one of: {known}") from None

    def __contains__(self, name: object) -> bool:
        self._load_plugins()
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(self._members)

    def __len__(self) -> int:
        self._load_plugins()
        return len(self._members)

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in entry_points(group=self._group or ""):
            self.add(point.name, point.load())
