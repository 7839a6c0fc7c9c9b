"""The backbone that modules say they are for, for a user who names none."""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from headstart.errors import SettingError
from headstart.filenames import CARD_FILE, CONFIG_FILE

if TYPE_CHECKING:
    from headstart.hub import Hub

__all__ = ["stated_backbone", "stated_by_hub", "stated_in", "stated_names"]

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def stated_backbone(names: Iterable[str], *, whose: str) -> str:
    """The one backbone among these names that can be had: a folder or file that is here, else an id of the model hub.

    An id without an owner, which is also how a card names a folder, must be in the model hub's cache. Raises
    `SettingError` if there is none, or more than one; `whose` begins the message: "the module 'paws'".
    """
    named = list(dict.fromkeys(name for name in names if name))
    here = set(filter(None, map(_here, named)))
    found = sorted(here) or [name for name in named if _is_hub_id(name)]
    if len(found) == 1:
        return found[0]
    remedy = "give the frozen model with --backbone (backbone in Python): a folder, a .gguf file or a hub id"
    if found:
        raise SettingError(f"{whose} names {len(found)} backbones: {', '.join(found[:5])}; {remedy}")
    if named:
        raise SettingError(f"{whose} says that it is for '{named[0]}', which is no folder here; {remedy}")
    raise SettingError(f"{whose} does not say which backbone it is for; {remedy}")


def stated_by_hub(hub: "Hub") -> str:
    """The one backbone that all modules of a hub state; see `stated_backbone`. No tensor is read."""
    whose = f"the hub {hub.path}" + ("" if len(hub) else ", which is empty,")
    return stated_backbone((name for ref in hub.refs() for name in stated_in(ref.path)), whose=whose)


def stated_in(folder: Path) -> list[str]:
    """What a module's folder calls its backbone: PEFT's or AdapterHub's configuration first, then the card."""
    return stated_names(_read(folder / CONFIG_FILE), _read(folder / CARD_FILE).get("base_model"))


def stated_names(config: Mapping[str, Any], base_model: object) -> list[str]:
    """What a configuration, PEFT's or AdapterHub's, and then a card call the backbone."""
    stated = (config.get("base_model_name_or_path"), config.get("model_name"), base_model)
    return [str(name) for name in stated if name]


def _here(name: str) -> str:
    """The path of what exists here and may be looked at, "" for anything else."""
    try:
        path = Path(name).expanduser()
        return str(path.resolve()) if path.exists() else ""
    except (OSError, RuntimeError, ValueError):  # no permission, a user who is not there, a name that cannot be one
        return ""


def _is_hub_id(name: str) -> bool:
    if not HUB_ID.fullmatch(name):
        return False
    with contextlib.suppress(HFValidationError):
        return "/" in name or isinstance(try_to_load_from_cache(name, "config.json"), str)
    return False


def _read(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file; nothing where there is none, because what is wrong with it is said elsewhere."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
