"""From what a caller gives as a blend to the blend itself: a text, or a file of modules and weights."""

import difflib
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from headstart.blending.blend import Blend
from headstart.errors import SettingError, about, of_type
from headstart.showing import cut

__all__ = ["BlendLike", "as_blend", "read_recipe_file"]

KEYS = ("modules", "space", "rank", "density")
"""What a recipe file may state."""

LARGEST_FILE = 1 << 20
"""The most bytes of a recipe file."""

LONGEST_VALUE = 1_000
"""The most characters of a name or a number in it; Python converts no number of many thousand digits."""

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
                raise SettingError(
                    f"the weight of '{name}' is {cut(repr(weight))}; give a number above 0 and at most 1"
                )
        whole = math.fsum(modules.values())
        if abs(whole - 1) > TOLERANCE:
            raise SettingError(f"the weights sum to {whole:.6g}; make them sum to 1")
        members, weights = (tuple(modules), tuple(weight / whole for weight in modules.values()))
        return Blend(rule="manual").change(members=members, weights=weights, **stated)


def _parsed(path: Path) -> dict[Any, Any]:
    remedy = "write modules: {paws: 0.7, qqp: 0.3}"
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise SettingError(f"{path} is larger than {LARGEST_FILE:,} bytes; {remedy}")
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise SettingError(f"cannot read the recipe file {path}: {error.strerror}; check the path") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # A value that is not of its tag, as 2020-99-99 is no date, raises whatever its conversion does.
        said = " ".join(str(error).split())
        raise SettingError(f"{path} is not a YAML file ({said}); {remedy}") from error
    if not isinstance(found, dict):
        raise SettingError(f"{path} holds no keys; {remedy}")
    return found


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]
    """A safe loader whose keys are texts as they are written: a module may be called "no" or "1.10".

    It refuses a key that stands twice in one mapping, where YAML's own takes the last, and aliases, with which a few
    lines can stand for more than fits into memory.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias, a value that begins with *")
        node: yaml.Node | None = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and len(node.value) > LONGEST_VALUE:
            raise yaml.YAMLError(f"a value has more than {LONGEST_VALUE:,} characters")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: ARG002
        if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise yaml.YAMLError("a key is not a text")
        twice = next((key for key, count in Counter(key.value for key, _ in node.value).items() if count > 1), None)
        if twice is not None:
            raise yaml.YAMLError(f"'{twice}' stands there twice")
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


# YAML 1.1 takes 1e-3, as programs write small numbers, for a text.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


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
