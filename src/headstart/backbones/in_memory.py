"""A model that the caller has loaded: whether Headstart can run it as it is, and how it is left as it was."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Self

from peft import PeftMixedModel, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headstart.backbones.loading import DTYPES, check_tokenizer, family_of
from headstart.backbones.locating import name_of
from headstart.errors import BackboneError, of_type

__all__ = ["Flags", "check_model", "model_name"]


def check_model(model: Any, tokenizer: Any) -> None:
    """Raise `BackboneError` unless `Backbone` can run the model as it is, by the rules of `Backbone.load`."""
    if isinstance(model, PeftModel | PeftMixedModel):
        raise BackboneError(
            f"{of_type('model', model)}, a backbone with modules in it; read each module with load_module(model), then "
            "give the model alone, as Backbone.of(model.unload(), tokenizer)"
        )
    if not isinstance(model, PreTrainedModel):
        raise BackboneError(f"{of_type('model', model)}; give a transformers model, or load one with Backbone.load")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise BackboneError(
            f"{of_type('tokenizer', tokenizer)}; give the model's own, as AutoTokenizer.from_pretrained loads it"
        )
    made = type(model).__name__
    if any(isinstance(layer, BaseTunerLayer) for layer in model.modules()):
        raise BackboneError(f"{made} holds layers of PEFT; remove them with delete_adapter or unload, or load it anew")
    family, known = family_of(model.config, of=made)
    wanted = known[model.config.model_type]
    names = (wanted,) if isinstance(wanted, str) else wanted
    if not {base.__name__ for base in type(model).__mro__} & set(names):
        raise BackboneError(f"{made} is not {names[0]}, which Headstart runs; load the model with {family.__name__}")
    _check_weights(model, made)
    check_tokenizer(tokenizer, model, of=made)


def _check_weights(model: PreTrainedModel, made: str) -> None:
    """Modules are computed beside plain weight matrices, all on one device and in one dtype."""
    dtypes, devices = ({getattr(value, what) for value in model.parameters()} for what in ("dtype", "device"))
    odd = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes - set(DTYPES.values()))
    if odd or getattr(model, "hf_quantizer", None) is not None:
        raise BackboneError(
            f"{made} is quantized{f' ({odd[0]})' if odd else ''}, and modules are computed beside plain weights; "
            "load it without quantization"
        )
    if len(dtypes) > 1:
        several = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise BackboneError(f"{made} computes in {several}; give it one dtype, as model.to(torch.float32)")
    if len(devices) > 1 or any(device.type == "meta" for device in devices):
        raise BackboneError(f"{made} is not on one device; load it without device_map, or move it with model.to")


def model_name(model: PreTrainedModel) -> str:
    """The name of a backbone that was given without one: what it was loaded from, else its class."""
    origin = str(model.name_or_path or "")
    if not origin:
        return type(model).__name__
    # A folder that is gone by now still reveals nothing but its name.
    return name_of(origin) if origin.count("/") == 1 and not origin.startswith((".", "/")) else PurePath(origin).name


@dataclass(frozen=True)
class Flags:
    """Which parameters of a model collect gradients, and which of its layers are in training mode, by name."""

    tuned: frozenset[str]
    training: frozenset[str]

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self:
        """The flags as they are now."""
        tuned = frozenset(name for name, value in model.named_parameters() if value.requires_grad)
        return cls(tuned, frozenset(name for name, layer in model.named_modules() if layer.training))

    def restore(self, model: PreTrainedModel) -> None:
        """Set them as they were."""
        for name, value in model.named_parameters():
            value.requires_grad_(name in self.tuned)
        for name, layer in model.named_modules():
            layer.training = name in self.training

    @contextlib.contextmanager
    def restored_on_failure(self, model: PreTrainedModel) -> Iterator[None]:
        """Set them as they were if the block fails."""
        try:
            yield
        except BaseException:
            self.restore(model)
            raise
