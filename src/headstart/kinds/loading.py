"""The one place that turns folders, models of PEFT and shapes into modules, whatever their kind."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from peft import PeftModel

from headstart.backbones import Backbone, BackboneLike, as_backbone
from headstart.backbones.stated import stated_backbone, stated_by_hub, stated_in, stated_names
from headstart.errors import ModuleError, SettingError, of_type
from headstart.formats import StoredModule, read_module
from headstart.hub import Hub, ModuleRef
from headstart.kinds.contract import Module
from headstart.kinds.from_peft import stored_from_peft
from headstart.kinds.lazy import AnyModule, LazyModule, module_of
from headstart.kinds.registry import KINDS
from headstart.kinds.settings import checked
from headstart.kinds.through_peft import PeftModule

__all__ = [
    "HoldsModule",
    "ModuleLike",
    "as_module",
    "as_modules",
    "backbone_for",
    "fresh_module",
    "load_module",
    "own_backbone",
]


@runtime_checkable
class HoldsModule(Protocol):
    """A result with a module in it, such as that of `ensemble`, `merge` or `tune`."""

    @property
    def module(self) -> Module:
        """The module."""


ModuleLike: TypeAlias = Module | LazyModule | HoldsModule | ModuleRef | StoredModule | PeftModel | str | Path
"""A module, a result that holds one, a module of a hub, a `PeftModel`, or the folder that `load_module` reads."""


def fresh_module(kind: str, backbone: Backbone, shape: Mapping[str, Any], *, name: str, seed: int) -> Module:
    """A fresh module of a kind, shaped by settings of that kind; settings left out or `None` have its defaults.

    Raises `SettingError` for an unknown kind or setting, a bad value, or a backbone that the module does not fit.
    """
    return KINDS[kind].fresh(backbone, checked(kind, shape), name=name, seed=seed)


def load_module(
    source: StoredModule | ModuleRef | PeftModel | str | Path, *, adapter: str | None = None, name: str | None = None
) -> Module:
    """The module in a folder of PEFT, AdapterHub or OpenDelta, or in a `PeftModel` in memory.

    Args:
        source: the folder, a module of a hub, or a `PeftModel`, of which a copy is taken: the module is the one that
            saving the model and loading the folder gives.
        adapter: which of several modules of a `PeftModel`; `None` is the active one.
        name: on the module's card; `None` is what the card states, else the folder's or the adapter's name.

    Raises:
        ModuleError: the folder is broken, unsafe or of an unknown variant; a `PeftModel` has no such adapter.

    Examples:
        >>> module = hs.load_module("my-hub/ada")
        >>> module
        LoraModule(ada, lora of rank 2, 448 parameters)
        >>> module.check(backbone)  # raises an error if it does not fit
    """
    if isinstance(source, PeftModel):
        stored = stored_from_peft(source, adapter or source.active_adapter)
    elif adapter is not None:
        raise ModuleError(f"{of_type('source', source)}, which holds one module; leave out adapter '{adapter}'")
    else:
        stored = _stored(source)
    family: type[Module] = PeftModule if stored.layout.through_peft else KINDS[stored.card.kind]
    module = module_of(family, stored)
    return module if name is None else replace(module, card=module.card.model_copy(update={"name": name}))


def _stored(source: object) -> StoredModule:
    if isinstance(source, StoredModule):
        return source
    if isinstance(source, ModuleRef):
        return source.read()
    if isinstance(source, str | Path):
        return read_module(Path(source).expanduser())
    raise ModuleError(f"{of_type('source', source)}; give the folder of a module, a module of a hub, or a PeftModel")


def as_module(given: ModuleLike, *, parameter: str = "module") -> AnyModule:
    """The module that a caller gave as `parameter`, read from its folder if need be.

    Raises `ModuleError` for a value of another type, and whatever `load_module` raises.
    """
    if isinstance(given, Module | LazyModule):
        return given
    if isinstance(given, StoredModule | ModuleRef | PeftModel | str | Path):
        return load_module(given)
    if isinstance(given, HoldsModule) and isinstance(given.module, Module):
        return given.module
    raise ModuleError(
        f"{of_type(parameter, given)}; give a module, the folder of one, or a result with one, such as ensemble's"
    )


def own_backbone(of: Hub | ModuleLike | Iterable[ModuleLike]) -> str:
    """Where the one backbone is that the configurations, or else the cards, of these modules say they are for.

    That is a folder or file that is here, or an id of the model hub. Raises `SettingError` if they name none, or more
    than one, and whatever `as_module` raises.
    """
    if isinstance(of, Hub):
        return stated_by_hub(of)
    if isinstance(of, Iterable) and not isinstance(of, str):
        return stated_backbone((name for module in of for name in _stated(module)), whose="the list of modules")
    whose = f"the module '{of.card.name}'" if isinstance(of, Module | LazyModule | StoredModule) else "the module"
    return stated_backbone(_stated(of), whose=whose)


def _stated(of: ModuleLike) -> list[str]:
    """What a module calls its backbone; of one on the disk, no tensor is read."""
    source = of.source if isinstance(of, LazyModule) else of
    if isinstance(source, ModuleRef):
        return stated_in(source.path)
    if isinstance(source, str | Path):
        return stated_in(Path(source).expanduser())
    module = as_module(of).load()
    return stated_names(module.config, module.card.base_model)


def backbone_for(of: Hub | ModuleLike | Iterable[ModuleLike] | None, given: BackboneLike | None) -> Backbone:
    """The backbone that a caller gave to run these modules on, or, for `None`, their own (`own_backbone`)."""
    if given is None and of is not None:
        return as_backbone(own_backbone(of))
    if given is None:
        raise SettingError("without a module, nothing says which backbone is meant; give backbone=")
    return as_backbone(given)


def as_modules(given: Iterable[ModuleLike] | ModuleLike | Hub, *, parameter: str = "modules") -> list[AnyModule]:
    """The modules that a caller gave: several, a single one, or all of a hub, which are read now.

    Raises `ModuleError` for a value of another type, and whatever `as_module` raises.
    """
    if isinstance(given, Hub):
        return [load_module(ref) for ref in given.refs()]
    if isinstance(given, Iterable) and not isinstance(given, str):
        return [as_module(module, parameter=f"a module in {parameter}") for module in given]
    return [as_module(given, parameter=parameter)]
