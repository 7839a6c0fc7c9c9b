"""What a PEFT IA3 module is, read from its configuration and its tensors' shapes; pure, without torch.

IA3 (Liu et al. 2022, section 3.3) multiplies activations by a learned vector: the output of keys and values, and the
input of the feed-forward network's last layer. PEFT stores the vector as (out, 1) or (1, in), so that the shape tells
which.
"""

import re
from collections.abc import Callable, Mapping

from headstart.errors import ModuleError
from headstart.formats.layout import Layout, Widths
from headstart.formats.libraries.peft_config import IDENTITY, PREFIX, SAVE_AGAIN, Fields
from headstart.formats.libraries.peft_layers import Names, Targets, well_formed

__all__ = ["FIELDS", "ia3_layout", "input_scaled"]

FIELDS = Fields(
    handled={"exclude_modules", "feedforward_modules", "target_modules"},
    harmless=IDENTITY | {
        "task_type",
        # how the vectors were initialized
        "init_ia3_weights",
        # how the layer stores its own weight: the vector has one orientation either way
        "fan_in_fan_out",
    },
    refused={"modules_to_save": "it carries whole layers, such as a classification head, beside the IA3 tensors"},
)  # fmt: skip
"""The fields of PEFT 0.21's IA3Config."""

SUFFIX = ".ia3_l"


def ia3_layout(config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """The layout of an IA3 module; see `FolderReader.layout`.

    The width that a layer's vector shows is the input's of a feed-forward layer and the output's of any other.
    """
    FIELDS.check(config)
    _check_names(config)
    stated = config.get("feedforward_modules")
    widths: dict[str, Widths] = {}
    with well_formed("the configuration"):
        named = Targets.of(config)
        scales_input = None if stated is None else input_scaled(stated)
    for name in sorted(shapes):
        layer = _layer(name)
        with well_formed(f"the configuration for layer '{layer}'"):
            if layer not in named:
                raise ModuleError(
                    f"the configuration does not target layer '{layer}', so PEFT would ignore tensor "
                    f"'{name}'; correct target_modules or exclude_modules"
                )
            feedforward = None if scales_input is None else scales_input(layer)
        widths[layer] = _widths(name, shapes[name], feedforward)
    return Layout(None, widths=widths)


def _check_names(config: Mapping[str, object]) -> None:
    """Refuse what PEFT refuses: a list of feed-forward layers that are not in the list of targets."""
    targets, feedforward = config.get("target_modules"), config.get("feedforward_modules")
    if isinstance(targets, list) and isinstance(feedforward, list):
        known = {name for name in targets if isinstance(name, str)}
        extra = next((name for name in feedforward if name not in known), None)
        if extra is not None:
            raise ModuleError(
                f"field 'feedforward_modules' names {extra!r}, which 'target_modules' lacks; "
                "add it there or remove it here"
            )


def _layer(name: str) -> str:
    layer = name.removeprefix(PREFIX).removesuffix(SUFFIX)
    if not name.startswith(PREFIX):
        raise ModuleError(f"tensor '{name}' does not begin with '{PREFIX}'; {SAVE_AGAIN}")
    if re.search(r"\.ia3_l\.[^.]+$", name):
        raise ModuleError(f"tensor '{name}' still carries its adapter's name; {SAVE_AGAIN}")
    if not name.endswith(SUFFIX) or not layer:
        raise ModuleError(
            f"tensor '{name}' is not part of an IA3 module; train the module without saved heads or embeddings"
        )
    return layer


def input_scaled(feedforward: object) -> Callable[[str], bool]:
    """A function that says whether PEFT 0.21 scales a layer's input with this feedforward_modules (plain endings).

    Raises `TypeError` if that is neither a regular expression nor a list or tuple of names, and what `Names.of` raises.
    """
    if isinstance(feedforward, str):
        return Names.of(feedforward).__contains__
    if not isinstance(feedforward, list | tuple) or not all(isinstance(item, str) for item in feedforward):
        raise TypeError(f"feedforward_modules {feedforward!r} is not a list of names")
    endings = tuple(feedforward)
    return lambda layer: layer.endswith(endings)


def _widths(name: str, shape: tuple[int, ...], feedforward: bool | None) -> Widths:
    if len(shape) != 2 or 1 not in shape or 0 in shape:
        raise ModuleError(f"tensor '{name}' has shape {shape}, not (out, 1) or (1, in); {SAVE_AGAIN}")
    by_shape = shape[0] == 1
    found = by_shape if feedforward is None else feedforward
    if found != by_shape and shape != (1, 1):
        raise ModuleError(
            f"tensor '{name}' has shape {shape} and so scales the layer's "
            f"{'input' if by_shape else 'output'}, but feedforward_modules says its {'input' if found else 'output'}; "
            "correct feedforward_modules"
        )
    return (max(shape), None) if found else (None, max(shape))
