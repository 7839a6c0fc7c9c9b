"""The one place that turns folders and shapes into modules, whatever their kind."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from headstart.backbones import Backbone
from headstart.errors import ModuleError, of_type
from headstart.formats import StoredModule, read_module
from headstart.hub import Hub, ModuleRef
from headstart.kinds.contract import Module
from headstart.kinds.lazy import AnyModule, LazyModule, module_of
from headstart.kinds.registry import KINDS
from headstart.kinds.settings import checked
from headstart.kinds.through_peft import PeftModule

__all__ = ["HoldsModule", "ModuleLike", "as_module", "as_modules", "fresh_module", "load_module"]


@runtime_checkable
class HoldsModule(Protocol):
    """A result with a module in it, such as that of `ensemble`, `merge` or `tune`."""

    @property
    def module(self) -> Module:
        """The module."""


ModuleLike = Module | LazyModule | HoldsModule | ModuleRef | StoredModule | str | Path
"""A module, a result that holds one, a module of a hub, or the folder that `load_module` reads."""


def fresh_module(kind: str, backbone: Backbone, shape: Mapping[str, Any], *, name: str, seed: int) -> Module:
    """A fresh module of a kind, shaped by settings of that kind; settings left out or `None` have its defaults.

    Raises `SettingError` for an unknown kind or setting, a bad value, or a backbone that the module does not fit.
    """
    return KINDS[kind].fresh(backbone, checked(kind, shape), name=name, seed=seed)


def load_module(source: StoredModule | ModuleRef | str | Path) -> Module:
    """The module in a folder of PEFT, AdapterHub or OpenDelta.

    Raises `ModuleError` if the folder is broken, unsafe or of an unknown variant.
    """
    stored = _stored(source)
    family: type[Module] = PeftModule if stored.layout.through_peft else KINDS[stored.card.kind]
    return module_of(family, stored)


def _stored(source: object) -> StoredModule:
    if isinstance(source, StoredModule):
        return source
    if isinstance(source, ModuleRef):
        return source.read()
    if isinstance(source, str | Path):
        return read_module(Path(source).expanduser())
    raise ModuleError(f"{of_type('source', source)}; give the folder of a module, or a module of a hub")


def as_module(given: ModuleLike, *, parameter: str = "module") -> AnyModule:
    """The module that a caller gave as `parameter`, read from its folder if need be.

    Raises `ModuleError` for a value of another type, and whatever `load_module` raises.
    """
    if isinstance(given, Module | LazyModule):
        return given
    if isinstance(given, StoredModule | ModuleRef | str | Path):
        return load_module(given)
    if isinstance(given, HoldsModule) and isinstance(given.module, Module):
        return given.module
    raise ModuleError(
        f"{of_type(parameter, given)}; give a module, the folder of one, or a result with one, such as ensemble's"
    )


def as_modules(given: Iterable[ModuleLike] | ModuleLike | Hub, *, parameter: str = "modules") -> list[AnyModule]:
    """The modules that a caller gave: several, a single one, or all of a hub, which are read now.

    Raises `ModuleError` for a value of another type, and whatever `as_module` raises.
    """
    if isinstance(given, Hub):
        return [load_module(ref) for ref in given.refs()]
    if isinstance(given, Iterable) and not isinstance(given, str):
        return [as_module(module, parameter=f"a module in {parameter}") for module in given]
    return [as_module(given, parameter=parameter)]
