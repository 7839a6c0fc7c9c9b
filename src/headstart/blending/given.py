"""From what a caller gives as a blend to the blend itself: a text, or a file of modules and weights."""

import difflib
import math
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from headstart.blending.blend import Blend
from headstart.errors import SettingError, about, of_type

__all__ = ["BlendLike", "as_blend", "read_recipe_file"]

KEYS = ("modules", "space", "rank", "density")
"""What a recipe file may state."""

LARGEST_FILE = 1 << 20
"""The most bytes of a recipe file."""

TOLERANCE = 1e-6
"""How far the sum of weights may be from 1."""

BlendLike = Blend | str | Path | None
"""A blend, its text, or a recipe file (see `read_recipe_file`); `None` is the default one."""


def read_recipe_file(path: Path) -> Blend:
    """The blend that a YAML file states: `modules`, each with its weight, and perhaps `space`, `rank` and `density`.

    The weights are above 0 and sum to 1. Raises `SettingError` for anything else, an unknown key among it.
    """
    stated = _parsed(path)
    with about(path):
        unknown = next((key for key in stated if key not in KEYS), None)
        if unknown is not None:
            near = difflib.get_close_matches(str(unknown), KEYS, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"it may have: {', '.join(KEYS)}"
            raise SettingError(f"unknown key '{unknown}'; {hint}")
        modules = stated.pop("modules", None)
        if not isinstance(modules, dict) or not modules:
            raise SettingError("it names no modules; write modules: {paws: 0.7, qqp: 0.3}")
        for name, weight in modules.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= 1:
                raise SettingError(f"the weight of '{name}' is {weight!r}; give a number above 0 and at most 1")
        whole = math.fsum(modules.values())
        if abs(whole - 1) > TOLERANCE:
            raise SettingError(f"the weights sum to {whole:.6g}; make them sum to 1")
        members, weights = (tuple(map(str, modules)), tuple(weight / whole for weight in modules.values()))
        return Blend(rule="manual").change(members=members, weights=weights, **stated)


def _parsed(path: Path) -> dict[Any, Any]:
    remedy = "write modules: {paws: 0.7, qqp: 0.3}"
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise SettingError(f"{path} is larger than {LARGEST_FILE:,} bytes; {remedy}")
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise SettingError(f"cannot read the recipe file {path}: {error.strerror}; check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise SettingError(f"{path} is not a YAML file ({said}); {remedy}") from error
    if not isinstance(found, dict):
        raise SettingError(f"{path} holds no keys; {remedy}")
    return found


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]
    """A safe loader that refuses a key that stands twice in one mapping, where YAML's own takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for key, count in Counter(map(str, keys)).items() if count > 1), None)
        if twice is not None:
            raise yaml.YAMLError(f"'{twice}' stands there twice")
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def as_blend(given: BlendLike) -> Blend:
    """The blend that a caller gave, or the one that a text or a recipe file describes; `None` is the default one.

    Raises `SettingError` for a value of another type, or a text or file that describes no blend.
    """
    if given is None or isinstance(given, Blend):
        return given or Blend()
    if isinstance(given, Path) or (isinstance(given, str) and given.endswith((".yaml", ".yml"))):
        return read_recipe_file(Path(given).expanduser())
    if isinstance(given, str):
        return Blend.parse(given)
    raise SettingError(
        f"{of_type('blend', given)}; give a Blend, or its text, such as 'softmax:indicator=loss,temperature=0.1'"
    )
