"""A module for other programs: its folder with the place of its backbone, or a backbone with the module in it."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headstart.atomic import refuse_existing, staged_folder
from headstart.backbones import Backbone, BackboneLike, as_backbone
from headstart.backbones.loading import quiet
from headstart.errors import ModuleError
from headstart.hub.model_card import inert
from headstart.hub.snippet import whole_model
from headstart.kinds.bitfit import BitFitModule
from headstart.kinds.contract import Module
from headstart.kinds.ia3 import IA3Module
from headstart.kinds.loading import ModuleLike, as_module, own_backbone
from headstart.kinds.lora import LoraModule
from headstart.showing import line, plural

__all__ = ["MergedWeights", "merged_weights", "save_merged"]


@dataclass(frozen=True, eq=False)
class MergedWeights:
    """The backbone's weights that a module changes, by name, changed and in the backbone's dtype.

    `rounding`: how far they are from the exact change because of that dtype, relative to the norm of the change; 0 if
    nothing changes.
    """

    tensors: Mapping[str, Tensor]
    rounding: float

    def __repr__(self) -> str:
        rounded = f"rounded by {self.rounding:.2g} of the change's norm"
        return line(type(self).__name__, plural(len(self.tensors), "tensor"), rounded)


def merged_weights(module: ModuleLike, backbone: BackboneLike | None = None) -> MergedWeights:
    """The weights of the backbone with the module merged into them: LoRA, IA3 and BitFit.

    `module` may be a folder or a result that holds one, such as that of `tune`. A backbone that is given by its path,
    or is the one that the module names (`None`), is loaded in float32 on the CPU, because bfloat16 rounds much of a
    merge away.

    Raises `ModuleError` for any other kind, for a module with a task head, for one that does not fit the backbone, and
    for a weight that two layers share, since a merge would change both.
    """
    read = as_module(module).load()
    return _merged(read, _exact(read, backbone))


def _exact(module: Module, given: BackboneLike | None) -> Backbone:
    return as_backbone(own_backbone(module) if given is None else given, device="cpu", dtype="float32")


def _merged(module: Module, backbone: Backbone) -> MergedWeights:
    module.check(backbone)
    change = _changes(module, backbone)
    _refuse_shared(change, module, backbone)
    tensors, off, moved = {}, 0.0, 0.0
    for name, made in change.items():
        old = backbone.model.get_parameter(name).detach().cpu()  # not every device computes in float64
        exact = made(old.double())
        tensors[name] = exact.to(old.dtype)
        off += float((tensors[name].double() - exact).square().sum())
        moved += float((exact - old.double()).square().sum())
    return MergedWeights(tensors, math.sqrt(off / moved) if moved else 0.0)


def save_merged(module: ModuleLike, folder: str | Path, backbone: BackboneLike | None = None) -> MergedWeights:
    """Write the backbone with the module merged into it, with tokenizer and generation settings, and a README.

    transformers, vLLM and others load the folder like any other model. Nothing of the backbone in memory changes.
    See `merged_weights` for what may be given, in which dtype a backbone's path is loaded, and what is raised; besides,
    `OutputError` if the folder exists or cannot be written.

    >>> hs.save_merged("my-hub/ada", "whole-model", "tiny-llama")
    MergedWeights(4 tensors; rounded by ... of the change's norm)
    """
    folder = Path(folder)
    refuse_existing(folder)
    module = as_module(module).load()
    backbone = _exact(module, backbone)
    merged = _merged(module, backbone)
    page = _readme(module, backbone, merged, folder=folder.name)
    with staged_folder(folder) as staging:
        weights = {name: value.cpu() for name, value in backbone.model.state_dict().items()} | dict(merged.tensors)
        with quiet(), _generation_saved_as_it_is(backbone.model, staging):
            backbone.model.save_pretrained(staging, state_dict=weights)
            backbone.tokenizer.save_pretrained(staging)
        (staging / "README.md").write_text(page, encoding="utf-8")
        for path in staging.iterdir():
            path.chmod(0o644)  # the weights are written for their owner alone
    return merged


@contextmanager
def _generation_saved_as_it_is(model: PreTrainedModel, folder: Path) -> Iterator[None]:
    """Write the generation settings beside what is saved inside: transformers saves none that contradict themselves.

    Those of many published models do, as a temperature for greedy answers; they load all the same.
    """
    own = getattr(model, "generation_config", None)
    if own is None:
        yield
        return
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
    own.to_json_file(folder / "generation_config.json")


Change = Callable[[Tensor], Tensor]
"""From a parameter in float64 on the CPU to the changed one."""


def _changes(module: Module, backbone: Backbone) -> dict[str, Change]:
    """What becomes of each parameter of the backbone, by name."""
    if module.head is not None or backbone.is_encoder:
        raise ModuleError(f"'{module.name}' answers through a task head, which no merge includes; leave out --merged")
    if isinstance(module, LoraModule):
        return dict(_lora(module, path, backbone) for path in module.factors)
    if isinstance(module, IA3Module):
        return {name: change for path in module.vectors for name, change in _ia3(module, path, backbone).items()}
    if isinstance(module, BitFitModule):
        return {name: _set_to(value) for name, value in module.values.items()}
    what = module.only_ranked or f"a module of kind {module.kind}"
    raise ModuleError(
        f"'{module.name}' is {what}, which cannot be merged into weights; leave out --merged and load it with PEFT"
    )


def _lora(module: LoraModule, path: str, backbone: Backbone) -> tuple[str, Change]:
    factors, layer = module.factors[path], backbone.model.get_submodule(path)
    update = factors.scaling * (factors.b.double() @ factors.a.double())
    if isinstance(layer, Conv1D | nn.Embedding):  # their weight matrices are (in, out)
        update = update.T
    return f"{path}.weight", lambda weight: weight + update


def _ia3(module: IA3Module, path: str, backbone: Backbone) -> dict[str, Change]:
    layer, factors = backbone.model.get_submodule(path), module.vectors[path].double()
    of_input = path in module.inputs
    # A column of a linear layer's weight belongs to an input, a row to an output; of a Conv1D's the other way round.
    columns = of_input != isinstance(layer, Conv1D)
    found: dict[str, Change] = {f"{path}.weight": lambda weight: weight * (factors if columns else factors[:, None])}
    if not of_input and getattr(layer, "bias", None) is not None:
        found[f"{path}.bias"] = lambda bias: bias * factors
    return found


def _set_to(value: Tensor) -> Change:
    return lambda _: value.double()


def _refuse_shared(names: Mapping[str, Change], module: Module, backbone: Backbone) -> None:
    owners: dict[int, list[str]] = {}
    for name, value in backbone.model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(value), []).append(name)
    for shared in owners.values():
        changed = [name for name in shared if name in names]
        if changed and len(shared) > 1:
            other = next(name for name in shared if name != changed[0])
            raise ModuleError(
                f"'{module.name}' changes {changed[0]}, which is {other} too, and a merge would change both; "
                "leave out --merged"
            )


UNCALIBRATED = (
    "Headstart compared this module's answers with a calibration, which weights cannot hold: likelihoods of this model "
    "favour some labels, and its answers may be worse than those of `headstart predict`."
)


def _readme(module: Module, backbone: Backbone, merged: MergedWeights, *, folder: str) -> str:
    card, dtype = module.card, str(backbone.dtype).removeprefix("torch.")
    backbone_name, name = inert(backbone.name), inert(card.name)
    made = (
        f"The weights of {backbone_name} with the {card.kind} module {name} merged into them by Headstart, in "
        f"{dtype}: rounded by {merged.rounding:.2g} of the change's norm."
    )
    layout = f"Prompts are {inert(card.text_format.words)}." if card.text_format else ""
    licence = f"The module's licence: {inert(card.license)}." if card.license else ""
    chosen = "" if card.calibration is None or card.calibration.method == "none" else UNCALIBRATED
    code = "\n".join(["```python", *whole_model(card, seq2seq=backbone.seq2seq, folder=folder), "```"])
    parts = [f"# {backbone_name} with {name}", made, layout, licence, chosen, "## Load it", code]
    return "\n\n".join(part for part in parts if part) + "\n"
