"""Checks of folders that are broken or made for another backbone: each is refused, and the message says why."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from headstart.backbones import Backbone
from headstart.errors import HeadstartError, ModuleError
from headstart.kinds import Module, load_module, save_module
from headstart.testing.case import Aside, Case, Violation, require

__all__ = [
    "another_layer_count_is_refused",
    "extra_tensor_is_refused",
    "missing_tensor_is_refused",
    "nan_is_refused",
    "truncated_file_is_refused",
    "wrong_shape_is_refused",
]

Tensors = dict[str, Tensor]
EXTRA = "base_model.model.not.part.of.it"


def nan_is_refused(case: Case) -> None:
    """A NaN in any tensor."""

    def put(tensors: Tensors, name: str) -> Tensors:
        tensors[name].view(-1)[-1] = torch.nan
        return tensors

    _each_is_refused(case, put)


def missing_tensor_is_refused(case: Case) -> None:
    """A file without one of its tensors; the message names it, or the layer that it belongs to."""
    _each_is_refused(case, lambda tensors, name: {key: value for key, value in tensors.items() if key != name})


def extra_tensor_is_refused(case: Case) -> None:
    """A file with one more tensor."""
    folder = case.saved(case.module())
    _write(case, folder, {**_tensors(case, folder), EXTRA: torch.ones(3)})
    _require_refusal(case, folder, EXTRA)


def wrong_shape_is_refused(case: Case) -> None:
    """A tensor without the last entry of its longest dimension."""

    def cut(tensors: Tensors, name: str) -> Tensors:
        longest = max(range(tensors[name].ndim), key=lambda dim: tensors[name].shape[dim])
        return {**tensors, name: tensors[name].narrow(longest, 0, tensors[name].shape[longest] - 1)}

    _each_is_refused(case, cut)


def another_layer_count_is_refused(case: Case) -> None:
    """A module of a backbone with fewer or more layers, with its card, and without it if its tensors differ."""
    shallow, deep = case.module(), case.module(backbone=case.deeper)
    for name, module, backbone in (("shallow", shallow, case.deeper), ("deep", deep, case.backbone)):
        save_module(module, case.folder / f"{name}-with-card")
        _require_refusal(case, case.folder / f"{name}-with-card", "", backbone=backbone)
    if _shapes(shallow) == _shapes(deep):
        raise Aside("skipped", "without its card the module is the same for any number of layers")
    for name, module, backbone in (("shallow", shallow, case.deeper), ("deep", deep, case.backbone)):
        _require_refusal(case, case.saved(module, name), "", backbone=backbone)


def truncated_file_is_refused(case: Case) -> None:
    """A file of tensors cut in its header, in the middle, and before its last byte; the message names the file."""
    folder = case.saved(case.module())
    path = folder / case.module().weights_file
    whole = path.read_bytes()
    for end in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        _require_refusal(case, folder, path.name)


def _each_is_refused(case: Case, change: Callable[[Tensors, str], Tensors]) -> None:
    """If any tensor of a saved module is changed, the folder is refused and the message names that tensor."""
    folder = case.saved(case.module())
    whole = _tensors(case, folder)
    for name in whole:
        _write(case, folder, change({key: value.clone() for key, value in whole.items()}, name))
        _require_refusal(case, folder, name)
    _write(case, folder, whole)
    case.take(folder)  # otherwise the refusals would prove nothing


def _require_refusal(case: Case, folder: Path, named: str, *, backbone: Backbone | None = None) -> None:
    try:
        module = load_module(folder)
        module.check(backbone or case.backbone)
    except HeadstartError as error:
        require(isinstance(error, ModuleError), f"refused with {type(error).__name__} instead of ModuleError: {error}")
        require(_names(str(error), named, case.backbone), f"the refusal does not name {named}: {error}")
        return
    raise Violation(f"loaded without a word: {named or folder.name}")


def _names(message: str, tensor: str, backbone: Backbone) -> bool:
    """Whether the message has the tensor's name, or the path of the backbone's layer that the name begins with."""
    layers = {path for path, _ in backbone.model.named_modules() if path}
    layer = tensor.removeprefix("base_model.model.").removeprefix("base_model.")
    while layer and layer not in layers:
        layer = layer.rpartition(".")[0]
    return tensor in message or (layer != "" and layer in message)


def _shapes(module: Module) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _tensors(case: Case, folder: Path) -> Tensors:
    return load_file(folder / case.module().weights_file)


def _write(case: Case, folder: Path, tensors: Tensors) -> None:
    whole = {name: value.contiguous() for name, value in tensors.items()}
    save_file(whole, folder / case.module().weights_file, metadata={"format": "pt"})
