"""What a BitFit module is, read from its configuration and its tensors' shapes; pure, without torch.

BitFit (Ben Zaken et al. 2022) tunes the backbone's own bias terms. PEFT has no such type, so the folder is Headstart's
own, laid out as PEFT would: `peft_type` "BITFIT", and tensors `base_model.model.<layer>.bias` that hold the tuned bias
terms themselves. `target_modules` lists names of layers as PEFT does; `null` means every bias term of the backbone.
"""

from collections.abc import Mapping

from headstart.errors import ModuleError
from headstart.formats.layout import Layout, Widths
from headstart.formats.libraries.peft_config import IDENTITY, PREFIX, Fields
from headstart.formats.libraries.peft_layers import Targets

__all__ = ["FIELDS", "bitfit_layout"]

FIELDS = Fields(handled={"target_modules"}, harmless=IDENTITY | {"fan_in_fan_out", "task_type"})

SUFFIX = ".bias"


def bitfit_layout(config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """The layout of a BitFit module; see `FolderReader.layout`. A bias does not show the input's width of its layer."""
    FIELDS.check(config)
    targets = config.get("target_modules")
    listed = isinstance(targets, list) and bool(targets) and all(isinstance(item, str) for item in targets)
    if targets is not None and not listed:
        raise ModuleError(
            f"field 'target_modules' is {targets!r}, not a list of layer names, or null for every bias term; correct it"
        )
    named = Targets.of(config)
    widths: dict[str, Widths] = {}
    for name, shape in sorted(shapes.items()):
        layer = name.removeprefix(PREFIX).removesuffix(SUFFIX)
        if not name.startswith(PREFIX) or not name.endswith(SUFFIX) or not layer:
            raise ModuleError(
                f"tensor '{name}' is not named '{PREFIX}<layer>{SUFFIX}', so it is not a bias term; remove it"
            )
        if len(shape) != 1 or 0 in shape:
            raise ModuleError(f"tensor '{name}' has shape {shape}, not one dimension; save the bias itself")
        if layer not in named:
            raise ModuleError(
                f"the configuration does not target layer '{layer}', which has tensor '{name}'; correct target_modules"
            )
        widths[layer] = (None, shape[0])
    return Layout(None, widths=widths)
